"""Nearest training features, for the detectors that go by them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from notsure.core.errors import InputError

BLOCK_ELEMENTS = 1 << 24
"""Entries of the largest matrix of distances held at a time (64 MiB in float32)."""

SAME = 1e-4
"""A point nearer than this share of the points' spread is taken for the image itself."""


def spread_of(points: torch.Tensor) -> float:
    """The root-mean-square distance of points (N, D) to their mean."""
    return float(points.double().var(dim=0, correction=0).sum().sqrt())


def blocks(z: torch.Tensor, points: torch.Tensor, count: int) -> Iterator[slice]:
    """Cuts the rows of `z` so that no tensor of distances to `points` becomes large."""
    rows = max(1, BLOCK_ELEMENTS // max(len(points), (count + 1) * points.shape[1]))
    for start in range(0, len(z), rows):
        yield slice(start, start + rows)


def rough_squared_distances(z: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Squared distances (B, N) by one matrix product, good enough to find the nearest; no graph."""
    with torch.no_grad():
        centre = points.mean(dim=0)
        points, z = points - centre, z - centre
        sizes = z.square().sum(dim=1)[:, None] + points.square().sum(dim=1)
        return sizes - 2 * (z @ points.T)


def nearest(
    z: torch.Tensor, points: torch.Tensor, candidates: torch.Tensor, same: float
) -> torch.Tensor:
    """Squared distances to the nearest points, nearest first.

    They are computed anew from the differences, so that no digits are lost between close
    neighbours. The nearest of all is left out where it lies within `same`, otherwise the farthest:
    an image that is among the points is not its own neighbour.

    Args:
        z: where to look from, (B, D).
        points: the points (N, D).
        candidates: which points are nearest, one more than is asked for, int64 (B, count + 1).
        same: how far away the image itself may be, for rounding.

    Returns:
        (B, count), with gradients to `z`.
    """
    squared = (z[:, None] - points[candidates]).square().sum(dim=2).sort(dim=1).values
    itself = squared[:, :1] <= same**2
    return torch.where(itself, squared[:, 1:], squared[:, :-1])


def evenly(points: torch.Tensor, most: int | None) -> torch.Tensor:
    """At most so many rows, spread evenly over their order; None keeps all."""
    if most is None or len(points) <= most:
        return points
    return points[torch.linspace(0, len(points) - 1, most).round().long().to(points.device)]


def by_class(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    most: int | None,
    least: int,
    name: str,
) -> list[torch.Tensor]:
    """The features (N, D) of each class, spread evenly over their order.

    Args:
        features: (N, D).
        labels: int64 (N,).
        num_classes: K.
        most: at most so many a class; None keeps all.
        least: how many a class has to have.
        name: of the detector, for the message.

    Raises:
        InputError: a class has fewer.
    """
    classes = []
    for number in range(num_classes):
        of_class = features[labels == number]
        if len(of_class) < least:
            raise InputError(
                f"{name} needs at least {least} training points of every class; class {number} of "
                f"{num_classes} has {len(of_class)}. Fit on more data of it, or take fewer "
                "neighbours."
            )
        classes.append(evenly(of_class, most))
    return classes


class EvenSample:
    """Rows of a stream of unknown length, spread evenly, in memory for twice as many as asked for.

    Every row is kept until they are too many, then every second, every fourth and so on; so the
    result does not depend on how the stream was cut into batches.

    Args:
        limit: how many rows are asked for.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._every, self._seen, self._kept = 1, 0, 0
        self._parts: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        """Takes in rows (B, D)."""
        # a view would keep all of the batch in memory
        own = rows.detach()[-self._seen % self._every :: self._every].clone()
        self._parts.append(own)
        self._seen += len(rows)
        self._kept += len(own)
        while self._kept > 2 * self.limit:
            self._parts = [torch.cat(self._parts)[::2].clone()]
            self._every *= 2
            self._kept = len(self._parts[0])

    def rows(self) -> torch.Tensor:
        """At most `limit` rows of what was taken in."""
        return evenly(torch.cat(self._parts), self.limit).clone()
