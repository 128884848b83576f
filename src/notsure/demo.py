"""The main job in one call: train, guard, attack under two threats, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from notsure import data, models
from notsure.attacks import BIM, FGSM, ILCM, PGD, Attack
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.core.state import seeded
from notsure.core.storage import writable_folder
from notsure.data import Images
from notsure.detectors import Confidence, Detector, KDensity, NonMaximalEntropy
from notsure.evaluation import Records, evaluate
from notsure.guard import Guard
from notsure.report import write_report
from notsure.training import CrossEntropy, Recipe, ReverseCrossEntropy, TrainingObjective, train

OBJECTIVES: dict[str, TrainingObjective] = {"CE": CrossEntropy(), "RCE": ReverseCrossEntropy()}

DETECTORS: dict[str, Callable[[], Detector]] = {
    "K-density": KDensity,
    "confidence": Confidence,
    "non-ME": NonMaximalEntropy,
}

EPS = (0.1, 0.2, 0.3)
"""The linf budgets of the demo, up to the customary one of MNIST."""

EPS_OF_SMALL_IMAGES = (0.05, 0.1, 0.15, 0.2)
"""Those for images of less than 20 pixels a side, in which a pixel says more."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a demo leaves.

    Attributes:
        records: what happened to every image.
        folder: where everything is: records.parquet, report.html, split.json, the checkpoints of
            the networks and the guards' folders.
    """

    records: Records
    folder: Path


def run_demo(
    source: str = "digits",
    out: str | Path = "runs/demo",
    *,
    architecture: str | None = None,
    epochs: int | None = None,
    count: int = 500,
    eps: Sequence[float | str] | None = None,
    detectors: Sequence[str] = ("K-density",),
    fpr: float = 0.01,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Trains two networks (CE and RCE), guards them, attacks the guards and writes the report.

    Interrupted, it goes on with the training where it left off when it is called again.

    Args:
        source: what `notsure.data.load` takes; "digits" needs nothing downloaded.
        out: the folder to write to.
        architecture: a name from `notsure.models.names()`; by default one that suits the images.
        epochs: how long each network is trained; by default as long as suits the architecture.
        count: how many test images are attacked, the first ones; clean figures are over the same.
        eps: linf budgets, each attack runs with all of them; by default some that suit the images.
        detectors: "K-density", "confidence", "non-ME"; a guard is made of each.
        fpr: the share of clean images that a guard may reject.
        seed: of weights, training and attacks.
        progress: whether to show progress bars.

    Returns:
        The records and the folder.

    Raises:
        NotSureError: anything that does not fit, with its cause and remedy.
    """
    unknown = [name for name in detectors if name not in DETECTORS]
    if unknown or not detectors:
        raise ConfigurationError(f"detectors are some of {', '.join(DETECTORS)}; got {unknown}.")
    if count < 1 or (epochs is not None and epochs < 1):
        raise ConfigurationError(f"count and epochs are at least 1; got {count} and {epochs}.")
    # budgets that do not fit are told before anything is loaded or trained
    attacks = [attack for one in eps or () for attack in _attacks(one)]
    folder = writable_folder(out)
    split = data.load(source)
    if not attacks:
        suitable = EPS_OF_SMALL_IMAGES if _small(split.train) else EPS
        attacks = [attack for one in suitable for attack in _attacks(one)]
    split.record.save(folder / "split.json")
    architecture = architecture or _suitable(split.train)
    recipe = default_recipe(architecture, epochs, seed)
    guards: dict[str, Guard] = {}
    for name in OBJECTIVES:
        classifier = trained_classifier(
            name,
            split.train,
            architecture=architecture,
            recipe=recipe,
            checkpoint=folder / f"{name.lower()}.safetensors",
            progress=progress,
        )
        for detector in detectors:
            guard = Guard(classifier, {detector: DETECTORS[detector]()})
            guard.fit(split.train, progress=progress).calibrate(split.calibration, fpr=fpr)
            guard.save(folder / f"{name} {detector}".lower().replace(" ", "-"))
            guards[f"{name} + {detector}"] = guard
    test = split.test.select(slice(0, count))
    records = evaluate(
        guards,
        test.x,
        test.y,
        attacks=attacks,
        seed=seed,
        data=Path(source).name,
        class_names=test.class_names,
        progress=progress,
    )
    records.write(folder / "records.parquet")
    write_report(records, folder / "report.html")
    return Result(records=records, folder=folder)


def _attacks(eps: float | str) -> list[Attack]:
    return [FGSM(eps=eps), BIM(eps=eps), ILCM(eps=eps), PGD(eps=eps, steps=20)]


def _small(images: Images) -> bool:
    return images.size < 20


def _suitable(images: Images) -> str:
    return "digits_cnn" if _small(images) else "madry_cnn"


def default_recipe(architecture: str, epochs: int | None, seed: int) -> Recipe:
    """A recipe that suits the architecture; `epochs` overrides how long it trains."""
    if architecture.startswith("resnet"):
        # pang B.1's optimizer; one short cycle in place of its 20,000 steps of piecewise rates
        return Recipe(epochs=epochs or 4, learning_rate=0.1, schedule="one-cycle", seed=seed)
    small = architecture == "digits_cnn"
    return Recipe(
        epochs=epochs or (30 if small else 4),
        optimizer="adamw",
        learning_rate=3e-3 if small else 1e-3,
        weight_decay=1e-4,
        batch_size=64 if small else 128,
        schedule="one-cycle",
        precision="fp32",
        seed=seed,
    )


def trained_classifier(
    name: str,
    images: Images,
    *,
    architecture: str,
    recipe: Recipe,
    checkpoint: Path,
    progress: bool,
) -> Classifier:
    """A network trained with the objective of that name, or read from a finished checkpoint."""
    objective = OBJECTIVES[name]
    with seeded(recipe.seed):
        module = models.build(
            architecture,
            num_classes=images.num_classes,
            in_channels=images.in_channels,
            size=images.size,
        )
    # pang scales images to [-0.5, 0.5]
    classifier = Classifier(
        module, mean=0.5, std=1.0, reverse_logits=bool(objective.reverse_logits)
    )
    train(
        classifier,
        images,
        objective=objective,
        recipe=recipe,
        checkpoint=checkpoint,
        progress=progress,
    )
    return classifier
