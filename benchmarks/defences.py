"""What each defence is worth on the digits: attacked by who ignores it, and by who knows it.

python benchmarks/defences.py [--only NAME,...] [--out FILE]

Trains the networks and parts on scikit-learn's digits (8x8, minutes on two cores), attacks each
guard with PGD in linf, and writes the figures that docs/defences.md shows. The oblivious attacker
runs PGD on the bare classifier, to its end. The adaptive one runs PGD on the whole guard from
several starts, with EOT where it is stochastic and BPDA where it declares itself hard to
differentiate, and orthogonal and selective PGD where it rejects; the worst over all of these, the
oblivious attack and the clean image counts, sample by sample.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from notsure import Classifier, Guard, data, evaluate, models
from notsure.attacks import FGSM, PGD, Attack, OrthogonalPGD, SelectivePGD
from notsure.core.state import seeded
from notsure.correctors import LogitSVM
from notsure.data import Split
from notsure.detectors import (
    LID,
    Confidence,
    DeepKNN,
    Detector,
    FeatureSqueezing,
    KDensity,
    LearnedCombination,
    LogOdds,
    Mahalanobis,
    NonMaximalEntropy,
    ProbabilityDivergence,
    ReconstructionError,
)
from notsure.evaluation import Records
from notsure.evaluation.intervals import Rate, wilson
from notsure.evaluation.threats import CLEAN
from notsure.purifiers import DefenseGAN, DenoisingAutoencoder, MagNet, Purifier, PuVAE
from notsure.training import (
    AdversarialTraining,
    Augmentation,
    CrossEntropy,
    LabelEmbedding,
    LabelSmoothing,
    LogitSqueezing,
    MixedAdversarialTraining,
    OutputVarianceMinimization,
    Recipe,
    ReverseCrossEntropy,
    Trades,
    TrainingObjective,
    retrofit,
    train,
)

OUT = Path(__file__).resolve().parents[1] / "src" / "notsure" / "defences.json"
COUNT, EPS, STEPS, RESTARTS, SEED, FPR = 300, 0.15, 40, 3, 0, 0.05
L2 = 1.0
"""The radius of the l2 ball in mixed training."""


class Workshop:
    """The digits, and the parts made of them so far."""

    def __init__(self) -> None:
        self.split: Split = data.load("digits")
        self._networks: dict[str, Classifier] = {}
        self._purifiers: dict[str, Purifier] = {}

    def network(
        self,
        name: str,
        objective: TrainingObjective,
        *,
        noise: float = 0.0,
        architecture: str = "digits_cnn",
        **arguments: Any,
    ) -> Classifier:
        """A network trained towards an objective, once for all who ask by that name."""
        if name not in self._networks:
            with seeded(SEED):
                module = models.build(architecture, **arguments)
            classifier = Classifier(module, reverse_logits=bool(objective.reverse_logits))
            recipe = Recipe(
                epochs=30,
                batch_size=64,
                optimizer="adamw",
                learning_rate=3e-3,
                weight_decay=1e-4,
                schedule="one-cycle",
                precision="fp32",
                augmentation=Augmentation(noise=noise),
                seed=SEED,
            )
            train(classifier, self.split.train, objective=objective, recipe=recipe, progress=False)
            self._networks[name] = classifier
        return self._networks[name]

    @property
    def base(self) -> Classifier:
        """The undefended network."""
        return self.network("cross-entropy", CrossEntropy())

    def purifier(self, kind: type[Purifier]) -> Purifier:
        """A trained purifier, once for all who ask."""
        if kind.__name__ not in self._purifiers:
            if kind is DefenseGAN:
                # each of an attack's passes is a search of its own
                made: Purifier = DefenseGAN(generator=self.puvae, steps=20)
            else:
                # the reports' sizes and epochs are for images of ten times as many pixels
                small: Any = {"latent": 16, "width": 16, "dense": 256, "architecture": "D"}
                made = PuVAE(**small) if kind is PuVAE else kind()
                recipe = Recipe(
                    epochs=40,
                    batch_size=32,
                    optimizer="adamw",
                    learning_rate=4e-3,
                    weight_decay=0,
                    schedule="one-cycle",
                    precision="fp32",
                    seed=SEED,
                )
                made.fit(self.split.train, classifier=self.base, recipe=recipe, progress=False)
            self._purifiers[kind.__name__] = made
        return self._purifiers[kind.__name__]

    @property
    def puvae(self) -> PuVAE:
        """The trained PuVAE."""
        made = self.purifier(PuVAE)
        if not isinstance(made, PuVAE):
            raise TypeError(type(made))
        return made

    def guard(self, classifier: Classifier, *detectors: Detector, **parts: Any) -> Guard:
        """A guard, fitted and calibrated where there is something to."""
        guard = Guard(classifier, detectors, **parts)
        if detectors:
            guard.fit(self.split.train, attack=FGSM(eps=EPS))
            guard.calibrate(self.split.calibration, fpr=FPR)
        return guard


def guards() -> dict[str, Callable[[Workshop], Guard]]:
    """Every defence by its name, built when it is its turn."""
    inner = PGD(eps=EPS, steps=10)
    wide = PGD(norm="l2", eps=L2, steps=10)
    terms: dict[str, TrainingObjective] = {
        "cross-entropy": CrossEntropy(),
        "ReverseCrossEntropy": ReverseCrossEntropy(),
        "LabelSmoothing(0.4)": CrossEntropy() + LabelSmoothing(weight=0.4),
        "LogitSqueezing(0.4)": CrossEntropy() + LogitSqueezing(weight=0.4),
        "OutputVarianceMinimization(1)": CrossEntropy() + OutputVarianceMinimization(weight=1.0),
        "AdversarialTraining": AdversarialTraining(attack=inner, alpha=0.5),
        "AdversarialTraining.fast": AdversarialTraining.fast(eps=EPS),
        "MixedAdversarialTraining(rand)": MixedAdversarialTraining(
            attacks=(inner, wide), mode="rand", alpha=0.5
        ),
        "MixedAdversarialTraining(max)": MixedAdversarialTraining(
            attacks=(inner, wide), mode="max", alpha=0.5
        ),
        "Trades(6)": Trades(attack=inner, beta=6.0),
    }

    def trained(name: str, objective: TrainingObjective) -> Callable[[Workshop], Guard]:
        return lambda shop: shop.guard(shop.network(name, objective))

    def detecting(make: Callable[[Workshop], Detector]) -> Callable[[Workshop], Guard]:
        return lambda shop: shop.guard(shop.base, make(shop))

    def purifying(kind: type[Purifier]) -> Callable[[Workshop], Guard]:
        return lambda shop: shop.guard(shop.base, purifier=shop.purifier(kind))

    found = {name: trained(name, objective) for name, objective in terms.items()}
    found["Gaussian noise in training (0.1)"] = lambda shop: shop.guard(
        shop.network("noise", CrossEntropy(), noise=0.1)
    )
    found["LabelEmbedding"] = lambda shop: shop.guard(
        shop.network(
            "embedding",
            LabelEmbedding.from_confusion(shop.base, shop.split.train, temperature=0.3),
        )
    )
    found["Randomized(0.2)"] = lambda shop: shop.guard(
        shop.network(
            "randomized", CrossEntropy(), architecture="randomized", of="digits_cnn", sigma=0.2
        )
    )
    found["JumpReLU (retrofit)"] = lambda shop: shop.guard(
        retrofit(shop.base, shop.split.calibration, accuracy_loss=0.01)
    )
    for kind in (DenoisingAutoencoder, MagNet, PuVAE, DefenseGAN):
        found[kind.__name__] = purifying(kind)
    makers: dict[str, Callable[[Workshop], Detector]] = {
        "Confidence": lambda _: Confidence(),
        "NonMaximalEntropy": lambda _: NonMaximalEntropy(),
        "KDensity": lambda _: KDensity(),
        "Mahalanobis": lambda _: Mahalanobis(),
        "LID": lambda _: LID(),
        "DeepKNN": lambda _: DeepKNN(),
        "FeatureSqueezing": lambda _: FeatureSqueezing(),
        "LogOdds": lambda _: LogOdds(),
        "ReconstructionError": lambda shop: ReconstructionError(
            of=shop.purifier(DenoisingAutoencoder)
        ),
        "ProbabilityDivergence": lambda shop: ProbabilityDivergence(
            of=shop.purifier(DenoisingAutoencoder)
        ),
        "LearnedCombination": lambda _: LearnedCombination(
            detectors={"K-density": KDensity(), "confidence": Confidence()}
        ),
    }
    found |= {name: detecting(make) for name, make in makers.items()}
    found["ReverseCrossEntropy + KDensity"] = lambda shop: shop.guard(
        shop.network("ReverseCrossEntropy", ReverseCrossEntropy()), KDensity()
    )
    found["PuVAE + ReconstructionError"] = lambda shop: shop.guard(
        shop.base, ReconstructionError(), purifier=shop.puvae
    )
    found["LogOdds + LogitSVM"] = lambda shop: shop.guard(
        shop.base, LogOdds(), corrector=LogitSVM()
    )
    found["AdversarialTraining + KDensity + ReconstructionError"] = lambda shop: shop.guard(
        shop.network("AdversarialTraining", terms["AdversarialTraining"]),
        KDensity(),
        ReconstructionError(of=shop.purifier(DenoisingAutoencoder)),
    )
    return found


def measured(name: str, guard: Guard, split: Split) -> dict[str, Any]:
    """The row of a guard."""
    x, y = split.test.x[:COUNT], split.test.labels[:COUNT]
    plain, strong = PGD(eps=EPS, steps=STEPS), PGD(eps=EPS, steps=STEPS, restarts=RESTARTS)
    oblivious = evaluate(guard, x, y, attacks=[plain], threats=["oblivious"], seed=SEED)
    attacks: list[Attack] = [strong]
    if guard.rejects:
        attacks += [
            kind(eps=EPS, steps=STEPS, restarts=RESTARTS) for kind in (OrthogonalPGD, SelectivePGD)
        ]
    adaptive = evaluate(guard, x, y, attacks=attacks, threats=["white-box"], seed=SEED)
    clean = oblivious.where(threat=CLEAN)
    under = oblivious.where(threat="oblivious")
    runs = [
        adaptive.where(threat="white-box", attack_id=attack_id)
        for (attack_id,) in adaptive.where(threat="white-box").distinct("attack_id")
    ]
    right = clean.column("accepted") & (clean.column("prediction") == clean.column("y"))
    flagged = ~clean.column("accepted")
    if guard.corrector is not None:
        flagged = guard.judge(x).corrected.cpu().numpy()
    ignorant = ~(_fooled(under) | _fooled(clean))
    knowing = ignorant & ~np.any([_fooled(run) for run in runs], axis=0)
    return {
        "guard": name,
        "clean_accuracy": _rate(right),
        "clean_flagged": _rate(flagged),
        "robust_oblivious": _rate(ignorant),
        "robust_adaptive": _rate(knowing),
    }


def _fooled(records: Records) -> Any:
    order = np.argsort(records.column("index"), kind="stable")
    fooled = records.column("accepted") & (records.column("prediction") != records.column("y"))
    return fooled[order]


def _rate(mask: Any) -> dict[str, float]:
    rate: Rate = wilson(int(mask.sum()), len(mask))
    return {key: round(getattr(rate, key), 4) for key in ("value", "low", "high")}


def about() -> str:
    """How the figures were made."""
    return (
        f"Figures of `python benchmarks/defences.py`: scikit-learn's digits (8x8), n = {COUNT} "
        f"test images, PGD in linf with eps = {EPS} and {STEPS} steps, seed {SEED}, detectors "
        f"calibrated to flag {FPR:.0%} of clean images. Robust accuracy counts a rejected image as "
        "safe (lenient); in brackets 95 % intervals. Adaptive is the worst, image by image, over "
        "the clean image, the oblivious attack and those that know the guard."
    )


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names, with commas; the others keep what they have")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    makers, shop = guards(), Workshop()
    wanted = arguments.only.split(",") if arguments.only else list(makers)
    unknown = sorted(set(wanted) - set(makers))
    if unknown:
        raise SystemExit(f"There is no {', '.join(unknown)}. There are: {', '.join(makers)}")
    rows: dict[str, Any] = {}
    if arguments.out.exists():
        rows = {row["guard"]: row for row in json.loads(arguments.out.read_text())["rows"]}
    for name in wanted:
        began = time.monotonic()
        rows[name] = measured(name, makers[name](shop), shop.split)
        spent = time.monotonic() - began
        print(f"{name}: {spent:.0f} s {json.dumps(rows[name])}", flush=True)  # noqa: T201
        ordered = [rows[key] for key in makers if key in rows]
        text = json.dumps({"about": about(), "rows": ordered}, indent=1)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
