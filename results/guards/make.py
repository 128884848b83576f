"""Makes the choices beside this file: a network is trained, guarded, and the guard examined again.

python results/guards/make.py [NAME ...] [--data path/to/mnist] [--standard] [--runs runs/guards]
python results/guards/make.py --data path/to/mnist --other path/to/fashion_mnist

NAME is one of RUNS, by default all. What is done already is gone on with. With --standard the guard
that was chosen is attacked by the standard suite as well. The second line counts how many images of
no class are rejected. Then `python results/guards/guards_tables.py` writes the tables of
docs/guards.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import notsure as ns
from notsure.adapters import load_split
from notsure.choosing import BARE, candidates, load_guard
from notsure.choosing.fitting import drawn
from notsure.choosing.inputs import of_training
from notsure.choosing.telling import worst_cases
from notsure.core.state import seeded
from notsure.core.storage import load_json
from notsure.evaluation import conclusions
from notsure.evaluation.intervals import rate_of
from notsure.training import CrossEntropy, Recipe, ReverseCrossEntropy
from notsure.training import TrainingObjective as Objective

HERE = Path(__file__).resolve().parent
GARBAGE = "garbage.json"
SMALL = "--detector auto --purifier none --purifier denoiser --fpr 0.05 --eps 0.1 --eps 0.15"
CHEAP = ("confidence", "kdensity", "non-me", "mahalanobis", "lid", "deep-knn")
"""The detectors that ask the network nothing more."""

GREY = (
    " ".join(f"--detector {one}" for one in CHEAP)
    + " --fpr 0.01 --eps 0.1 --eps 0.3 --count 90 --fit-count 12000"
)
HARDER = 100
"""How many test images the standard suite attacks."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A network and the guard that is chosen for it.

    Attributes:
        architecture: its name in `notsure.models`.
        objective: what it is trained towards.
        told: the same in words.
        recipe: how.
        options: of `notsure guard fit`.
        fit_count: how many images of the published training set are read; None for all.
    """

    architecture: str
    objective: Objective
    told: str
    recipe: Recipe
    options: str
    fit_count: int | None = None

    @property
    def mnist(self) -> bool:
        """Whether its images are MNIST's, and not scikit-learn's digits."""
        return self.fit_count is not None


def _recipe(epochs: int, batch_size: int, learning_rate: float) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        learning_rate=learning_rate,
        weight_decay=1e-4,
        schedule="one-cycle",
        precision="fp32",
    )


def _digits(objective: Objective, told: str) -> Run:
    return Run(
        architecture="digits_cnn",
        objective=objective,
        told=told,
        recipe=_recipe(30, 64, 3e-3),
        options=SMALL,
    )


RUNS = {
    "digits-ce": _digits(CrossEntropy(), "cross-entropy"),
    "digits-rce": _digits(ReverseCrossEntropy(), "reverse cross-entropy"),
    "mnist-ce": Run(
        architecture="lenet",
        objective=CrossEntropy(),
        told="cross-entropy",
        recipe=_recipe(5, 128, 2e-3),
        options=GREY,
        fit_count=12000,
    ),
}
"""The choices, by the names of their files."""


def trained(run: Run, data: str, checkpoint: Path) -> None:
    """Trains a network on what `notsure guard fit` will fit on, and writes the checkpoint."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    images = load_split(data, counts=(run.fit_count, None)).split.train
    with seeded(run.recipe.seed):
        module = ns.models.build(
            run.architecture,
            num_classes=images.num_classes,
            in_channels=images.in_channels,
            size=images.size,
        )
    classifier = ns.Classifier(
        module, mean=0.5, std=1.0, reverse_logits=bool(run.objective.reverse_logits)
    )
    ns.training.train(
        classifier, images, objective=run.objective, recipe=run.recipe, checkpoint=checkpoint
    )


def words(name: str, data: str, runs: Path) -> list[str]:
    """The command that chooses the guard."""
    network, out = runs / f"{name}.safetensors", runs / name
    front = ["notsure", "guard", "fit", str(network), "--data", data]
    return [*front, *RUNS[name].options.split(), "--out", str(out)]


def harder(name: str, data: str, runs: Path) -> dict[str, Any]:
    """What the standard suite leaves of the guard on some of the test images."""
    told = load_json(runs / name / "choice.json")
    settings, guard = told["settings"], load_guard(runs / name)
    test = load_split(data, counts=(RUNS[name].fit_count, None)).split.test
    test = drawn(test, HARDER, settings["seed"])
    records = ns.evaluate(
        {told["chosen"]: guard, BARE: ns.Guard(guard.classifier)},
        test.x,
        test.labels,
        suite="standard",
        threats=["oblivious", "query-scores", "white-box"],
        eps=settings["eps"],
        norm=settings["norm"],
        seed=settings["seed"],
        out=runs / f"{name}-standard",
        progress=True,
    )
    return {
        "suite": records.meta["suite"],
        "worst_cases": worst_cases(records),
        "conclusions": [asdict(one) for one in conclusions(records)],
    }


def made(name: str, data: str, runs: Path, *, standard: bool) -> None:
    """Trains, guards, and writes down what was chosen."""
    run = RUNS[name]
    trained(run, data, runs / f"{name}.safetensors")
    command = words(name, data, runs)
    subprocess.run([sys.executable, "-m", *command], check=True)  # noqa: S603 (our own command)
    shown = words(name, "path/to/mnist" if run.mnist else data, Path("runs/guards"))
    choice = {
        "network": f"{run.architecture}, {run.told}, {run.recipe.epochs} epochs",
        "command": shlex.join(shown),
        **load_json(runs / name / "choice.json"),
        **({"harder": harder(name, data, runs)} if standard else {}),
    }
    text = json.dumps(choice, indent=1) + "\n"
    (HERE / f"{name}.json").write_text(text, encoding="utf-8")


def garbage(data: str, other: str, runs: Path) -> None:
    """How many images of no class each detector rejects that is put around the network of mnist-ce.

    The images are those of another data set, and noise: each pixel drawn by itself from [0,1].
    """
    run, count = RUNS["mnist-ce"], 1000
    split = load_split(data, counts=(run.fit_count, None)).split
    trained(run, data, runs / "mnist-ce.safetensors")
    classifier = of_training(runs / "mnist-ce.safetensors").classifier
    noise = torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    strange = {
        "clean": drawn(split.test, count, 0).x,
        "other": drawn(load_split(other).split.test, count, 0).x,
        "noise": noise,
    }
    rows = []
    for candidate in candidates([*CHEAP, "feature-squeezing"]):
        guard = ns.Guard(classifier, [one.build() for one in candidate.detectors])
        guard.fit(split.train).calibrate(split.calibration, fpr=0.01)
        rejected = {
            kind: asdict(rate_of(~guard.judge(x).accepted.numpy())) for kind, x in strange.items()
        }
        rows.append({"detector": candidate.name, **rejected})
    text = json.dumps({"fpr": 0.01, "seed": 0, "rows": rows}, indent=1) + "\n"
    (HERE / GARBAGE).write_text(text, encoding="utf-8")


def main() -> None:
    """Makes what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--data", default="mnist", help="MNIST, as `notsure audit` takes it")
    parser.add_argument("--runs", type=Path, default=Path("runs/guards"))
    parser.add_argument("--standard", action="store_true", help="and the standard suite")
    parser.add_argument("--other", help="Fashion-MNIST, to count what is rejected of it, no more")
    arguments = parser.parse_args()
    if arguments.other is not None:
        garbage(arguments.data, arguments.other, arguments.runs)
        return
    if unknown := set(arguments.names) - set(RUNS):
        parser.error(f"there is no {unknown.pop()}; there are {', '.join(RUNS)}")
    for name in arguments.names or RUNS:
        data = arguments.data if RUNS[name].mnist else "digits"
        made(name, data, arguments.runs, standard=arguments.standard)


if __name__ == "__main__":
    main()
