"""Five guards of which the field knows how they stand, before the examiner, on MNIST.

python benchmarks/known_guards.py --data ../shared/data/mnist [--only kdensity,...] [--out DIR]

K-density on a network trained with cross-entropy (broken by the detector-aware C&W), MagNet (broken
in white-box), a network with saturated logits (its gradients are zero: flagged), an adversarially
trained network (holds) and a randomized one (holds inside its certificate). Networks are trained
where they have not been (`benchmarks/networks.py`); an interrupted run goes on where it was.
Writes the records, and what the examiner concludes of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from networks import network
from torch import nn

from notsure import Classifier, Guard, data, evaluate, models
from notsure.attacks import FGSM, PGD, Attack, CarliniWagner, RandomNoise, SelectivePGD, Square
from notsure.core.state import seeded
from notsure.core.storage import load_tensors, save_json, save_tensors
from notsure.data import Split
from notsure.detectors import KDensity, ReconstructionError
from notsure.evaluation import Certified, Records, conclusions
from notsure.models import Randomized
from notsure.purifiers import Autoencoder, MagNet
from notsure.smoothing import certify
from notsure.training import (
    AdversarialTraining,
    Augmentation,
    CrossEntropy,
    Recipe,
    TrainingObjective,
    train,
)

EPS, FPR, SEED, COUNT = 0.3, 0.01, 0, 500
SIGMA = 0.5
"""Standard deviation of the noise of the randomized network, in [0,1] pixel units."""

L2 = 3.0
"""A radius in l2 that leaves digits readable; Carlini & Wagner 2017 c break MagNet within 2.3."""
EPOCHS = 2
TRAINED_ON = PGD(eps=EPS, steps=7, step_size=0.1)

Attacks = Mapping[str, Sequence[Attack]]


@dataclass(frozen=True)
class Known:
    """A guard, what attacks it, and what is known of it."""

    guard: Guard
    attacks: Attacks
    known: str
    count: int = COUNT


class Workshop:
    """MNIST, and where trained parts are kept."""

    def __init__(self, source: str, folder: Path) -> None:
        self.source, self.folder = source, folder
        self.split: Split = data.load(source)

    def madry(
        self,
        name: str = "madry",
        objective: TrainingObjective | None = None,
        *,
        start: str | None = None,
        noise: float = 0.0,
    ) -> Classifier:
        """Madry et al.'s network: one of the benchmarks', or trained on, from that or afresh."""
        if objective is None:
            return network(name, self.source, self.folder)
        with seeded(SEED):
            module = models.build("madry_cnn", in_channels=1, size=28)
        classifier = Classifier(module.to(memory_format=torch.channels_last))
        if start is not None:
            module.load_state_dict(self.madry(start).module.state_dict())
        path = self.folder / f"{name}.safetensors"
        if path.exists():
            module.load_state_dict(load_tensors(path)[0])
            return classifier.eval()
        recipe = Recipe(
            epochs=EPOCHS,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=1e-4,
            schedule="one-cycle",
            precision="fp32",
            augmentation=Augmentation(noise=noise),
            seed=SEED,
        )
        checkpoint = self.folder / f"{name}.checkpoint"
        train(
            classifier,
            self.split.train,
            objective=objective,
            recipe=recipe,
            checkpoint=checkpoint,
        )
        save_tensors(path, module.state_dict())
        return classifier.eval()

    def magnet(self) -> MagNet:
        """MagNet's reformer with a single autoencoder, so that nothing is left to chance."""
        path = self.folder / "magnet.safetensors"
        if not path.exists():
            recipe = Autoencoder.recipe
            made = MagNet(count=1, seed=SEED)
            made.fit(self.split.train, recipe=Recipe(**{**vars(recipe), "epochs": 3}))
            made.save(path)
        return MagNet.load(path)

    def calibrated(self, guard: Guard) -> Guard:
        """The guard, fitted on training data and calibrated on data of its own."""
        return guard.fit(self.split.train).calibrate(self.split.calibration, fpr=FPR)


class Saturated(nn.Module):
    """A network whose logits are ten thousand times as large: softmax has no gradient left."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        logits: torch.Tensor = self.network(x) * 1e4
        return logits


def _nearest(confidence: float = 0.0) -> CarliniWagner:
    """C&W with fewer rounds and steps than published, which start where c matters."""
    return CarliniWagner(
        steps=200, binary_search_steps=5, initial_constant=1.0, confidence=confidence
    )


def kdensity(workshop: Workshop) -> Known:
    """Pang's baseline: looks good to whoever ignores it."""
    guard = workshop.calibrated(Guard(workshop.madry(), [KDensity()]))
    attacks: Attacks = {
        "oblivious": [_nearest(confidence=10.0), PGD(eps=EPS)],
        "white-box": [_nearest(), PGD(eps=EPS, restarts=2), SelectivePGD(eps=EPS)],
    }
    return Known(guard, attacks, "broken", count=100)


def magnet(workshop: Workshop) -> Known:
    """Meng & Chen's reformer with its detector."""
    classifier, purifier = workshop.madry(), workshop.magnet()
    guard = Guard(classifier, [ReconstructionError()], purifier=purifier)
    attacks: Attacks = {
        "oblivious": [FGSM(eps=EPS), PGD(eps=EPS)],
        "white-box": [
            PGD(eps=EPS, steps=100, restarts=2),
            SelectivePGD(eps=EPS, steps=100, restarts=2),
            PGD(norm="l2", eps=L2, steps=100),
            _nearest(),
        ],
    }
    return Known(workshop.calibrated(guard), attacks, "broken", count=100)


def saturated(workshop: Workshop) -> Known:
    """Looks robust, since its gradients are zero."""
    guard = Guard(Classifier(Saturated(workshop.madry().module)))
    attacks: Attacks = {
        "white-box": [PGD(eps=EPS), RandomNoise(eps=EPS, restarts=10)],
        "query-scores": [Square(eps=EPS, queries=200)],
    }
    return Known(guard, attacks, "flagged")


def adversarial(workshop: Workshop) -> Known:
    """Madry et al.'s training."""
    guard = Guard(
        workshop.madry(
            "adversarial", AdversarialTraining(attack=TRAINED_ON, alpha=0), start="robust"
        )
    )
    attacks: Attacks = {
        "white-box": [PGD(eps=eps, restarts=3) for eps in (0.1, 0.2, EPS)],
        "query-scores": [Square(eps=EPS, queries=500)],
    }
    return Known(guard, attacks, "holds")


def smoothed(workshop: Workshop) -> Known:
    """Cohen et al.'s smoothing, answered by vote."""
    inner = workshop.madry("noisy", CrossEntropy(), noise=SIGMA)
    noisy = Classifier(Randomized(inner.module, sigma=SIGMA))
    attacks = {"white-box": [PGD(norm="l2", eps=eps, steps=20) for eps in (0.25, 0.5)]}
    return Known(Guard(noisy), attacks, "holds inside its certificate", count=100)


GUARDS: dict[str, Callable[[Workshop], Known]] = {
    "kdensity": kdensity,
    "magnet": magnet,
    "saturated": saturated,
    "adversarial": adversarial,
    "smoothed": smoothed,
}


def examined(name: str, workshop: Workshop, out: Path) -> tuple[Known, Records]:
    """The records of one guard."""
    known = GUARDS[name](workshop)
    test = workshop.split.test.select(slice(0, known.count))
    records = evaluate(
        {name: known.guard},
        test.x,
        test.y,
        attacks=known.attacks,
        threats=list(known.attacks),
        seed=SEED,
        data="MNIST",
        class_names=test.class_names,
        out=out / name,
        progress=True,
    )
    return known, records


def certified(known: Known, name: str, workshop: Workshop, out: Path) -> dict[str, Certified]:
    """The certificate of a randomized network, which is written as well."""
    if not known.guard.classifier.stochastic:
        return {}
    x = workshop.split.test.select(slice(0, known.count)).x
    certificate = certify(known.guard.classifier, x, seed=SEED)
    told = {"radius": certificate.radius.tolist(), "label": certificate.label.tolist()}
    save_json(out / name / "certificate.json", told)
    return {name: Certified(**told)}


def main() -> None:
    """Examines, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="where MNIST is")
    parser.add_argument("--networks", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=Path("runs/known-guards"))
    parser.add_argument("--only", help=f"some of {','.join(GUARDS)}; default all")
    arguments = parser.parse_args()
    arguments.networks.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(arguments.data, arguments.networks)
    for name in arguments.only.split(",") if arguments.only else GUARDS:
        known, records = examined(name, workshop, arguments.out)
        certificates = certified(known, name, workshop, arguments.out)
        for one in conclusions(records, certificates):
            print(f"{name}, known: {known.known}. {one.judgement}: {one.because}")  # noqa: T201


if __name__ == "__main__":
    main()
