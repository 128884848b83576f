"""How the log-odds of the classes change under noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.randomness import Streams, own_streams
from notsure.detectors.base import Detector
from notsure.observation import Observation

_FLOOR = 1e-6
"""Smallest deviation, as a share of the largest: noise may move the log-odds of an image by
hardly more than rounding, and a linear network's are all moved alike."""


class LogOdds(Detector):
    """How far noise moves the log-odds towards another class, beyond what clean images show.

    Martin et al. 2019, section 9.3, after Roth et al. 2019. With f_{y,z} = logit_z - logit_y of the
    predicted class y and another class z,

        g_{y,z}(x) = mean over noise of f_{y,z}(x + noise) - f_{y,z}(x),

    standardised by its mean and standard deviation over clean training images that are predicted
    as y. The score is the largest of these z-scores over z, minus tau. x + noise is not clipped to
    [0,1], which would make the noise depend on the image.

    Where fewer than two training images are predicted as a class, its pairs (y, z) take the
    statistics of z over all predicted classes together, and of all pairs where there are none
    either; a warning names these classes.

    A score takes as many forward passes as there are draws, and the memory of as many where it is
    differentiated.

    Deviations: the statistics are of the mean over the draws and go by the predicted class (Roth's
    are of single draws, by the true label); one level of noise; one tau for all pairs, which only
    moves the origin, since the guard calibrates. The report's tau of 1.28 is `LogOdds.TAU`.

    Args:
        sigma: standard deviation of the Gaussian noise, in [0,1] pixel units.
        draws: how many noise patterns the mean is over.
        tau: subtracted from the z-score; with the report's an image is flagged at a score above 0.
        fresh: draw other noise at every pass, from the images' own random streams. By default the
            patterns are drawn once and the score is a fixed function of the image.
        max_points: at most so many training images of each predicted class are looked at, the
            first that come; None for all. They cost `draws` passes each.
        seed: of the patterns, and of the noise in the fit.

    Raises:
        ConfigurationError: a setting is out of range.
    """

    TAU: ClassVar[float] = 1.28

    needs_fit = True
    paper = "martin 9.3; Roth et al. 2019"
    fit_cost = "F an image, and F a draw for max_points images of each class"
    query_cost = "F a draw, 32 F by default"

    stochastic: bool
    patterns: torch.Tensor
    means: torch.Tensor
    deviations: torch.Tensor

    def __init__(
        self,
        *,
        sigma: float = 0.05,
        draws: int = 32,
        tau: float = 0.0,
        fresh: bool = False,
        max_points: int | None = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (sigma > 0 and math.isfinite(sigma)):
            raise ConfigurationError(f"sigma of the noise has to be > 0; got {sigma!r}.")
        if draws < 1:
            raise ConfigurationError(f"draws of the noise have to be at least 1; got {draws!r}.")
        if not math.isfinite(tau):
            raise ConfigurationError(f"tau has to be a finite number; got {tau!r}.")
        if max_points is not None and max_points < 2:
            raise ConfigurationError(
                f"max_points has to be at least 2, for a standard deviation; got {max_points!r}."
            )
        self.sigma, self.draws, self.tau = sigma, draws, tau
        self.fresh = self.stochastic = fresh
        self.max_points, self.seed = max_points, seed
        self._sums: _Sums | None = None
        self.register_buffer("patterns", torch.empty(0))
        self.register_buffer("means", torch.empty(0, 0, dtype=torch.float64))
        self.register_buffer("deviations", torch.empty(0, 0, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether it has statistics."""
        return len(self.means) > 0

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "sigma": self.sigma,
            "draws": self.draws,
            "tau": self.tau,
            "fresh": self.fresh,
            "max_points": self.max_points,
            "seed": self.seed,
        }

    def begin(self) -> None:
        """Forgets what an interrupted fit took in."""
        self._sums = None

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Takes in a batch; what is kept does not grow with the number of images."""
        if self._sums is None:
            # made outside of inference mode, since scores are differentiated through them
            with torch.inference_mode(False):
                self._prepare(observation)
                self._sums = _Sums(observation.logits.shape[1], observation.x.device)
        rows = self._sums.wanted(observation.prediction, self.max_points)
        if len(rows) == 0:
            return
        streams = Streams.of(content_keys(observation.x), self.seed) if self.fresh else None
        with torch.no_grad():
            changes = self._changes(observation, rows=rows, streams=streams)
        self._sums.add(changes.double(), observation.prediction[rows])

    def _prepare(self, observation: Observation) -> None:
        if self.fresh:
            self.patterns = torch.empty(0)
            return
        numbers = torch.arange(self.draws, device=observation.x.device)
        self.patterns = Streams.of(numbers, self.seed).normal(observation.x.shape[1:])

    def finish(self, num_classes: int) -> None:
        """Computes the statistics.

        Raises:
            InputError: there are fewer than two training images.
        """
        sums, self._sums = self._sums, None
        if sums is None or float(sums.counts.sum()) < 2:
            raise InputError("LogOdds needs at least two training images: fit on more.")
        rare = (sums.counts < 2).nonzero().flatten().tolist()
        if rare:
            warnings.warn(
                f"LogOdds: fewer than 2 training images are predicted as class "
                f"{', '.join(str(number) for number in rare)}; their statistics are pooled over "
                "the other classes.",
                stacklevel=2,
            )
        self.means, self.deviations = sums.statistics()

    def _noise(self, observation: Observation, streams: Streams | None) -> Iterator[torch.Tensor]:
        """One draw after another: (C, H, W) for all images, or (B, C, H, W)."""
        x = observation.x
        if not self.fresh:
            for pattern in self.patterns:
                yield pattern.to(x.dtype)
            return
        for draw in range(self.draws):
            own = own_streams(len(x)) if streams is None else streams.fork(draw)
            if own is None:
                yield torch.randn_like(x)
            else:
                yield own.normal(x.shape[1:], dtype=x.dtype)

    def _changes(
        self,
        observation: Observation,
        *,
        rows: torch.Tensor | None = None,
        streams: Streams | None = None,
    ) -> torch.Tensor:
        """g_{y,z}(x) for the predicted class y and each class z, (B, K); 0 for z = y."""
        x, logits, label = observation.x, observation.logits, observation.prediction
        total = torch.zeros_like(logits if rows is None else logits[rows])
        for noise in self._noise(observation, streams):
            noisy = x + self.sigma * noise
            # pass by pass, so that each image of a stochastic network keeps its own stream
            total = total + observation.logits_of(noisy if rows is None else noisy[rows])
        if rows is not None:
            logits, label = logits[rows], label[rows]
        moved = total / self.draws - logits
        return moved - moved.gather(1, label[:, None])

    def score(self, observation: Observation) -> torch.Tensor:
        """The largest z-score over the other classes, minus tau, (B,).

        Raises:
            InputError: the images are of another size than those of the fit.
        """
        self.require_fitted()
        if not self.fresh and observation.x.shape[1:] != self.patterns.shape[1:]:
            raise InputError(
                f"LogOdds was fitted on images of shape {tuple(self.patterns.shape[1:])}; these "
                f"have {tuple(observation.x.shape[1:])}: fit another one for them."
            )
        label = observation.prediction
        changes = self._changes(observation)
        means = self.means[label].to(changes.dtype)
        deviations = self.deviations[label].to(changes.dtype)
        standardised = (changes - means) / deviations
        others = standardised.scatter(1, label[:, None], -torch.inf)
        return others.amax(dim=1) - self.tau


class _Sums:
    """Count, sum and sum of squares of g_{y,z} for each pair, float64."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.first = self.counts.new_zeros(num_classes, num_classes)
        self.second = self.first.clone()

    def wanted(self, label: torch.Tensor, most: int | None) -> torch.Tensor:
        """The images of a batch, by their predicted classes (B,), that are not too many yet."""
        if most is None:
            return torch.arange(len(label), device=label.device)
        one_hot = (label[:, None] == torch.arange(len(self.counts), device=label.device)).long()
        before = self.counts.long() + one_hot.cumsum(dim=0) - one_hot
        return (before.gather(1, label[:, None])[:, 0] < most).nonzero().flatten()

    def add(self, changes: torch.Tensor, label: torch.Tensor) -> None:
        """Takes in g (B, K) of images predicted as `label`, (B,)."""
        one_hot = torch.zeros_like(changes).scatter_(1, label[:, None], 1.0)
        self.counts = self.counts + one_hot.sum(dim=0)
        self.first = self.first + one_hot.T @ changes
        self.second = self.second + one_hot.T @ changes.square()

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each pair (y, z), (K, K) each; 0 and 1 for z = y."""
        size = len(self.counts)
        same = torch.eye(size, dtype=torch.bool, device=self.counts.device)
        counts = self.counts[:, None].expand(size, size).masked_fill(same, 0.0)
        pairs = torch.stack([counts, self.first, self.second])
        per_class = pairs.sum(dim=1, keepdim=True)
        overall = pairs.sum(dim=(1, 2), keepdim=True)
        # from the pair itself to the class z to everything, until there is enough to go by
        for wider in (per_class, overall):
            pairs = torch.where(pairs[0] < 2, wider, pairs)
        count, first, second = pairs
        mean = first / count
        variance = ((second - first * mean) / (count - 1)).clamp_min(0)
        largest = float(variance.amax().sqrt()) or 1.0
        deviation = variance.sqrt().clamp_min(_FLOOR * largest)
        return mean.masked_fill(same, 0.0), deviation.masked_fill(same, 1.0)
