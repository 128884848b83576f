"""What a training minimises, written on the logits as the Classifier gives them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.training.loop import Step


class Batch:
    """A training batch as an objective sees it.

    Attributes:
        x: the images (B, C, H, W) in [0,1], augmented; noise may have carried them outside.
        y: their labels (B,).
        seed: of whatever is random in this step.
        classifier: the network in training; an attack on it leaves no trace on it.
    """

    def __init__(self, step: Step, classifier: Classifier) -> None:
        self.x, self.y, self.seed = step.x, step.y, step.seed
        self.classifier = classifier
        self._step = step
        self._answers: list[torch.Tensor] = []

    def logits_of(self, x: torch.Tensor) -> torch.Tensor:
        """The network's logits (B, K) of images (B, C, H, W), with gradients to the weights."""
        logits = self._step.run(x)
        self._answers.append(logits.detach())
        return logits

    @cached_property
    def logits(self) -> torch.Tensor:
        """The logits (B, K) of the batch's images, from one pass for all who ask."""
        return self.logits_of(self.x)

    @property
    def answer(self) -> torch.Tensor:
        """The first logits (B, K) that anybody has asked for, as the training's accuracy takes."""
        return self._answers[0]


@dataclass(frozen=True, kw_only=True)
class TrainingObjective(ABC):
    """A loss a sample; the trainer minimises its mean over a batch. Objectives can be added."""

    reverse_logits: ClassVar[bool | None] = False
    """Whether the Classifier has to negate its module's logits; None for either."""

    complete: ClassVar[bool] = True
    """Whether it can be trained on by itself; a term has to be added to an objective."""

    paper: ClassVar[str] = ""
    """Where it comes from."""

    fit_cost: ClassVar[str] = "F + B an image and epoch"
    """What training on it costs, in forward (F) and backward (B) passes."""

    query_cost: ClassVar[str] = "nothing"
    """What it adds to the classifier's forward pass for each image asked about."""

    @abstractmethod
    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of each sample, (B,)."""

    @property
    def of_logits(self) -> bool:
        """Whether it takes nothing but logits and labels, so that it can be called on them."""
        return False

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (B,), from the Classifier's logits (B, K) and labels (B,).

        Args:
            logits: what the network yields.
            y: int64.

        Raises:
            ConfigurationError: it takes more than these (see `of_logits`).
        """
        raise ConfigurationError(
            f"{self.name} is no function of logits and labels alone: it needs the training's batch."
        )

    def __add__(self, other: TrainingObjective) -> Sum:
        """Both at once."""
        if not isinstance(other, TrainingObjective):
            return NotImplemented
        mine = self.parts if isinstance(self, Sum) else (self,)
        theirs = other.parts if isinstance(other, Sum) else (other,)
        return Sum(parts=(*mine, *theirs))

    @property
    def name(self) -> str:
        """For people to read."""
        return type(self).__name__

    @property
    def identity(self) -> str:
        """What a checkpoint remembers it by."""
        # names the classes of what it is put together from, which a dictionary of it would not
        return repr(self)

    def require(self, classifier: Classifier) -> None:
        """Checks that the classifier can be trained on it.

        Raises:
            ConfigurationError: it cannot.
        """
        if not self.complete:
            raise ConfigurationError(
                f"{self.name} is a term and no objective by itself: add it to one, such as "
                f"CrossEntropy() + {self.name}(...)."
            )
        if self.reverse_logits is not None and self.reverse_logits != classifier.reverse_logits:
            raise ConfigurationError(
                f"{self.name} needs a classifier built with reverse_logits="
                f"{self.reverse_logits}; this one has reverse_logits={classifier.reverse_logits}."
            )


@dataclass(frozen=True, kw_only=True)
class LogitObjective(TrainingObjective):
    """An objective of the logits of the batch's images alone."""

    @property
    def of_logits(self) -> bool:
        """True."""
        return True

    @abstractmethod
    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (B,), from the Classifier's logits (B, K) and labels (B,)."""

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of each sample, (B,)."""
        return self(batch.logits, batch.y)


@dataclass(frozen=True, kw_only=True)
class Sum(TrainingObjective):
    """Several objectives at once: the sum of their losses.

    Attributes:
        parts: the objectives and terms.

    Raises:
        ConfigurationError: they need classifiers that read logits in opposite ways.
    """

    parts: tuple[TrainingObjective, ...]

    def __post_init__(self) -> None:
        ways = {part.reverse_logits for part in self.parts} - {None}
        if len(ways) > 1:
            raise ConfigurationError(
                f"{self.name} cannot be: some of it needs reverse_logits=True, some False."
            )

    @property
    def reverse_logits(self) -> bool | None:  # type: ignore[override]
        """As its parts."""
        return next((p.reverse_logits for p in self.parts if p.reverse_logits is not None), None)

    @property
    def complete(self) -> bool:  # type: ignore[override]
        """Whether one of its parts is."""
        return any(part.complete for part in self.parts)

    @property
    def name(self) -> str:
        """Its parts' names."""
        return " + ".join(part.name for part in self.parts)

    @property
    def identity(self) -> str:
        """Its parts' identities."""
        return " + ".join(part.identity for part in self.parts)

    def require(self, classifier: Classifier) -> None:
        """Checks the parts as well."""
        super().require(classifier)
        for part in self.parts:
            if part.complete:
                part.require(classifier)

    @property
    def of_logits(self) -> bool:
        """Whether all of its parts are functions of logits and labels."""
        return all(part.of_logits for part in self.parts)

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The sum of the parts, (B,), where all of them can be called on logits."""
        return torch.stack([part(logits, y) for part in self.parts]).sum(dim=0)

    def loss(self, batch: Batch) -> torch.Tensor:
        """The sum of the parts' losses, (B,)."""
        losses = [part.loss(batch) for part in self.parts]
        return torch.stack(losses).sum(dim=0)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(LogitObjective):
    """-log of the probability of the true class: no defence, what the others are compared with."""

    paper: ClassVar[str] = "the usual"

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (B,)."""
        return F.cross_entropy(logits, y, reduction="none")


def reverse_labels(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Pang et al. 2018, section 3.2: R_y, 0 at the true class and 1/(K-1) elsewhere, (B, K)."""
    labels = torch.full_like(logits, 1 / (logits.shape[1] - 1))
    return labels.scatter_(1, y[:, None], 0)


def reverse_cross_entropy(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Pang et al. 2018, equation 4: -R_y . log softmax(z), (B,), from (B, K) and labels (B,)."""
    return -(reverse_labels(z, y) * F.log_softmax(z, dim=1)).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class ReverseCrossEntropy(LogitObjective):
    """Pang et al. 2018, equation 4: cross-entropy with the reverse label.

    The module learns the reverse label R_y (0 at the true class, 1/(K-1) elsewhere), so its logits
    are smallest at the true class; the Classifier negates them (`reverse_logits=True`). As the
    Classifier's logits L = -Z come in here, the loss is -R_y . log softmax(-L).
    """

    reverse_logits: ClassVar[bool | None] = True
    paper: ClassVar[str] = "pang eq. 4"

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (B,)."""
        return reverse_cross_entropy(-logits, y)


def check_weight(weight: float, name: str) -> None:
    """Checks the weight of a term.

    Raises:
        ConfigurationError: it is no number, negative or not finite.
    """
    if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ConfigurationError(f"{name} is a weight, at least 0 and finite; got {weight!r}.")
