"""Whether the nearest training features are of the predicted class."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch

from notsure.core.errors import ConfigurationError
from notsure.detectors.base import Detector
from notsure.detectors.neighbours import (
    SAME,
    blocks,
    by_class,
    evenly,
    nearest,
    rough_squared_distances,
    spread_of,
)
from notsure.observation import Observation

_SAMPLE = 500
"""How many points the default temperature is found from."""


class DeepKNN(Detector):
    """How little the nearest training features speak for the predicted class.

    Papernot & McDaniel 2018. Their nonconformity is the share of the nearest neighbours that are
    of another class than the predicted one. Here a neighbour at the distance r weighs
    exp(-r^2 / temperature) in place of 1, which makes the share w smooth, and the score is its
    log-odds log(w / (1 - w)), which orders inputs as w does and keeps its gradient where w is
    saturated.

    A training point that coincides with the image (nearer than 1e-4 of the points' spread) is left
    out, one at most, so that a training image is not its own neighbour.

    Deviations: the features of one layer, where the paper adds up all layers; the nearest points
    of the predicted class and as many of all other classes are weighed, where the paper takes the
    nearest of all, so that the score is finite when all of these agree; no conformal p-value, since
    the guard calibrates; the points are training features and not a set held out.

    Args:
        neighbours: how many points of the predicted class, and as many of the others.
        max_points: at most so many training points a class, spread evenly over the order in which
            they came; None keeps all.
        temperature: in squared units of the features. By default, when fitting, the mean squared
            distance of training points to their nearest neighbours of the same class.

    Raises:
        ConfigurationError: a number is not positive, or max_points does not exceed neighbours.
    """

    needs_features = True
    needs_fit = True
    paper = "Papernot & McDaniel 2018"
    fit_cost = "F an image"
    query_cost = "distances to the training features"

    points: torch.Tensor
    offsets: torch.Tensor
    spread: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        *,
        neighbours: int = 10,
        max_points: int | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        if neighbours < 1:
            raise ConfigurationError(f"neighbours has to be at least 1; got {neighbours}.")
        if max_points is not None and max_points <= neighbours:
            raise ConfigurationError(
                f"max_points={max_points} a class cannot hold neighbours={neighbours} besides the "
                "image itself: keep more of them."
            )
        if temperature is not None and not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigurationError(f"temperature has to be > 0 and finite; got {temperature!r}.")
        self.neighbours, self.max_points, self.temperature = neighbours, max_points, temperature
        self._features: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self.register_buffer("points", torch.empty(0, 0))
        self.register_buffer("offsets", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("spread", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.zeros((), dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether it has points."""
        return len(self.points) > 0

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "neighbours": self.neighbours,
            "max_points": self.max_points,
            "temperature": self.temperature,
        }

    def begin(self) -> None:
        """Forgets what an interrupted fit took in."""
        self._features, self._labels = [], []

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Takes in the features of a batch."""
        self._features.append(observation.features.detach())
        self._labels.append(y)

    def finish(self, num_classes: int) -> None:
        """Keeps the points and chooses the temperature.

        Raises:
            InputError: a class has too few training points.
        """
        features, labels = torch.cat(self._features), torch.cat(self._labels)
        self._features, self._labels = [], []
        classes = by_class(
            features,
            labels,
            num_classes,
            most=self.max_points,
            least=self.neighbours + 1,
            name="DeepKNN",
        )
        self.points = torch.cat(classes).clone()
        self.offsets = torch.tensor([0, *(len(of_class) for of_class in classes)]).cumsum(0)
        self.spread = torch.tensor(spread_of(self.points), dtype=torch.float64)
        temperature = self.temperature
        if temperature is None:
            rows = evenly(torch.arange(len(self.points), device=labels.device), _SAMPLE)
            own = torch.bucketize(rows, self.offsets.to(rows.device), right=True) - 1
            same, _ = self._neighbours(self.points[rows], own)
            temperature = float(same.double().mean()) or 1.0
        self.scale = torch.tensor(temperature, dtype=torch.float64)

    def _neighbours(
        self, features: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared distances to the nearest points with and without the label, (B, k) each."""
        points, same = self.points.to(features.dtype), SAME * float(self.spread)
        own: list[torch.Tensor] = []
        other: list[torch.Tensor] = []
        for rows in blocks(features, points, self.neighbours):
            z = features[rows]
            mine, theirs = self._candidates(rough_squared_distances(z, points), label[rows])
            own.append(nearest(z, points, mine, same))
            other.append(nearest(z, points, theirs, same))
        return torch.cat(own), torch.cat(other)

    def _candidates(
        self, rough: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest points of the label (B,) and of all others, int64 (B, k + 1) each.

        Args:
            rough: distances (B, N) to the points, which lie class by class.
            label: int64 (B,).
        """
        count, bounds = self.neighbours + 1, self.offsets.tolist()
        values, indices = [], []
        for start, end in pairwise(bounds):
            found = rough[:, start:end].topk(count, dim=1, largest=False)
            values.append(found.values)
            indices.append(found.indices + start)
        distance, index = torch.stack(values, dim=1), torch.stack(indices, dim=1)
        row = torch.arange(len(label), device=label.device)
        mine = index[row, label]
        distance[row, label] = torch.inf
        nearest_others = distance.flatten(1).topk(count, dim=1, largest=False).indices
        return mine, index.flatten(1).gather(1, nearest_others)

    def score(self, observation: Observation) -> torch.Tensor:
        """The log-odds of the nonconformity, (B,): 0 where both sides weigh the same."""
        self.require_fitted()
        own, other = self._neighbours(observation.features, observation.prediction)
        scale = float(self.scale)
        return torch.logsumexp(-other / scale, dim=1) - torch.logsumexp(-own / scale, dim=1)
