"""What an attack maximises, one value a sample, so that no sample feels its batch mates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure.attacks.goals import Goal, lead
from notsure.core.errors import ConfigurationError
from notsure.core.target import Response


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A function of the target's answer that grows towards the goal."""

    @abstractmethod
    def __call__(self, response: Response, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """The value of each sample, (B,), for the labels that the goal resolved.

        Args:
            response: the target's answer to the candidates.
            labels: the labels, int64 (B,).
            goal: what is to be reached.
        """


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Cross-entropy of the label: up to leave it, down to reach it."""

    def __call__(self, response: Response, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """The value of each sample, (B,)."""
        loss = F.cross_entropy(response.logits, labels, reduction="none")
        return -loss if goal.targeted else loss


@dataclass(frozen=True, kw_only=True)
class Margin(Objective):
    """The logit margin: the best other logit over the label's, or the reverse to reach it.

    Unlike cross-entropy it keeps its gradient where the softmax is saturated.
    """

    def __call__(self, response: Response, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """The value of each sample, (B,)."""
        return lead(response.logits, labels, goal)


MARGIN = Margin()
"""The default of searches that end on the decision boundary."""


@dataclass(frozen=True, kw_only=True)
class DLR(Objective):
    """Difference of logits ratio: the margin, freed of the scale of the logits.

    Croce & Hein 2020 b: the margin over the gap between the largest and the third largest logit;
    towards a label, over the gap between the largest and the mean of the third and fourth. With
    fewer classes than that takes, it is the margin itself.
    """

    def __call__(self, response: Response, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """The value of each sample, (B,)."""
        logits = response.logits
        value = lead(logits, labels, goal)
        if logits.shape[1] < 4:
            return value
        top = logits.topk(4, dim=1).values
        floor = (top[:, 2] + top[:, 3]) / 2 if goal.targeted else top[:, 2]
        return value / (top[:, 0] - floor + 1e-12)


@dataclass(frozen=True, kw_only=True)
class DetectorAware(Objective):
    """First the class, then the detector: misclassified *and* accepted.

    While the class is wrong for the attacker only the class counts: the detector judges the
    predicted class, so that before the decision flips its gradient would pull the image back to
    where it came from. Once the class is right, the rejection score is pushed below its threshold
    while a slack of logit margin is held. Below, `shortfall` is how far the margin misses the
    slack, in units of the slack.

    Attributes:
        base: what leads across the decision boundary.
        slack: the logit margin held while the detector is being evaded.
        rejection_slack: how far below the threshold the rejection is pushed, in its own units.
    """

    base: Objective = MARGIN
    slack: float = 1.0
    rejection_slack: float = 0.1

    def __post_init__(self) -> None:
        if not (self.slack > 0 and self.rejection_slack >= 0):
            raise ConfigurationError("slack has to be > 0 and rejection_slack >= 0.")

    def __call__(self, response: Response, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """The value of each sample, (B,)."""
        value = self.base(response, labels, goal)
        if response.rejection is None:
            return value
        by = lead(response.logits, labels, goal)
        shortfall = (self.slack - by).clamp_min(0) / self.slack
        detected = (response.rejection + self.rejection_slack).clamp_min(0)
        # whatever the first stage reaches counts less than the second, whose best is exactly 0
        return torch.where(by > 0, -shortfall - detected, value - 1e6)
