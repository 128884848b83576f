"""What accuracy a guard has on the images that it answers, for each share that it may answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from notsure.core.errors import ConfigurationError
from notsure.evaluation.grouping import Array, Bools, Group, Grouped
from notsure.evaluation.intervals import Rate, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import Run

POINTS = 101
"""How many points a curve has at most."""


@dataclass(frozen=True, kw_only=True)
class CoveragePoint:
    """One threshold.

    Attributes:
        threshold: on the "rejection" column, up to which an image is answered; 0 is that of the
            calibration.
        coverage: images that are answered, over all.
        accuracy: of the answered, those that are answered rightly.
    """

    threshold: float
    coverage: Rate
    accuracy: Rate


@dataclass(frozen=True, kw_only=True)
class Coverage(Run):
    """A curve of accuracy against coverage; threat is "clean" for that of the clean images.

    Attributes:
        points: by rising threshold, hence coverage; at the last everything is answered.
    """

    points: tuple[CoveragePoint, ...]


def coverage_accuracy(records: Records) -> list[Coverage]:
    """Accuracy against coverage of every guard that rejects: on clean images and each attack's.

    The attacked images are those that were made for the guard's own threshold, whatever the
    threshold that they are judged by here. The calibrated threshold, 0, is among the points. Where
    an attack was carried over from several substitutes, each image counts once: misclassified
    before not, then the one of the lowest rejection.

    Args:
        records: of one seed; rows of probes are left out.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one, or a guard that
            rejects has a rejection of NaN.
    """
    grouped = Grouped(records)
    return [
        Coverage(*group.key, points=_points(*_judged(grouped, group)))
        for guard in grouped.guards
        if grouped.description(guard).get("rejects")
        for group in [grouped.clean(guard), *grouped.attacked(guard)]
    ]


def _judged(grouped: Grouped, group: Group) -> tuple[Array, Bools]:
    """The rejection of each image (n,) and whether it is classified rightly."""
    rejection = grouped.of(group, "rejection").astype(np.float64)
    missing = int(np.isnan(rejection).sum())
    if missing:
        raise ConfigurationError(
            f"{missing} images of {group.guard}, {group.threat}, {group.attack} have no rejection, "
            "though the guard rejects: its detectors yield NaN, or the records are incomplete."
        )
    best = (grouped.best_part(group, rejection), np.arange(rejection.shape[1]))
    return rejection[best], ~grouped.misclassified(group)[best]


def _points(rejection: Array, right: Bools) -> tuple[CoveragePoint, ...]:
    order = np.argsort(rejection, kind="stable")
    ordered = rejection[order]
    count = len(ordered)
    # no quantile is interpolated: a score may be infinite
    places = np.linspace(0, count - 1, POINTS - 1).round().astype(np.int64) if count else []
    thresholds = np.unique(np.append(ordered[places], 0.0) if count else np.zeros(0))
    answered = np.searchsorted(ordered, thresholds, "right")
    rightly = np.concatenate([[0], np.cumsum(right[order])])[answered]
    return tuple(
        CoveragePoint(
            threshold=float(threshold),
            coverage=wilson(int(covered), count),
            accuracy=wilson(int(correct), int(covered)),
        )
        for threshold, covered, correct in zip(thresholds, answered, rightly, strict=True)
    )
