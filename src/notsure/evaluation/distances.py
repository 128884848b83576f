"""How far adversarial images are from the clean ones, and accuracy against that distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from notsure.core.errors import ConfigurationError
from notsure.evaluation.grouping import Bools, Group, Grouped, labels, settings_without
from notsure.evaluation.intervals import Rate, rate_of, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import Run, tolerance

NORMS = ("l0", "l1", "l2", "linf")

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Distortion(Run):
    """How far the images of an attack are from their clean versions, in [0,1] pixel units.

    Over the images that the attack newly fooled the guard with: accepted and right when clean,
    accepted and wrong when attacked. Of several substitutes, the nearest one that fooled it counts.
    All figures are NaN where there is no such image.

    Attributes:
        median: of the l2 distances.
        mean: of the l2 distances.
        root_mean_square: mean over the images of the root of the mean squared change of a pixel
            value, on 0..255 (pang's RMS).
        l0: median number of changed pixel values.
        l1: median l1 distance.
        linf: median largest change of a pixel value.
        count: number of these images.
    """

    median: float
    mean: float
    root_mean_square: float
    l0: float
    l1: float
    linf: float
    count: int


def minimal_distortions(records: Records) -> list[Distortion]:
    """The distortion of every attack on every guard under every threat.

    Of an attack with a budget it says how much of the budget was used.

    Args:
        records: of one seed; rows of probes are left out.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one.
    """
    grouped = Grouped(records)
    pixels = math.prod(grouped.meta["image_shape"])
    return [
        _distortion(grouped, group, pixels)
        for guard in grouped.guards
        for group in grouped.attacked(guard)
    ]


def _distortion(grouped: Grouped, group: Group, pixels: int) -> Distortion:
    fooled = grouped.fooled(group) & grouped.clean_right(group.guard)
    found = fooled.any(axis=0)
    far = {name: _nearest(grouped, group, name, fooled)[found] for name in NORMS}
    median = {name: float(np.median(its)) if len(its) else math.nan for name, its in far.items()}
    mean = float(far["l2"].mean()) if len(far["l2"]) else math.nan
    return Distortion(
        *group.key,
        median=median["l2"],
        mean=mean,
        root_mean_square=255 * mean / math.sqrt(pixels),
        l0=median["l0"],
        l1=median["l1"],
        linf=median["linf"],
        count=int(found.sum()),
    )


def _nearest(grouped: Grouped, group: Group, norm: str, fooled: Bools) -> _Floats:
    """The distance (n,) of the nearest version that fooled the guard; infinite without one."""
    distance = grouped.of(group, norm).astype(np.float64)
    return np.asarray(np.where(fooled, distance, np.inf).min(axis=0))


@dataclass(frozen=True, kw_only=True)
class DistancePoint:
    """What is left when only images within a distance count.

    Attributes:
        distance: in [0,1] pixel units.
        lenient: robust accuracy counting a rejected input as safe: not (accepted and wrong).
    """

    distance: float
    lenient: Rate


def accuracy_against_distance(
    records: Records, norm: str = "l2", points: int = 101, *, bounded: bool = False
) -> dict[tuple[str, str, str], list[DistancePoint]]:
    """Robust accuracy against distance of every minimum-norm attack, or of every attack.

    With `bounded` the curves are those of martin's Figures 10 and 11, which raise the eps of an
    attack and measure how far its images are: all eps of an attack count as one search, and an
    image falls at the nearest of those that fooled the guard.

    Args:
        records: of one seed; rows of probes are left out.
        norm: that the distance is measured in: l0, l1, l2 or linf.
        points: at most so many on a curve; they stand where the accuracy falls, evenly by the
            number of images, the first at distance 0, which is that of the clean images.
        bounded: whether attacks with a budget are meant as well.

    Returns:
        For each (guard, threat, attack), its curve by rising distance. The attack is its class,
        with its norm or the identity of its largest eps where several attacks are of that class.

    Raises:
        ConfigurationError: no such norm, or too few points, or an attack does not cover the clean
            images one to one.
    """
    if norm not in NORMS:
        raise ConfigurationError(f"norm is one of {', '.join(NORMS)}; got {norm!r}.")
    if points < 2:
        raise ConfigurationError(f"A curve has at least 2 points; got points={points}.")
    grouped = Grouped(records)
    curves = {}
    for guard in grouped.guards:
        searches = _searches(grouped, guard, bounded)
        names = labels([groups[-1] for groups in searches])
        fooled_clean = grouped.fooled(grouped.clean(guard))[0]
        for groups in searches:
            falls = [_nearest(grouped, one, norm, grouped.fooled(one)) for one in groups]
            curves[guard, groups[-1].threat, names[groups[-1].attack_id]] = _curve(
                np.where(fooled_clean, 0.0, np.min(falls, axis=0)), fooled_clean, norm, points
            )
    return curves


def _searches(grouped: Grouped, guard: str, bounded: bool) -> list[list[Group]]:
    """A guard's groups, together where they differ in eps alone; the largest eps comes last."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in grouped.attacked(guard):
        if group.eps is None or bounded:
            settings = grouped.meta.get("attacks", {}).get(group.attack_id, {})
            rest = settings_without(settings, "eps") if "eps" in settings else str(group.attack_id)
            found.setdefault((group.threat, rest), []).append(group)
    return [sorted(groups, key=lambda group: group.eps or 0.0) for groups in found.values()]


def _curve(falls: _Floats, fooled_clean: Bools, norm: str, points: int) -> list[DistancePoint]:
    """The curve of images (n,) that fall at these distances, infinite where they do not."""
    ordered = np.sort(falls)
    reached = ordered[np.isfinite(ordered) & (ordered > 0)]
    places = np.linspace(0, len(reached) - 1, points - 1).round().astype(np.int64)
    distances = np.unique(reached[places]) if len(reached) else reached
    start = DistancePoint(distance=0.0, lenient=rate_of(~fooled_clean))
    curve = [start]
    for distance in distances:
        limit = distance + tolerance(norm, float(distance))
        fallen = int(np.searchsorted(ordered, limit, "right"))
        curve.append(
            DistancePoint(
                distance=float(distance), lenient=wilson(len(ordered) - fallen, len(ordered))
            )
        )
    return curve
