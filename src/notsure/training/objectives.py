"""What a training minimises, written on the logits as the Classifier gives them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)


@dataclass(frozen=True, kw_only=True)
class TrainingObjective(ABC):
    """A loss a sample; the trainer minimises its mean over a batch."""

    reverse_logits: ClassVar[bool] = False
    """Whether the Classifier has to negate its module's logits for this objective."""

    @abstractmethod
    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (B,), from the Classifier's logits (B, K) and labels (B,)."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(TrainingObjective):
    """-log of the probability of the true class."""

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (B,)."""
        return F.cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True, kw_only=True)
class ReverseCrossEntropy(TrainingObjective):
    """Pang et al. 2018, equation 4: cross-entropy with the reverse label.

    The module learns the reverse label R_y (0 at the true class, 1/(K-1) elsewhere), so its logits
    are smallest at the true class; the Classifier negates them (`reverse_logits=True`). As the
    Classifier's logits L = -Z come in here, the loss is -R_y . log softmax(-L).
    """

    reverse_logits: ClassVar[bool] = True

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (B,)."""
        log_probabilities = F.log_softmax(-logits, dim=1)
        reverse_label = torch.full_like(logits, 1 / (logits.shape[1] - 1))
        reverse_label.scatter_(1, y[:, None], 0)
        return -(reverse_label * log_probabilities).sum(dim=1)
