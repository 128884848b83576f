"""Terms that are added to an objective: smooth labels, small logits, little variance in a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure.core.errors import ConfigurationError
from notsure.training.objectives import LogitObjective, check_weight, reverse_cross_entropy


@dataclass(frozen=True)
class _Term(LogitObjective):
    complete: ClassVar[bool] = False
    weight: float

    def __post_init__(self) -> None:
        check_weight(self.weight, f"{self.name}'s weight")


@dataclass(frozen=True)
class LabelSmoothing(_Term):
    """The term -weight * R_y . log F(x) of lemesle, equation 3.

    R_y is the reverse label, 0 at the true class and 1/(K-1) elsewhere, and F the softmax of the
    Classifier's logits. With cross-entropy, CrossEntropy() + LabelSmoothing(w) is least where the
    true class has probability 1 / (1 + w) and every other one w / ((1 + w)(K - 1)): the usual label
    smoothing, times 1 + w. As w grows, the sum divided by w becomes reverse cross-entropy.

    Attributes:
        weight: lambda_1, at least 0 and below K - 1; lemesle takes 0 to 1.

    Raises:
        ConfigurationError: the weight is no such number. That it is too large is found out at the
            first loss, where K is known.
    """

    paper: ClassVar[str] = "lemesle eq. 3"

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The term of each sample, (B,)."""
        others = logits.shape[1] - 1
        if self.weight >= others:
            raise ConfigurationError(
                f"LabelSmoothing({self.weight}) of {others + 1} classes makes the true class "
                f"no likelier than the others: give a weight below {others}. To train on the "
                "reverse label itself, take ReverseCrossEntropy() and a classifier built with "
                "reverse_logits=True."
            )
        return self.weight * reverse_cross_entropy(logits, y)


@dataclass(frozen=True)
class LogitSqueezing(_Term):
    """The term weight * ||Z(x)||_2 of lemesle, equation 3: the length of the logits, not squared.

    Where all logits are 0 its gradient is 0.

    Attributes:
        weight: lambda_2, at least 0; lemesle takes 0 to 1.

    Raises:
        ConfigurationError: the weight is no such number.
    """

    reverse_logits: ClassVar[bool | None] = None
    paper: ClassVar[str] = "lemesle eq. 3"

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The term of each sample, (B,)."""
        return self.weight * _length(logits)


@dataclass(frozen=True)
class OutputVarianceMinimization(_Term):
    """The term of lemesle's OVM (section 3.2): weight * ||log F(x) - mean of log F||_2.

    The mean is over the batch's samples of the same class, and the norm is not squared, so that
    the mean over a batch X is weight / |X| * sum_i sum_{x in X_i} ||...||_2 as printed. A class of
    which the batch holds one sample contributes 0. The gradient flows through the means as well,
    and is 0 where a sample lies on its mean. When several processes train, the means are each
    process's own.

    Attributes:
        weight: lambda, at least 0; 1 in the report.

    Raises:
        ConfigurationError: the weight is no such number.
    """

    paper: ClassVar[str] = "lemesle section 3.2"
    weight: float = 1.0

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The term of each sample, (B,)."""
        log_probabilities = F.log_softmax(logits, dim=1)
        # products with the memberships add up in the same order every time, also on a GPU
        members = F.one_hot(y, logits.shape[1]).to(logits.dtype)
        counts = members.sum(dim=0).clamp_min(1)
        means = members.T @ log_probabilities / counts[:, None]
        return self.weight * _length(log_probabilities - members @ means)


def _length(rows: torch.Tensor) -> torch.Tensor:
    """The Euclidean length of each row, (B,), whose gradient at 0 torch takes to be 0."""
    length: torch.Tensor = torch.linalg.vector_norm(rows, dim=1)
    return length
