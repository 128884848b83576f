"""The steps that learn: a network is trained, a purifier is fitted."""

from __future__ import annotations

import math
import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from notsure import models, training
from notsure.classifier import Classifier, Statistic
from notsure.core.errors import ConfigurationError, DeadlineError
from notsure.core.state import derived_seed, seeded
from notsure.core.stopping import stopping
from notsure.core.storage import save_json
from notsure.guard import Guard
from notsure.purifiers import Purifier
from notsure.studies import estimates
from notsure.studies.datasets import DataSet
from notsure.studies.made_of_data import with_data
from notsure.studies.parts import Builder, described, described_recipe
from notsure.studies.steps import Context, Step
from notsure.training import History, Recipe, TrainingObjective

DEVICE = "NOTSURE_DEVICE"
"""The environment variable that says where steps work, such as "cpu" or "cuda:1"."""

CHECKPOINT, HISTORY, PURIFIER = "training.safetensors", "history.json", "purifier.safetensors"


def device() -> torch.device:
    """Where steps work: NOTSURE_DEVICE, or else the first GPU where there is one.

    Raises:
        ConfigurationError: NOTSURE_DEVICE is no device.
    """
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    name = os.environ.get(DEVICE, usual)
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"{DEVICE}={name!r} is no device: {error}") from None


@contextmanager
def within_time(context: Context) -> Iterator[None]:
    """Inside, resumable work stops where it has left a checkpoint and has no time for more.

    That is after the deadline, or where what lies between two checkpoints has taken longer than is
    left.
    """
    asked, longest = time.monotonic(), 0.0

    def reason() -> Exception | None:
        nonlocal asked, longest
        now = time.monotonic()
        longest, asked = max(longest, now - asked), now
        if context.seconds_left() > longest:
            return None
        return DeadlineError("The deadline has come; the same command goes on from here.")

    with stopping(reason):
        yield


@dataclass(frozen=True, kw_only=True, eq=False)
class Network(Step):
    """A step whose result is a classifier, in a folder that `Guard.load` reads.

    Attributes:
        data: whose train part the network was trained on.
    """

    data: DataSet

    @abstractmethod
    def classifier(self, context: Context) -> Classifier:
        """What was made, for a step that needs it."""

    @abstractmethod
    def seconds_of_pass(self) -> float:
        """How long an image takes through the network, roughly."""

    @property
    @abstractmethod
    def stochastic(self) -> bool:
        """Whether the same image may get different answers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Train(Network):
    """Trains a network.

    The result is a guard without detectors, `Guard.load(folder).classifier`, and the history.

    Attributes:
        architecture: its registered name.
        arguments: all that it takes.
        objective: what is minimised.
        recipe: optimizer, schedule and so on.
        data: whose train part it learns from.
        seed: of the initial weights.
        mean: of the preprocessing.
        std: of the preprocessing.
    """

    kind: ClassVar[str] = "train"
    resumable: ClassVar[bool] = True

    architecture: str
    arguments: Mapping[str, Any]
    objective: TrainingObjective
    recipe: Recipe
    seed: int = 0
    mean: Statistic | None = None
    std: Statistic | None = None

    def settings(self) -> dict[str, Any]:
        """Everything that the weights depend on."""
        return {
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
            "objective": described(self.objective),
            "recipe": described_recipe(self.recipe),
            "train": self.data.content("train"),
            "seed": self.seed,
            "mean": self.mean,
            "std": self.std,
        }

    def untrained(self) -> Classifier:
        """The classifier with its initial weights."""
        with seeded(derived_seed(self.seed, "weights")):
            module = models.build(self.architecture, **self.arguments)
        return Classifier(
            module,
            mean=self.mean,
            std=self.std,
            reverse_logits=bool(self.objective.reverse_logits),
        )

    def run(self, context: Context) -> None:
        """Trains, or goes on with it."""
        classifier = self.untrained().to(device())
        checkpoint, images = context.folder / CHECKPOINT, self.data.images("train")
        with within_time(context):
            history = training.train(
                classifier,
                images,
                objective=with_data(self.objective, images),
                recipe=self.recipe,
                checkpoint=checkpoint,
                progress=context.progress,
            )
        Guard(classifier).save(context.folder)
        save_history(context.folder, history)
        checkpoint.unlink()

    def classifier(self, context: Context) -> Classifier:
        """What was trained, for a step that needs it."""
        return Guard.load(context.folder_of(self)).classifier.to(device())

    def seconds_of_pass(self) -> float:
        """How long an image takes through the network, roughly."""
        return estimates.seconds_of_pass(self.architecture, self.arguments, device())

    @property
    def stochastic(self) -> bool:
        """Whether the same image may get different answers."""
        return estimates.is_stochastic(self.architecture, self.arguments)

    def estimate(self) -> float:
        """Seconds, roughly."""
        passes = estimates.passes_of_objective(self.objective)
        return self.recipe.epochs * self.data.counts["train"] * passes * self.seconds_of_pass()


@dataclass(frozen=True, kw_only=True, eq=False)
class FitPurifier(Step):
    """Trains a purifier; the result is read by `Purifier.load`.

    Attributes:
        part: its kind and settings, complete.
        recipe: optimizer, schedule and so on.
        data: whose train part it learns from.
        network: the classifier that takes part in its training, if any.
    """

    kind: ClassVar[str] = "fit purifier"
    resumable: ClassVar[bool] = True

    part: Mapping[str, Any]
    recipe: Recipe
    data: DataSet
    network: Network | None = None

    @property
    def needs(self) -> tuple[Step, ...]:
        """The network, if any."""
        return () if self.network is None else (self.network,)

    def settings(self) -> dict[str, Any]:
        """Everything that the weights depend on besides the network."""
        return {
            "part": dict(self.part),
            "recipe": described_recipe(self.recipe),
            "train": self.data.content("train"),
        }

    def run(self, context: Context) -> None:
        """Trains, or goes on with it."""
        purifier: Purifier = Builder().part("purifier", self.part).to(device())
        classifier = None if self.network is None else self.network.classifier(context)
        with within_time(context):
            history = purifier.fit(
                self.data.images("train"),
                classifier=classifier,
                recipe=self.recipe,
                checkpoint=context.folder / CHECKPOINT,
                progress=context.progress,
            )
        purifier.save(context.folder / PURIFIER)
        save_history(context.folder, history)
        stem = CHECKPOINT.partition(".")[0]
        for path in context.folder.glob(f"{stem}*.safetensors"):
            path.unlink()

    def estimate(self) -> float:
        """Seconds, roughly; NaN where that cannot be told."""
        own = estimates.seconds_of_layers(
            self._unfitted,
            lambda one, x: cast("Purifier", one).purify(x),
            self.data.shape,
            device(),
        )
        classifier = 0.0 if self.network is None else self.network.seconds_of_pass()
        images = self.recipe.epochs * self.data.counts["train"]
        return images * estimates.BACKWARD * (own + classifier)

    def _unfitted(self) -> Purifier:
        """The purifier with networks for these images."""
        given = dict(self.part["settings"])
        given["shape"] = self.data.shape
        if "num_classes" in given:
            given["num_classes"] = len(self.data.class_names)
        made: Purifier = Builder().part("purifier", {**self.part, "settings": given})
        return made

    def purifier(self, context: Context) -> Purifier:
        """What was trained, for a step that needs it."""
        return Purifier.load(context.folder_of(self) / PURIFIER).to(device())


def save_history(folder: Path, history: History) -> None:
    """Writes the losses of a training; how long it took would differ from run to run."""
    epochs = [
        {
            "number": one.number,
            "loss": one.loss,
            "accuracy": None if math.isnan(one.accuracy) else one.accuracy,
        }
        for one in history.epochs
    ]
    save_json(folder / HISTORY, {"epochs": epochs})
