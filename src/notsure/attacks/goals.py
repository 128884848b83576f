"""What an attack wants: a goal says which label it speaks of and when it is reached."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from notsure.core.checks import check_labels
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.target import Response


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The largest other logit minus the label's, (B,): positive where the label is not chosen."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(dim=1) - own[:, 0]


def check_kappa(confidence: float) -> None:
    """Checks a logit margin.

    Raises:
        ConfigurationError: it is negative or no number.
    """
    if not confidence >= 0:
        raise ConfigurationError(
            f"confidence (kappa) is a logit margin, at least 0; got {confidence}."
        )


@dataclass(frozen=True)
class Goal(ABC):
    """What counts as success.

    `labels` is resolved once per attack from the clean answer; everything else takes the resolved
    labels, so that a goal can be checked on any part of the batch.
    """

    targeted: ClassVar[bool] = False
    """Whether the label is to be reached (True) or left (False)."""

    @abstractmethod
    def labels(self, clean_logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The label that the goal speaks of, int64 (B,), for samples of true label `y`.

        Args:
            clean_logits: of the clean images, (B, K).
            y: their true labels, int64 (B,).
        """

    @abstractmethod
    def reached(self, response: Response, labels: torch.Tensor) -> torch.Tensor:
        """Where the goal is reached, bool (B,).

        Args:
            response: the target's answer to the candidates.
            labels: what `labels` gave, int64 (B,).
        """

    @property
    def undetected(self) -> bool:
        """Whether the answer also has to be accepted."""
        return False

    @property
    def kappa(self) -> float:
        """The logit margin that success takes beyond the decision itself."""
        return 0.0

    @property
    def rejection_slack(self) -> float:
        """How far below its threshold the rejection has to be."""
        return 0.0


@dataclass(frozen=True)
class _ClassGoal(Goal):
    confidence: float = 0.0
    """The logit margin (kappa) that success takes beyond the decision itself."""

    def __post_init__(self) -> None:
        check_kappa(self.confidence)

    @property
    def kappa(self) -> float:
        """The confidence."""
        return self.confidence

    def reached(self, response: Response, labels: torch.Tensor) -> torch.Tensor:
        """Where the decision is the wanted one by at least `confidence`."""
        made = (response.prediction == labels) == self.targeted
        return made & (lead(response.logits, labels, self) >= self.confidence)


@dataclass(frozen=True)
class Misclassified(_ClassGoal):
    """Any label but the true one."""

    def labels(self, clean_logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The true labels."""
        return y


@dataclass(frozen=True, eq=False)
class Targeted(_ClassGoal):
    """One wanted label.

    Attributes:
        label: the wanted label of all samples, or of each, int64 (B,).
    """

    targeted: ClassVar[bool] = True
    label: int | torch.Tensor = 0

    def __eq__(self, other: object) -> bool:
        """Whether it asks for the same labels with the same confidence."""
        if not isinstance(other, Targeted):
            return NotImplemented
        return self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @property
    def _content(self) -> tuple[float, object]:
        label = self.label
        labels = tuple(label.tolist()) if isinstance(label, torch.Tensor) else label
        return self.confidence, labels

    def labels(self, clean_logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The wanted labels.

        Raises:
            InputError: a wanted label is no class, or the true one.
        """
        if isinstance(self.label, int):
            wanted = torch.full_like(y, self.label)
        else:
            wanted = self.label.to(y.device)
        wanted = check_labels(wanted, count=len(y), num_classes=clean_logits.shape[1])
        same = int((wanted == y).sum())
        if same:
            raise InputError(
                f"{same} of {len(y)} targets equal the true label: leave these samples out, or "
                "choose other targets, such as (y + 1) % num_classes."
            )
        return wanted


@dataclass(frozen=True)
class NextLikely(_ClassGoal):
    """The wrong label of a certain rank: 1 is the likeliest wrong one for the clean image.

    Attributes:
        rank: from 1; beyond the number of wrong classes it goes round.
    """

    targeted: ClassVar[bool] = True
    rank: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise ConfigurationError(f"rank counts from 1; got {self.rank}.")

    def labels(self, clean_logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The label of that rank among the wrong ones."""
        wrong_first = clean_logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        return wrong_first[:, (self.rank - 1) % (clean_logits.shape[1] - 1)]


@dataclass(frozen=True)
class LeastLikely(_ClassGoal):
    """The label that the target finds least likely for the clean image."""

    targeted: ClassVar[bool] = True

    def labels(self, clean_logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The label of the smallest clean logit; the next one where that is the true label."""
        return clean_logits.scatter(1, y[:, None], torch.inf).argmin(dim=1)


@dataclass(frozen=True)
class Undetected(Goal):
    """A goal that has to be reached by an accepted answer.

    Attributes:
        goal: what the answer has to be.
        slack: how far below its threshold the rejection has to be, in the rejection's own units:
            of a guard 1 is the score of the median clean image, what pang's f2 asks for.
    """

    goal: Goal
    slack: float = 0.0

    def __post_init__(self) -> None:
        if not self.slack >= 0:
            raise ConfigurationError(f"slack has to be at least 0; got {self.slack}.")

    @property
    def kappa(self) -> float:
        """As the goal it wraps."""
        return self.goal.kappa

    @property
    def rejection_slack(self) -> float:
        """The slack."""
        return self.slack

    @property
    def targeted(self) -> bool:  # type: ignore[override]
        """As the goal it wraps."""
        return self.goal.targeted

    @property
    def undetected(self) -> bool:
        """True."""
        return True

    def labels(self, clean_logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The labels of the goal it wraps."""
        return self.goal.labels(clean_logits, y)

    def reached(self, response: Response, labels: torch.Tensor) -> torch.Tensor:
        """Where the goal it wraps is reached and the answer accepted."""
        reached = self.goal.reached(response, labels) & response.accepted
        if self.slack and response.rejection is not None:
            reached &= response.rejection <= -self.slack
        return reached


def lead(logits: torch.Tensor, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
    """By how many logits the decision that the goal wants is ahead, (B,); negative before it is."""
    by = margin(logits, labels)
    return -by if goal.targeted else by
