"""Label embedding: targets that tell how much the other classes resemble the true one."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure.classifier import Classifier
from notsure.core.checks import check_images, check_labels
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.state import tensors_hash, undisturbed
from notsure.data import Images
from notsure.training.objectives import LogitObjective

Matrix = torch.Tensor | npt.NDArray[np.floating] | Sequence[Sequence[float]]
"""Numbers (K, K)."""

_BATCH = 256
_TOLERANCE = 1e-6
_TIE = 1e-12


@dataclass(frozen=True, kw_only=True)
class LabelEmbedding(LogitObjective):
    """Cross-entropy against the class's own distribution in place of the one-hot label.

    Martin, section 11: if an 8 looks more like a 0 than like a 1, its target should say so. The
    loss of a sample is -t_y . log softmax(logits), t_y the row of its class; it is least, at the
    row's entropy, where the network answers with t_y. With rows that are one-hot it is
    cross-entropy.

    Deviation: the report prints no formula. Here a row is softmax(similarities / temperature), and
    the ways to measure similarity (`from_confusion`, `from_class_means`) are ours.

    Attributes:
        targets: t, K rows of K probabilities; row i is the target of class i and largest at i.

    Raises:
        ConfigurationError: the targets are not K rows of K >= 2 probabilities that sum to 1 within
            1e-6, or a row is not largest at its own class.
    """

    paper: ClassVar[str] = "martin section 11"
    targets: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        table = _square(self.targets, "targets")
        if not bool((table >= 0).all()) or float((table.sum(1) - 1).abs().max()) > _TOLERANCE:
            raise ConfigurationError(
                "Each row of targets has to be probabilities that sum to 1; these rows sum to "
                f"{[round(value, 4) for value in table.sum(dim=1).tolist()]}. "
                "LabelEmbedding.from_similarity makes such rows of similarities."
            )
        others = table.clone().fill_diagonal_(-1).max(dim=1)
        wrong = (table.diagonal() <= others.values + _TIE).nonzero().flatten()
        if len(wrong):
            first = int(wrong[0])
            raise ConfigurationError(
                f"The target of class {first} is no larger at {first} than at class "
                f"{int(others.indices[first])}, which a network would learn to answer: take a "
                "lower temperature, or similarities that are largest on the diagonal."
            )
        object.__setattr__(self, "targets", tuple(tuple(row) for row in table.tolist()))

    def __repr__(self) -> str:
        """The number of classes and a digest of the targets, which may be a million numbers."""
        digest = tensors_hash({"targets": self._table})[:12]
        return f"{type(self).__name__}({len(self.targets)} classes, {digest})"

    @cached_property
    def _table(self) -> torch.Tensor:
        return torch.tensor(self.targets, dtype=torch.float64)

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (B,).

        Raises:
            ConfigurationError: the targets are of another number of classes.
        """
        if logits.shape[1] != len(self.targets):
            raise ConfigurationError(
                f"The targets are of {len(self.targets)} classes, the classifier has "
                f"{logits.shape[1]}: make them of the same data."
            )
        return -(self._table.to(logits)[y] * F.log_softmax(logits, dim=1)).sum(dim=1)

    @classmethod
    def from_similarity(cls, matrix: Matrix, *, temperature: float) -> LabelEmbedding:
        """Row i of the targets is softmax(row i of the similarities / temperature).

        Args:
            matrix: how similar class j is to class i, (K, K), largest on the diagonal.
            temperature: in units of the similarities, > 0; towards 0 the targets become one-hot.

        Raises:
            ConfigurationError: the matrix or the temperature is not what it has to be.
        """
        if not 0 < temperature < math.inf:
            raise ConfigurationError(f"temperature has to be > 0 and finite; got {temperature}.")
        table = torch.softmax(_square(matrix, "similarities") / temperature, dim=1)
        return cls(targets=tuple(tuple(row) for row in table.tolist()))

    @classmethod
    def from_confusion(
        cls,
        classifier: Classifier,
        data: Images | tuple[torch.Tensor, torch.Tensor],
        *,
        temperature: float,
    ) -> LabelEmbedding:
        """Classes are similar as far as a trained classifier confuses them.

        The similarity of i and j is the mean of the probability of j over the images of class i and
        that of i over the images of class j.

        Args:
            classifier: a trained one; it is left as it was.
            data: images, or tensors (N, C, H, W) in [0,1] and (N,), some of each class.
            temperature: in units of probability, > 0.

        Returns:
            The objective.

        Raises:
            InputError: images or labels are not what they have to be, or a class has no image.
            ConfigurationError: the temperature is not > 0, or the classifier is more often wrong
                about a class than right.
        """
        with torch.no_grad(), undisturbed(classifier, classifier.device):
            confusion = _class_means(
                (classifier.logits(x.to(classifier.device)).double().softmax(dim=1), y)
                for x, y in _batches(data)
            )
        return cls.from_similarity((confusion + confusion.T) / 2, temperature=temperature)

    @classmethod
    def from_class_means(
        cls, data: Images | tuple[torch.Tensor, torch.Tensor], *, temperature: float
    ) -> LabelEmbedding:
        """Classes are similar as far as their mean images are.

        The similarity is the cosine, in [-1, 1], between the classes' mean images after the mean of
        these means was taken off.

        Args:
            data: images, or tensors (N, C, H, W) in [0,1] and (N,), some of each class.
            temperature: in units of the cosine, > 0.

        Returns:
            The objective.

        Raises:
            InputError: images or labels are not what they have to be, or a class has no image.
            ConfigurationError: the temperature is not > 0, or two classes have the same mean image.
        """
        if isinstance(data, Images):
            num_classes = data.num_classes
        else:
            num_classes = int(check_labels(data[1], count=len(data[0])).max()) + 1
        means = _class_means(((x.flatten(1), y) for x, y in _batches(data)), num_classes)
        directions = F.normalize(means - means.mean(dim=0), dim=1)
        return cls.from_similarity(directions @ directions.T, temperature=temperature)


def _square(matrix: Matrix, name: str) -> torch.Tensor:
    """The matrix as float64 (K, K), or an error that names it."""
    try:
        table = torch.as_tensor(matrix, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} have to be K rows of K numbers: {error}.") from None
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise ConfigurationError(
            f"{name} have to be K rows of K numbers, K at least 2; got shape {tuple(table.shape)}."
        )
    if not bool(torch.isfinite(table).all()):
        raise ConfigurationError(f"{name} have to be finite; some are infinite or no number.")
    return table


def _batches(
    data: Images | tuple[torch.Tensor, torch.Tensor],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images (B, C, H, W) in [0,1] and labels (B,) on the CPU, in order."""
    if isinstance(data, Images):
        yield from data.batches(_BATCH)
        return
    x, y = data
    check_images(x)
    y = check_labels(y, count=len(x)).cpu()
    yield from zip(torch.split(x.detach(), _BATCH), torch.split(y, _BATCH), strict=True)


def _class_means(
    parts: Iterable[tuple[torch.Tensor, torch.Tensor]], num_classes: int | None = None
) -> torch.Tensor:
    """The mean of the rows of each class, float64 (K, D).

    Args:
        parts: rows (B, D) and their labels (B,), batch by batch.
        num_classes: K; None where it is D.

    Raises:
        InputError: a label is no class, or a class has no row.
    """
    total: torch.Tensor = reduce(
        operator.add, (_class_sums(rows.cpu().double(), y, num_classes) for rows, y in parts)
    )
    empty = (total[:, -1] == 0).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f"There is no image of class {', '.join(str(label) for label in empty)}: give images "
            "of every class."
        )
    return total[:, :-1] / total[:, -1:]


def _class_sums(rows: torch.Tensor, y: torch.Tensor, num_classes: int | None) -> torch.Tensor:
    """The sum of the rows of each class and, in a last column, their number, (K, D + 1)."""
    classes = num_classes or rows.shape[1]
    y = check_labels(y, count=len(rows), num_classes=classes)
    counted = F.pad(rows, (0, 1), value=1.0)
    return F.one_hot(y, classes).to(rows.dtype).T @ counted
