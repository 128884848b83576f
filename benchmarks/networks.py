"""The networks that the benchmarks attack, trained once and kept in a folder.

python benchmarks/networks.py --data ../shared/data/mnist --out runs/benchmarks

`madry` is Madry et al.'s MNIST network, trained on clean images; `robust` is the same network
trained on PGD-5 examples at eps 0.3 in linf, the ball growing over the first half; `resnet32` is
pang's network, trained on clean images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure import Classifier, data, models
from notsure.core.progress import progress_bar
from notsure.core.state import seeded
from notsure.core.storage import load_tensors, save_tensors
from notsure.training import CrossEntropy, Recipe, train

NAMES = ("madry", "resnet32", "robust")
ARCHITECTURES = {"madry": "madry_cnn", "robust": "madry_cnn", "resnet32": "resnet32"}
EPS, STEPS, EPOCHS = 0.3, 5, 1


def network(name: str, source: str, folder: Path) -> Classifier:
    """The classifier of that name, trained where it has not been."""
    with seeded(0):
        module = models.build(ARCHITECTURES[name], in_channels=1, size=28)
    module.to(memory_format=torch.channels_last)
    path = folder / f"{name}.safetensors"
    if path.exists():
        module.load_state_dict(load_tensors(path)[0])
        return Classifier(module).eval()
    folder.mkdir(parents=True, exist_ok=True)
    classifier = Classifier(module)
    images = data.load(source).train
    if name == "robust":
        train_robustly(classifier, images)
    else:
        recipe = Recipe(epochs=1 if name == "resnet32" else 4, learning_rate=0.05, precision="fp32")
        train(classifier, images, objective=CrossEntropy(), recipe=recipe)
    save_tensors(path, module.state_dict())
    return classifier.eval()


def train_robustly(classifier: Classifier, images: data.Images) -> None:
    """PGD-5 from a random start, steps of eps / 3, with a one-cycle schedule."""
    generator = torch.Generator().manual_seed(0)
    x, y = images.x, images.y
    per_epoch = len(x) // 128
    steps = EPOCHS * per_epoch
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    classifier.train()
    with progress_bar("adversarial training", steps) as advance:
        for step in range(steps):
            if step % per_epoch == 0:
                order = torch.randperm(len(x), generator=generator)
            rows = order[(step % per_epoch) * 128 :][:128]
            clean, labels = x[rows], y[rows]
            eps = EPS * min(1.0, 2 * (step + 1) / steps)
            low, high = (clean - eps).clamp(0, 1), (clean + eps).clamp(0, 1)
            noise = (torch.rand(clean.shape, generator=generator) * 2 - 1) * eps
            moved = (clean + noise).clamp(0, 1)
            for _ in range(STEPS):
                moved.requires_grad_()
                loss = F.cross_entropy(classifier(moved), labels)
                (gradient,) = torch.autograd.grad(loss, moved)
                moved = moved.detach() + eps / 3 * gradient.sign()
                moved = torch.minimum(torch.maximum(moved, low), high)
            loss = F.cross_entropy(classifier(moved), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance(1, f"loss {loss.item():.3f}" if step % 50 == 0 else "")


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    for name in NAMES:
        network(name, arguments.data, arguments.out)


if __name__ == "__main__":
    main()
