"""The local intrinsic dimensionality of the features."""

from __future__ import annotations

from typing import Any

import torch

from notsure.core.errors import ConfigurationError, InputError
from notsure.detectors.base import Detector
from notsure.detectors.neighbours import (
    SAME,
    EvenSample,
    blocks,
    nearest,
    rough_squared_distances,
    spread_of,
)
from notsure.observation import Observation

LARGEST = 1e6
"""What the estimate is cut at, where all neighbours are equally far."""


def local_intrinsic_dimensionality(squared: torch.Tensor, same: float = 0.0) -> torch.Tensor:
    """The maximum-likelihood estimate from the distances to the nearest neighbours.

    LID = -(1/k sum over i of log(r_i / r_k))^-1, r_k the largest of the k distances.

    Args:
        squared: r_i^2, nearest first, (B, k) with k at least 2.
        same: distances are taken for at least this, so that a neighbour at distance 0 gives no
            infinity.

    Returns:
        (B,), in [0, 1e6], with gradients; 0 where even r_k is no larger than `same`.
    """
    raised = squared.clamp_min(max(same**2, torch.finfo(squared.dtype).tiny))
    largest = raised[:, -1:]
    mean = (largest.log() - raised.log()).mean(dim=1) / 2
    estimate = 1 / mean.clamp_min(1 / LARGEST)
    return torch.where(squared[:, -1] > same**2, estimate, 0.0)


class LID(Detector):
    """The local intrinsic dimensionality of the features among training features.

    Ma et al. 2018: adversarial examples lie in regions of higher local dimensionality, estimated
    from how the distances to the nearest neighbours grow.

    A reference point that coincides with the image (nearer than 1e-4 of the reference's spread) is
    left out, one at most, so that a training image is not its own neighbour; further ones count as
    this far away.

    Deviations: the features of one layer, where the paper weighs several by a logistic regression
    on adversarial examples (`LearnedCombination` learns such weights); the neighbours are sought
    in one fixed sample of the training features, where the paper takes the batch's mates, so that
    a score depends on its image alone.

    Args:
        neighbours: k, at least 2.
        reference: how many training features are kept, spread evenly over the order in which they
            came; more than `neighbours`.

    Raises:
        ConfigurationError: a number is too small.
    """

    needs_features = True
    needs_fit = True
    paper = "Ma et al. 2018"
    fit_cost = "F an image"
    query_cost = "distances to the reference"

    points: torch.Tensor
    spread: torch.Tensor

    def __init__(self, *, neighbours: int = 20, reference: int = 2000) -> None:
        super().__init__()
        if neighbours < 2:
            raise ConfigurationError(
                f"neighbours has to be at least 2, whose distances are compared; got {neighbours}."
            )
        if reference <= neighbours:
            raise ConfigurationError(
                f"reference={reference} points cannot hold neighbours={neighbours} besides the "
                "image itself: keep more of them."
            )
        self.neighbours, self.reference = neighbours, reference
        self._sample = EvenSample(reference)
        self.register_buffer("points", torch.empty(0, 0))
        self.register_buffer("spread", torch.zeros((), dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether it has points."""
        return len(self.points) > 0

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"neighbours": self.neighbours, "reference": self.reference}

    def begin(self) -> None:
        """Forgets what an interrupted fit took in."""
        self._sample = EvenSample(self.reference)

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Takes in the features of a batch; what is kept is at most twice the reference."""
        self._sample.add(observation.features)

    def finish(self, num_classes: int) -> None:
        """Keeps the reference.

        Raises:
            InputError: there are too few training points.
        """
        points = self._sample.rows()
        self._sample = EvenSample(self.reference)
        if len(points) <= self.neighbours:
            raise InputError(
                f"LID seeks {self.neighbours} neighbours among {len(points)} training points: fit "
                "on more images, or take fewer neighbours."
            )
        self.points = points
        self.spread = torch.tensor(spread_of(points), dtype=torch.float64)

    def score(self, observation: Observation) -> torch.Tensor:
        """LID(x), (B,), in [0, 1e6]."""
        self.require_fitted()
        features = observation.features
        points, same = self.points.to(features.dtype), SAME * float(self.spread)
        parts = []
        for rows in blocks(features, points, self.neighbours):
            z = features[rows]
            rough = rough_squared_distances(z, points)
            candidates = rough.topk(self.neighbours + 1, dim=1, largest=False).indices
            squared = nearest(z, points, candidates, same)
            parts.append(local_intrinsic_dimensionality(squared, same))
        return torch.cat(parts)
