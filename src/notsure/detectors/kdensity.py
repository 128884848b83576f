"""Kernel density in feature space (K-density), the detector of pang and lemesle."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import torch

from notsure.core.errors import ConfigurationError, InputError
from notsure.detectors.base import Detector
from notsure.detectors.neighbours import evenly
from notsure.observation import Observation

TILE = (256, 1024)
"""How many queries meet how many points at a time: what a processor's cache holds."""


_NOTHING = -80.0
"""Its exponential vanishes beside 1; of smaller ones processors make slow, denormal numbers."""


class Centred:
    """A kernel's points about their own centre, prepared once for any number of queries.

    Args:
        points: (N, D).
    """

    def __init__(self, points: torch.Tensor) -> None:
        self.centre = points.mean(dim=0)
        self.points = points - self.centre
        self.squares = self.points.square().sum(dim=1)

    def log_density(self, z: torch.Tensor, bandwidth: float) -> torch.Tensor:
        """Log of the mean over points of exp(-|z - z_i|^2 / bandwidth^2).

        Distances come from matrix products, centred first so that no digits are lost to the
        features' common offset; the sum is taken in the log domain, so that it neither under- nor
        overflows.

        Args:
            z: where to evaluate, (B, D).
            bandwidth: sigma.

        Returns:
            (B,), at most 0, with gradients to `z`.
        """
        z, scale = z - self.centre, 1 / bandwidth**2
        points, sizes = torch.split(self.points, TILE[1]), torch.split(self.squares, TILE[1])
        tiles = [(p, -scale * size) for p, size in zip(points, sizes, strict=True)]
        parts = []
        for rows in torch.split(z, TILE[0]):
            doubled = 2 * scale * rows
            # |z|^2 is the same for all points, so that it waits for the end
            sums = [_log_sum_of_exponentials(torch.addmm(size, doubled, p.T)) for p, size in tiles]
            own = scale * rows.square().sum(dim=1)
            parts.append(torch.logsumexp(torch.stack(sums), dim=0) - own)
        return (torch.cat(parts) - math.log(len(self.points))).clamp_max(0)


def log_kernel_density(z: torch.Tensor, points: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """As `Centred.log_density`, for points (N, D) that are asked about once."""
    return Centred(points).log_density(z, bandwidth)


def _log_sum_of_exponentials(values: torch.Tensor) -> torch.Tensor:
    """As `torch.logsumexp` over the columns of finite values, which it overwrites: (B, N) to (B,).

    Copies of so large a matrix would take longer than the exponentials themselves.
    """
    largest = values.detach().amax(dim=1, keepdim=True)
    shares = values.sub_(largest).clamp_min_(_NOTHING).exp_()
    return shares.sum(dim=1).log() + largest[:, 0]


class KDensity(Detector):
    """Minus the log kernel density of the features among the predicted class's training points.

    Pang et al. 2018, section 3.3 (after Feinman et al. 2017):
    KD(x) = 1/|X_c| sum over x_i in X_c of exp(-|z_i - z|^2 / sigma^2), where c is the predicted
    class of x and X_c the training points with the *label* c. The score is -log KD.

    Args:
        bandwidth: sigma, in units of the features. By default, when fitting, the one under which
            held-out training features are most likely (leave-one-out, over a grid of powers of
            sqrt(2) around the spread of the classes). The reports: `KDensity.PANG_CE` (sigma^2 =
            1/0.26) and `KDensity.PANG_RCE` (sigma^2 = 0.1/0.26) for ResNet-32.
        max_points: at most so many training points a class, spread evenly over the order in which
            they came; None keeps all.

    Raises:
        ConfigurationError: bandwidth or max_points is not positive.
    """

    PANG_CE: ClassVar[float] = math.sqrt(1 / 0.26)
    PANG_RCE: ClassVar[float] = math.sqrt(0.1 / 0.26)

    needs_features = True
    needs_fit = True
    paper = "pang 3.3; lemesle eq. 2"
    fit_cost = "F an image"
    query_cost = "distances to the training features of the predicted class"

    points: torch.Tensor
    offsets: torch.Tensor
    sigma: torch.Tensor

    def __init__(self, *, bandwidth: float | None = None, max_points: int | None = None) -> None:
        super().__init__()
        if bandwidth is not None and not (bandwidth > 0 and math.isfinite(bandwidth)):
            raise ConfigurationError(f"bandwidth (sigma) has to be > 0; got {bandwidth!r}.")
        if max_points is not None and max_points < 1:
            raise ConfigurationError(f"max_points has to be at least 1; got {max_points!r}.")
        self.bandwidth, self.max_points = bandwidth, max_points
        self._features: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._centred: tuple[torch.Tensor, int, list[Centred]] | None = None
        self.register_buffer("points", torch.empty(0, 0))
        self.register_buffer("offsets", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("sigma", torch.zeros((), dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether it has points."""
        return len(self.points) > 0

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"bandwidth": self.bandwidth, "max_points": self.max_points}

    def begin(self) -> None:
        """Forgets what an interrupted fit took in."""
        self._features, self._labels = [], []

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Takes in the features of a batch."""
        self._features.append(observation.features.detach())
        self._labels.append(y)

    def finish(self, num_classes: int) -> None:
        """Sorts the points by class and chooses the bandwidth.

        Raises:
            InputError: a class has no training point.
        """
        features, labels = torch.cat(self._features), torch.cat(self._labels)
        self._features, self._labels = [], []
        classes = []
        for number in range(num_classes):
            of_class = features[labels == number]
            if len(of_class) == 0:
                raise InputError(
                    f"KDensity needs training points of every class; class {number} of "
                    f"{num_classes} has none. Fit on data in which each class occurs."
                )
            classes.append(evenly(of_class, self.max_points))
        sizes = torch.tensor([0, *(len(of_class) for of_class in classes)])
        self.points = torch.cat(classes).clone()
        self.offsets = sizes.cumsum(0)
        sigma = self.bandwidth or likeliest_bandwidth(classes)
        self.sigma = torch.tensor(sigma, dtype=torch.float64)

    def score(self, observation: Observation) -> torch.Tensor:
        """-log KD(x), (B,), at least 0."""
        self.require_fitted()
        features, prediction = observation.features, observation.prediction
        bandwidth = float(self.sigma)
        classes = self._classes(features.dtype)
        rows, densities = [], []
        for number in torch.unique(prediction).tolist():
            mine = (prediction == number).nonzero().flatten()
            rows.append(mine)
            densities.append(classes[number].log_density(features[mine], bandwidth))
        order = torch.cat(rows).argsort()
        return -torch.cat(densities)[order]

    def _classes(self, dtype: torch.dtype) -> list[Centred]:
        """The points of each class; to prepare them takes longer than a batch's own distances."""
        points = self.points
        version = 0 if points.is_inference() else points._version
        if self._centred is not None:
            known, known_version, classes = self._centred
            if known is points and known_version == version and classes[0].points.dtype == dtype:
                return classes
        bounds = self.offsets.tolist()
        # prepared while images are judged, they serve attacks too, which differentiate
        with torch.inference_mode(False), torch.no_grad():
            classes = [
                Centred(points[start:end].to(dtype)) for start, end in itertools.pairwise(bounds)
            ]
        self._centred = points, version, classes
        return classes


def likeliest_bandwidth(classes: list[torch.Tensor], *, sample: int = 400) -> float:
    """The bandwidth under which each class's points are likeliest given its other points.

    Args:
        classes: the features of each class, (N_c, D).
        sample: at most so many points of each class are looked at.

    Returns:
        sigma, chosen from a grid of factors sqrt(2) that spans 2^-8 to 2^2 times the
        root-mean-square distance to the class's mean.
    """
    spread = math.sqrt(
        sum(float((c.double() - c.double().mean(0)).square().sum()) for c in classes)
        / sum(len(c) for c in classes)
    )
    if spread == 0:
        return 1.0
    grid = [spread * 2 ** (step / 2) for step in range(-16, 5)]
    likelihood = torch.zeros(len(grid), dtype=torch.float64)
    for of_class in classes:
        points = of_class[:: -(-len(of_class) // sample)].double()
        if len(points) < 2:
            continue
        squared = torch.cdist(points, points).square().fill_diagonal_(torch.inf)
        for index, sigma in enumerate(grid):
            density = torch.logsumexp(-squared / sigma**2, dim=1) - math.log(len(points) - 1)
            normaliser = 0.5 * points.shape[1] * math.log(math.pi * sigma**2)
            likelihood[index] += (density - normaliser).sum().cpu()
    if not bool(likelihood.any()):
        return spread
    return grid[int(likelihood.argmax())]
