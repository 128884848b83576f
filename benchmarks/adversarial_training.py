"""What adversarial training costs above the passes that it cannot do without.

python benchmarks/adversarial_training.py

A training step on PGD-40 images cannot do without 40 forward and backward passes to the input and
one to the weights, a step of the fast training without one of each. Both are timed against these
bare passes, in turns, on Madry et al.'s MNIST network with batches of 128; the ratio of the medians
(bare / training) has to be at least 0.85.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure import Classifier, models
from notsure.attacks import PGD
from notsure.core.state import seeded
from notsure.training import AdversarialTraining, TrainingObjective
from notsure.training.loop import Step
from notsure.training.objectives import Batch

WANTED = 0.85


class Bench:
    """A network in training and a batch.

    Args:
        batch_size: how many images.
    """

    def __init__(self, batch_size: int) -> None:
        with seeded(0):
            module = models.build("madry_cnn", in_channels=1, size=28)
        self.classifier = Classifier(module.to(memory_format=torch.channels_last)).train()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(batch_size, 1, 28, 28, generator=generator)
        self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.y = torch.randint(0, 10, (batch_size,), generator=generator)

    def bare(self, steps: int) -> None:
        """So many passes to the input, then one to the weights."""
        for _ in range(steps):
            variable = self.x.clone().requires_grad_()
            loss = F.cross_entropy(self.classifier(variable), self.y)
            torch.autograd.grad(loss, variable)
        self.classifier.zero_grad(set_to_none=True)
        F.cross_entropy(self.classifier(self.x), self.y).backward()  # type: ignore[no-untyped-call]

    def training(self, objective: TrainingObjective) -> None:
        """One step of a training, without the optimizer's."""
        batch = Batch(Step(self.classifier, self.x, self.y, 0, bf16=False), self.classifier)
        self.classifier.zero_grad(set_to_none=True)
        objective.loss(batch).mean().backward()  # type: ignore[no-untyped-call]


def seconds(run: Callable[[], None]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0 leaves them")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.batch)
    attack = PGD(eps=0.3, steps=arguments.steps)
    trainings = {
        f"PGD-{arguments.steps}": (arguments.steps, AdversarialTraining(attack=attack, alpha=0.0)),
        "fast": (1, AdversarialTraining.fast(0.3)),
    }
    for name, (steps, objective) in trainings.items():
        bare: list[float] = []
        trained: list[float] = []
        for number in range(arguments.rounds + 1):
            runs = [
                (bare, lambda steps=steps: bench.bare(steps)),
                (trained, lambda objective=objective: bench.training(objective)),
            ]
            for times, run in runs if number % 2 else reversed(runs):
                times.append(seconds(run))
        # the first round warms up
        limit, took = statistics.median(bare[1:]), statistics.median(trained[1:])
        verdict = "enough" if limit / took >= WANTED else f"less than {WANTED}"
        print(  # noqa: T201
            f"{name}: {took:.3f} s a step, {steps + 1} bare passes {limit:.3f} s, "
            f"ratio {limit / took:.3f}: {verdict}"
        )


if __name__ == "__main__":
    main()
