"""The norms: how far, how to come back, where to start, which way is steepest.

Each works on perturbations (B, C, H, W) with per-sample radii, and knows the box: `low` and `high`
are how far each pixel may still move down and up without leaving [0,1] (low <= 0 <= high).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from notsure.core.errors import ConfigurationError
from notsure.core.randomness import Streams


def _per_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *([1] * (like.ndim - 1)))


@dataclass(frozen=True)
class Norm(ABC):
    """A norm with all that an attack needs of it."""

    name: ClassVar[str]

    @abstractmethod
    def distance(self, delta: torch.Tensor) -> torch.Tensor:
        """The norm of each perturbation, (B,)."""

    @abstractmethod
    def project(
        self, delta: torch.Tensor, radius: float, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """The nearest (l2) point to each perturbation in the ball and the box at once.

        Args:
            delta: perturbations (B, C, H, W).
            radius: of the ball, in [0,1] pixel units.
            low: the box's lower corner, seen from the clean image, (B, C, H, W).
            high: its upper corner.
        """

    @abstractmethod
    def random_point(self, streams: Streams, like: torch.Tensor, radius: float) -> torch.Tensor:
        """A point drawn uniformly from the ball (not from the box), one a sample.

        Args:
            streams: the samples' random numbers.
            like: a batch of the shape and type that is wanted.
            radius: of the ball.
        """

    @abstractmethod
    def steepest_step(
        self,
        gradient: torch.Tensor,
        length: float | torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
    ) -> torch.Tensor:
        """The step of at most this length along which a linear function grows most.

        The length is one for all samples or one each, (B, 1, 1, 1). `low` and `high` are the room
        left from where the step starts. Linf's steps may overshoot the box, which the projection
        undoes pixel by pixel; those of l2 and l1 spend nothing on pixels that cannot move.

        Args:
            gradient: of the function, (B, C, H, W).
            length: in this norm.
            low: how far each pixel may go down, (B, C, H, W), at most 0.
            high: how far it may go up, at least 0.
        """

    @abstractmethod
    def shortest_step(
        self, gradient: torch.Tensor, rise: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """The shortest step that makes a linear function grow by `rise` within the box.

        That is the exact projection onto the half-space <gradient, step> >= rise and the box at
        once, in this norm. Where the box does not hold such a step, the one that rises most.

        Args:
            gradient: of the function (B, C, H, W).
            rise: how much it has to grow (B,); the step is 0 where that is not positive.
            low: the room left downwards (B, C, H, W), at most 0.
            high: the room left upwards (B, C, H, W), at least 0.
        """

    @abstractmethod
    def dual(self, gradient: torch.Tensor) -> torch.Tensor:
        """How much a linear function grows over a step of length 1, (B,): the dual norm."""

    @abstractmethod
    def largest_radius(self, size: int) -> float:
        """The radius beyond which the ball around any image of `size` values holds the box."""


@dataclass(frozen=True)
class Linf(Norm):
    """The largest change of any pixel value."""

    name: ClassVar[str] = "linf"

    def distance(self, delta: torch.Tensor) -> torch.Tensor:
        """The norm of each perturbation, (B,)."""
        return delta.abs().flatten(1).amax(dim=1)

    def project(
        self, delta: torch.Tensor, radius: float, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """Clips each pixel's change to the radius and the box."""
        return delta.clamp(-radius, radius).clamp_(low, high)

    def random_point(self, streams: Streams, like: torch.Tensor, radius: float) -> torch.Tensor:
        """Each pixel's change uniform in [-radius, radius]."""
        return (streams.uniform(like.shape[1:], dtype=like.dtype) * 2 - 1) * radius

    def steepest_step(
        self,
        gradient: torch.Tensor,
        length: float | torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
    ) -> torch.Tensor:
        """The sign of the gradient times the length."""
        return gradient.sign() * length

    def shortest_step(
        self, gradient: torch.Tensor, rise: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """Every pixel by the same amount, or as far as its room goes."""
        slope, room, flat = _slopes(gradient, low, high)
        size = _level(room, slope, rise)
        return (flat.sign() * size.minimum(room)).view_as(gradient)

    def dual(self, gradient: torch.Tensor) -> torch.Tensor:
        """How much a linear function grows over a step of length 1, (B,)."""
        return gradient.abs().flatten(1).sum(dim=1)

    def largest_radius(self, size: int) -> float:
        """1: no pixel can change by more."""
        return 1.0


@dataclass(frozen=True)
class L2(Norm):
    """The Euclidean length of the perturbation."""

    name: ClassVar[str] = "l2"

    def distance(self, delta: torch.Tensor) -> torch.Tensor:
        """The norm of each perturbation, (B,)."""
        length: torch.Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def project(
        self, delta: torch.Tensor, radius: float, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """Clips to the box what is shrunk towards the image, as little as it takes.

        The nearest point is clip(s * delta) for the largest s <= 1 whose length fits. The length
        is piecewise simple in s: fix the clipped pixels, solve for s, repeat; s only grows towards
        the solution, and a handful of rounds find it.
        """
        projected = delta.clamp(low, high)
        far = self.distance(projected) > radius
        if not bool(far.any()):
            return projected
        wanted, low, high = delta[far].flatten(1), low[far].flatten(1), high[far].flatten(1)
        scale = radius / torch.linalg.vector_norm(wanted, dim=1, keepdim=True)
        for _ in range(20):
            candidate = (wanted * scale).clamp(low, high)
            free = candidate == wanted * scale
            clipped = torch.where(free, 0, candidate).square().sum(dim=1, keepdim=True)
            rest = torch.where(free, wanted, 0).square().sum(dim=1, keepdim=True)
            better = ((radius**2 - clipped).clamp_min(0) / rest.clamp_min(1e-30)).sqrt()
            better = better.clamp(max=1).maximum(scale)
            if bool((better <= scale * (1 + 1e-6)).all()):
                break
            scale = better
        candidate = (wanted * scale).clamp(low, high)
        length = torch.linalg.vector_norm(candidate, dim=1, keepdim=True)
        candidate *= (radius / length.clamp_min(1e-30)).clamp(max=1)
        projected[far] = candidate.view_as(delta[far])
        return projected

    def random_point(self, streams: Streams, like: torch.Tensor, radius: float) -> torch.Tensor:
        """A uniform direction, and a length that makes the ball's volume uniform."""
        direction = streams.fork(1).normal(like.shape[1:], dtype=like.dtype)
        share = streams.fork(2).uniform((1,), dtype=like.dtype)[:, 0]
        length = radius * share ** (1 / like[0].numel())
        return direction * _per_sample(length / self.distance(direction), like)

    def steepest_step(
        self,
        gradient: torch.Tensor,
        length: float | torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
    ) -> torch.Tensor:
        """The gradient over the pixels that can follow it, scaled to the length."""
        gradient = _movable(gradient, low, high)
        # dividing by the largest entry first keeps tiny gradients from underflowing when squared
        peak = _per_sample(gradient.abs().flatten(1).amax(dim=1), gradient)
        gradient = gradient / torch.where(peak > 0, peak, 1)
        size = _per_sample(self.distance(gradient), gradient)
        return gradient * (length / size.clamp_min(1e-30))

    def shortest_step(
        self, gradient: torch.Tensor, rise: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """Every pixel in proportion to its slope, or as far as its room goes."""
        slope, room, flat = _slopes(gradient, low, high)
        peak = slope.amax(dim=1, keepdim=True)
        slope = slope / torch.where(peak > 0, peak, 1)
        # pixel i stops moving at the factor room / slope; until then it rises by slope**2
        stops = room / slope.clamp_min(1e-30)
        factor = _level(stops, slope.square(), rise / peak[:, 0].clamp_min(1e-30))
        return (flat.sign() * (slope * factor).minimum(room)).view_as(gradient)

    def dual(self, gradient: torch.Tensor) -> torch.Tensor:
        """How much a linear function grows over a step of length 1, (B,)."""
        return self.distance(gradient)

    def largest_radius(self, size: int) -> float:
        """The length of the box's diagonal."""
        return math.sqrt(size)


@dataclass(frozen=True)
class L1(Norm):
    """The sum of all changes of pixel values."""

    name: ClassVar[str] = "l1"

    def distance(self, delta: torch.Tensor) -> torch.Tensor:
        """The norm of each perturbation, (B,)."""
        return delta.abs().flatten(1).sum(dim=1)

    def project(
        self, delta: torch.Tensor, radius: float, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """Shrinks every change by the same amount, to 0 at most, and clips to the box.

        The nearest point is sign(d) * min(max(|d| - t, 0), room) for the t at which its sum is the
        radius; that sum is piecewise linear in t, with a kink wherever a pixel starts to count and
        wherever its room is used up, so sorting the kinks finds t exactly (the box belongs into
        the projection: Croce & Hein 2021, "Mind the box").
        """
        projected = delta.clamp(low, high)
        far = self.distance(projected) > radius
        if not bool(far.any()):
            return projected
        wanted = delta[far].flatten(1)
        room = torch.where(wanted > 0, high[far].flatten(1), -low[far].flatten(1))
        size = wanted.abs()
        kinks = torch.cat([size, size - room], dim=1).clamp_min_(0)
        slopes = torch.cat([torch.ones_like(size), -torch.ones_like(size)], dim=1)
        kinks, order = kinks.sort(dim=1, descending=True)
        counting = slopes.gather(1, order).cumsum(dim=1)
        gaps = kinks[:, :-1] - kinks[:, 1:]
        sums = torch.cat([torch.zeros_like(kinks[:, :1]), (counting[:, :-1] * gaps).cumsum(1)], 1)
        # the segment in which the sum passes the radius, from large t to small
        last = ((sums <= radius).sum(dim=1, keepdim=True) - 1).clamp_min(0)
        excess = (radius - sums.gather(1, last)) / counting.gather(1, last).clamp_min(1)
        shrink = kinks.gather(1, last) - excess
        shrunk = wanted.sign() * (size - shrink).clamp_min(0).minimum(room)
        total = shrunk.abs().sum(dim=1, keepdim=True)
        shrunk *= (radius / total.clamp_min(1e-30)).clamp(max=1)
        projected[far] = shrunk.view_as(delta[far])
        return projected

    def random_point(self, streams: Streams, like: torch.Tensor, radius: float) -> torch.Tensor:
        """Uniform in the cross-polytope: normalised exponentials with random signs."""
        size = like[0].numel()
        # with one entry more than pixels the normalised ones fill the ball, not its surface
        spread = streams.fork(1).exponential((size + 1,), dtype=like.dtype)
        signs = streams.fork(2).uniform((size,), dtype=like.dtype).sub_(0.5).sign_()
        point = spread[:, :size] / spread.sum(dim=1, keepdim=True) * signs * radius
        return point.view_as(like)

    def steepest_step(
        self,
        gradient: torch.Tensor,
        length: float | torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
    ) -> torch.Tensor:
        """All of the length on the steepest pixels, each as far as the box lets it."""
        flat = _movable(gradient, low, high).flatten(1)
        room = torch.where(flat > 0, high.flatten(1), -low.flatten(1))
        room = torch.where(flat == 0, 0, room)
        order = flat.abs().argsort(dim=1, descending=True)
        steps = room.gather(1, order)
        used_before = steps.cumsum(dim=1) - steps
        left = (length.flatten(1) if isinstance(length, torch.Tensor) else length) - used_before
        steps = steps.minimum(left.clamp_min(0))
        return torch.zeros_like(flat).scatter_(1, order, steps).mul_(flat.sign()).view_as(gradient)

    def shortest_step(
        self, gradient: torch.Tensor, rise: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        """The steepest pixels first, each as far as its room goes, the last one in part."""
        slope, room, flat = _slopes(gradient, low, high)
        order = slope.argsort(dim=1, descending=True)
        steps, slopes = room.gather(1, order), slope.gather(1, order)
        rises = steps * slopes
        missing = (rise[:, None].clamp_min(0) - (rises.cumsum(dim=1) - rises)).clamp_min(0)
        steps = steps.minimum(missing / slopes.clamp_min(1e-30))
        return torch.zeros_like(flat).scatter_(1, order, steps).mul_(flat.sign()).view_as(gradient)

    def dual(self, gradient: torch.Tensor) -> torch.Tensor:
        """How much a linear function grows over a step of length 1, (B,)."""
        return gradient.abs().flatten(1).amax(dim=1)

    def largest_radius(self, size: int) -> float:
        """The number of pixel values."""
        return float(size)


def _slopes(
    gradient: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each pixel's slope and its room the way it rises, both at least 0, and the gradient, flat."""
    flat = gradient.flatten(1)
    room = torch.where(flat > 0, high.flatten(1), -low.flatten(1)).clamp_min(0)
    return torch.where(room > 0, flat.abs(), 0), torch.where(flat == 0, 0, room), flat


def _level(stops: torch.Tensor, slopes: torch.Tensor, rise: torch.Tensor) -> torch.Tensor:
    """The t at which sum_i slopes_i * min(t, stops_i) reaches `rise`, (B, 1); its end if never.

    The sum is piecewise linear and concave in t, with a kink wherever a pixel stops: sorting the
    stops finds t exactly.
    """
    stops, order = stops.sort(dim=1)
    slopes = slopes.gather(1, order)
    # before stop i the sum grows with the slopes of all that have not stopped
    running = slopes.flip(1).cumsum(dim=1).flip(1)
    gaps = torch.cat([stops[:, :1], stops[:, 1:] - stops[:, :-1]], dim=1)
    sums = (running * gaps).cumsum(dim=1)
    wanted = rise[:, None].clamp_min(0)
    last = (sums < wanted).sum(dim=1, keepdim=True).clamp(max=stops.shape[1] - 1)
    short = (sums.gather(1, last) - wanted) / running.gather(1, last).clamp_min(1e-30)
    level = stops.gather(1, last) - short.clamp_min(0)
    return torch.where(wanted > 0, level.clamp_min(0), 0)


def _movable(gradient: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The gradient without the pixels that stand at the end of the box it points to."""
    blocked = ((gradient > 0) & (high <= 0)) | ((gradient < 0) & (low >= 0))
    return gradient.masked_fill(blocked, 0)


NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf(), L2(), L1())}


def check_norm(attack: str, norm: str, defined: tuple[str, ...]) -> None:
    """Checks that an attack is defined for a norm.

    Raises:
        ConfigurationError: it is not.
    """
    if norm not in defined:
        raise ConfigurationError(
            f"{attack} is defined for norm {' and '.join(defined)}; got {norm!r}."
        )


def norm_named(name: str) -> Norm:
    """The norm of that name.

    Raises:
        ConfigurationError: there is no such norm.
    """
    found = NORMS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigurationError(
            f"There is no norm {name!r}. There are: {', '.join(NORMS)} (as in norm='linf')."
        )
    return found
