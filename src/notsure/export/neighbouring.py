"""The forms of the detectors that compare features with training features."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from notsure.detectors.deep_knn import DeepKNN
from notsure.detectors.kdensity import KDensity
from notsure.detectors.lid import LID, local_intrinsic_dimensionality
from notsure.detectors.mahalanobis import Mahalanobis
from notsure.detectors.neighbours import SAME, nearest
from notsure.export.forms import Form, constant, register_form
from notsure.observation import Observation

_NO_POINT = -1e30
"""The logarithm of what a point counts that is not there; infinity would make NaN of a gap."""


def _padded(classes: list[torch.Tensor]) -> torch.Tensor:
    """The points of each class, (K, n, D), with zeros where a class has fewer than n."""
    return nn.utils.rnn.pad_sequence(classes, batch_first=True)


def _present(classes: list[torch.Tensor]) -> torch.Tensor:
    """Which rows of `_padded` are points, bool (K, n)."""
    sizes = torch.tensor([len(of_class) for of_class in classes])
    return torch.arange(int(sizes.max()))[None] < sizes[:, None]


class _KDensity(Form):
    """Distances to the points of every class at once, of which the predicted one's are kept.

    The detector asks for the points of one class after the other. Where there are more classes than
    features, the predicted class's points are picked first: whichever needs the smaller matrix.
    """

    centres: torch.Tensor
    points: torch.Tensor
    offsets: torch.Tensor
    counts: torch.Tensor

    def __init__(self, detector: KDensity, dtype: torch.dtype) -> None:
        super().__init__()
        bounds = detector.offsets.tolist()
        classes = [constant(detector.points[a:b], dtype) for a, b in pairwise(bounds)]
        centres = torch.stack([of_class.mean(dim=0) for of_class in classes])
        points = [of_class - centre for of_class, centre in zip(classes, centres, strict=True)]
        self.scale = 1 / float(detector.sigma) ** 2
        self.register_buffer("centres", centres)
        self.register_buffer("points", _padded(points))
        sizes = -self.scale * self.points.square().sum(dim=2)
        self.register_buffer("offsets", sizes.masked_fill(~_present(points), _NO_POINT))
        counts = torch.tensor([len(of_class) for of_class in classes], dtype=dtype)
        self.register_buffer("counts", counts.log())
        self.picks_first = len(classes) > centres.shape[1]

    def forward(self, observation: Observation) -> torch.Tensor:
        label = observation.prediction
        z = observation.features - self.centres[label]
        doubled = 2 * self.scale * z
        if self.picks_first:
            likeness = (self.points[label] @ doubled[:, :, None])[:, :, 0]
        else:
            classes, most, _ = self.points.shape
            every = (doubled @ self.points.flatten(0, 1).T).view(-1, classes, most)
            chosen = label[:, None, None].expand(-1, 1, most)
            likeness = every.gather(1, chosen)[:, 0]
        together = torch.logsumexp(likeness + self.offsets[label], dim=1)
        own = self.scale * z.square().sum(dim=1)
        return -(together - own - self.counts[label]).clamp_max(0)


@register_form(KDensity)
def _kdensity(detector: KDensity, dtype: torch.dtype) -> Form:
    return _KDensity(detector, dtype)


class _Points(nn.Module):
    """Points to find the nearest of, about their own centre."""

    points: torch.Tensor
    centre: torch.Tensor

    def __init__(self, points: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("points", points)
        self.register_buffer("centre", points.mean(dim=0))

    def rough(self, z: torch.Tensor) -> torch.Tensor:
        """Squared distances (B, N) by one matrix product, good enough to find the nearest."""
        z, points = z - self.centre, self.points - self.centre
        return z.square().sum(dim=1)[:, None] + points.square().sum(dim=1) - 2 * (z @ points.T)


class _LID(Form):
    def __init__(self, detector: LID, dtype: torch.dtype) -> None:
        super().__init__()
        self.neighbours, self.same = detector.neighbours, SAME * float(detector.spread)
        self.reference = _Points(constant(detector.points, dtype))

    def forward(self, observation: Observation) -> torch.Tensor:
        z = observation.features
        rough = self.reference.rough(z)
        candidates = rough.topk(self.neighbours + 1, dim=1, largest=False).indices
        squared = nearest(z, self.reference.points, candidates, self.same)
        return local_intrinsic_dimensionality(squared, self.same)


@register_form(LID)
def _lid(detector: LID, dtype: torch.dtype) -> Form:
    return _LID(detector, dtype)


class _DeepKNN(Form):
    """The nearest points of every class in one selection, over classes of equal length."""

    absent: torch.Tensor
    place: torch.Tensor

    def __init__(self, detector: DeepKNN, dtype: torch.dtype) -> None:
        super().__init__()
        self.count, self.scale = detector.neighbours + 1, float(detector.scale)
        self.same = SAME * float(detector.spread)
        self.reference = _Points(constant(detector.points, dtype))
        starts = list(pairwise(detector.offsets.tolist()))
        rows = [torch.arange(start, end) for start, end in starts]
        # a place that is not there repeats a point, infinitely far away
        self.register_buffer("place", _padded(rows))
        self.register_buffer("absent", ~_present(rows))

    def forward(self, observation: Observation) -> torch.Tensor:
        z, label = observation.features, observation.prediction
        points, classes = self.reference.points, self.place.shape[0]
        rough = self.reference.rough(z)[:, self.place]
        rough = rough.masked_fill(self.absent[None], torch.inf)
        distance, column = rough.topk(self.count, dim=2, largest=False)
        index = self.place.flatten()[column + self._first_column(classes)]
        own = label[:, None] == torch.arange(classes, device=label.device)[None]
        mine = index.gather(1, label[:, None, None].expand(-1, 1, self.count))[:, 0]
        others = distance.masked_fill(own[:, :, None], torch.inf).flatten(1)
        chosen = others.topk(self.count, dim=1, largest=False).indices
        theirs = index.flatten(1).gather(1, chosen)
        same = nearest(z, points, mine, self.same)
        other = nearest(z, points, theirs, self.same)
        return torch.logsumexp(-other / self.scale, dim=1) - torch.logsumexp(
            -same / self.scale, dim=1
        )

    def _first_column(self, classes: int) -> torch.Tensor:
        """Where each class begins in the flattened places, (1, K, 1)."""
        return torch.arange(classes)[None, :, None] * self.place.shape[1]


@register_form(DeepKNN)
def _deep_knn(detector: DeepKNN, dtype: torch.dtype) -> Form:
    return _DeepKNN(detector, dtype)


class _Mahalanobis(Form):
    centre: torch.Tensor
    factor: torch.Tensor
    means: torch.Tensor
    background_mean: torch.Tensor
    background_factor: torch.Tensor

    def __init__(self, detector: Mahalanobis, dtype: torch.dtype) -> None:
        super().__init__()
        self.relative = detector.relative
        for name in ("centre", "factor", "means", "background_mean", "background_factor"):
            self.register_buffer(name, constant(getattr(detector, name), dtype))

    def forward(self, observation: Observation) -> torch.Tensor:
        features = observation.features
        white = (features - self.centre) @ self.factor
        closest = (self.means.square().sum(dim=1) - 2 * (white @ self.means.T)).argmin(dim=1)
        distance = (white - self.means[closest]).square().sum(dim=1)
        if not self.relative:
            return distance
        away = (features - self.background_mean) @ self.background_factor
        return distance - away.square().sum(dim=1)


@register_form(Mahalanobis)
def _mahalanobis(detector: Mahalanobis, dtype: torch.dtype) -> Form:
    return _Mahalanobis(detector, dtype)
