"""The Mahalanobis distance of the features to the nearest class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from notsure.core.errors import ConfigurationError, InputError
from notsure.detectors.base import Detector
from notsure.observation import Observation


@dataclass(eq=False)
class _Moments:
    """Sums over a stream of features, float64, from which means and covariances follow.

    Attributes:
        shift: (D,), subtracted from every feature, so that squares lose no digits to an offset.
        counts: (K,), how many features each class has.
        sums: (K, D), their sums.
        products: (D, D), the sum of all their outer products.
    """

    shift: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    products: torch.Tensor

    @classmethod
    def around(cls, features: torch.Tensor, num_classes: int) -> _Moments:
        """Nothing yet, shifted by the mean of the first features."""
        size = features.shape[1]
        zero = features.new_zeros
        return cls(
            features.mean(dim=0), zero(num_classes), zero(num_classes, size), zero(size, size)
        )

    def add(self, features: torch.Tensor, y: torch.Tensor) -> None:
        """Takes in features (B, D) of labels (B,)."""
        features = features - self.shift
        one_hot = features.new_zeros(len(features), len(self.counts)).scatter_(1, y[:, None], 1.0)
        self.counts = self.counts + one_hot.sum(dim=0)
        self.sums = self.sums + one_hot.T @ features
        self.products = self.products + features.T @ features

    def class_means(self) -> torch.Tensor:
        """(K, D), without the shift."""
        return self.sums / self.counts[:, None]

    def within(self) -> torch.Tensor:
        """The classes' shared covariance (D, D): the mean square around each one's own mean."""
        between = (self.class_means() * self.counts[:, None]).T @ self.class_means()
        return (self.products - between) / self.counts.sum()

    def mean(self) -> torch.Tensor:
        """Of all features, (D,), without the shift."""
        return self.sums.sum(dim=0) / self.counts.sum()

    def overall(self) -> torch.Tensor:
        """The covariance (D, D) around the mean of all."""
        return self.products / self.counts.sum() - torch.outer(self.mean(), self.mean())


class Mahalanobis(Detector):
    """The squared Mahalanobis distance of the features to the nearest class.

    Lee et al. 2018: each class's features are taken for Gaussian, with a mean of its own and one
    covariance for all. With `relative` (Ren et al. 2021) the distance to a single Gaussian of all
    features is subtracted, which leaves out directions in which every image is far away.

    Deviations: the features of one layer, where the paper weighs several by a logistic regression
    on adversarial examples (`LearnedCombination` learns such weights); the image is not changed
    beforehand.

    Args:
        relative: whether to subtract the distance to the Gaussian of all features.
        shrinkage: in [0, 1]: the covariance is moved by this share towards the multiple of the
            identity with the same trace, since features that never vary (a dead ReLU's) make it
            singular.

    Raises:
        ConfigurationError: shrinkage is out of range.
    """

    needs_features = True
    needs_fit = True
    paper = "Lee et al. 2018; Ren et al. 2021"
    fit_cost = "F an image"
    query_cost = "distances to the classes' means"

    centre: torch.Tensor
    means: torch.Tensor
    factor: torch.Tensor
    background_mean: torch.Tensor
    background_factor: torch.Tensor

    def __init__(self, *, relative: bool = False, shrinkage: float = 1e-3) -> None:
        super().__init__()
        if not 0 <= shrinkage <= 1:
            raise ConfigurationError(f"shrinkage has to be in [0, 1]; got {shrinkage!r}.")
        self.relative, self.shrinkage = relative, shrinkage
        self._moments: _Moments | None = None
        double = torch.float64
        # the whitened features (z - centre) @ factor have the identity for a covariance
        self.register_buffer("centre", torch.empty(0, dtype=double))
        self.register_buffer("factor", torch.empty(0, 0, dtype=double))
        self.register_buffer("means", torch.empty(0, 0, dtype=double))
        self.register_buffer("background_mean", torch.empty(0, dtype=double))
        self.register_buffer("background_factor", torch.empty(0, 0, dtype=double))

    @property
    def fitted(self) -> bool:
        """Whether it has means."""
        return len(self.means) > 0

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"relative": self.relative, "shrinkage": self.shrinkage}

    def begin(self) -> None:
        """Forgets what an interrupted fit took in."""
        self._moments = None

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Takes in the features of a batch; what is kept does not grow with their number."""
        features = observation.features.detach().double()
        if self._moments is None:
            self._moments = _Moments.around(features, observation.logits.shape[1])
        self._moments.add(features, y)

    def finish(self, num_classes: int) -> None:
        """Computes means and precision.

        Raises:
            InputError: a class has no training point, or the covariance is singular.
        """
        moments, self._moments = self._moments, None
        if moments is None:
            raise InputError("Mahalanobis has seen no training data: guard.fit(x_train, y_train).")
        missing = (moments.counts == 0).nonzero().flatten().tolist()
        if missing:
            raise InputError(
                f"Mahalanobis needs training points of every class; class {missing[0]} of "
                f"{num_classes} has none. Fit on data in which each class occurs."
            )
        self.centre = (moments.shift + moments.mean()).clone()
        self.factor = self._precision_factor(moments.within())
        self.means = (moments.class_means() - moments.mean()) @ self.factor
        if self.relative:
            self.background_mean = self.centre.clone()
            self.background_factor = self._precision_factor(moments.overall())

    def _precision_factor(self, covariance: torch.Tensor) -> torch.Tensor:
        """The triangular P with P P^T = the inverse of the shrunk covariance, (D, D)."""
        size = len(covariance)
        covariance = (covariance + covariance.T) / 2
        level = covariance.diagonal().mean()
        identity = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * level * identity
        lower, failed = torch.linalg.cholesky_ex(shrunk)
        pivots = lower.diagonal().square()
        resolved = 10 * size * torch.finfo(shrunk.dtype).eps * shrunk.diagonal().amax()
        if int(failed) or not bool((pivots > resolved).all()):
            raise InputError(
                "The covariance of the features is singular: some do not vary within the classes, "
                "or there are fewer images than features. Fit on more data, or raise shrinkage "
                f"(now {self.shrinkage:g})."
            )
        inverse: torch.Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
        return inverse.T.contiguous()

    def score(self, observation: Observation) -> torch.Tensor:
        """The squared distance, (B,), at least 0; minus the one to all features if relative."""
        self.require_fitted()
        features = observation.features
        kind = features.dtype
        white = (features - self.centre.to(kind)) @ self.factor.to(kind)
        means = self.means.to(kind)
        with torch.no_grad():
            # |white|^2 is the same for every class
            closest = (means.square().sum(dim=1) - 2 * (white @ means.T)).argmin(dim=1)
        distance = (white - means[closest]).square().sum(dim=1)
        if not self.relative:
            return distance
        away = (features - self.background_mean.to(kind)) @ self.background_factor.to(kind)
        return distance - away.square().sum(dim=1)
