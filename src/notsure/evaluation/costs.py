"""What attacks cost: seconds, passes, dead gradients, and success against queries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from notsure.core.errors import ConfigurationError
from notsure.evaluation.grouping import Group, Grouped
from notsure.evaluation.intervals import Rate, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import Run

QUERY_THREATS = ("query-scores", "query-decisions")


@dataclass(frozen=True, kw_only=True)
class Cost(Run):
    """What an attack cost on one guard, under one threat and eps.

    Attributes:
        n: number of images it was run on, counted once for each substitute.
        seconds: median wall time of an image, in seconds.
        forward: mean number of forward passes of an image.
        backward: mean number of backward passes of an image.
        dead: share in [0,1] of the backward passes whose gradient was zero or not finite; NaN where
            there was none.
        non_finite: share in [0,1] of the backward passes whose gradient was not finite; NaN where
            there was none.
    """

    n: int
    seconds: float
    forward: float
    backward: float
    dead: float
    non_finite: float


def costs(records: Records) -> list[Cost]:
    """What every attack cost on every guard under every threat and eps.

    Args:
        records: of one seed; rows of probes are left out.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one.
    """
    grouped = Grouped(records)
    return [_cost(grouped, group) for guard in grouped.guards for group in grouped.attacked(guard)]


def _cost(grouped: Grouped, group: Group) -> Cost:
    def total(name: str) -> float:
        return float(np.nansum(grouped.of(group, name).astype(np.float64)))

    n, backward = group.rows.size, total("gradients")
    return Cost(
        *group.key,
        n=n,
        seconds=_over(np.nanmedian, grouped.of(group, "seconds")),
        forward=total("queries") / n,
        backward=backward / n,
        dead=total("dead_gradients") / backward if backward else math.nan,
        non_finite=total("non_finite_gradients") / backward if backward else math.nan,
    )


def _over(what: Any, values: Any) -> float:
    """A figure of the values that are numbers; NaN of none."""
    known = values[np.isfinite(values)]
    return float(what(known)) if len(known) else math.nan


@dataclass(frozen=True, kw_only=True)
class QueryPoint:
    """How many images had fallen after so many queries.

    Attributes:
        queries: forward passes that the attacker spent on the image, the clean one's included.
        success: fooled (accepted and wrong), over the images that were accepted and right.
    """

    queries: int
    success: Rate


@dataclass(frozen=True, kw_only=True)
class QueryCurve(Run):
    """Success of one attack against queries.

    Attributes:
        points: by rising number of queries, from 0 to the most that an image took.
    """

    points: tuple[QueryPoint, ...]


def success_against_queries(records: Records, points: int = 51) -> list[QueryCurve]:
    """Success against queries, of every attack that sees scores or decisions only.

    An image counts as fooled from the number of queries on that it took in all: of an attack that
    goes on to bring a fooled image nearer, that is later than when it was first fooled.

    Args:
        records: of one seed; rows of probes are left out.
        points: at most so many on a curve, by equal ratios of the number of queries.

    Raises:
        ConfigurationError: too few points, or an attack does not cover the clean images one to one.
    """
    if points < 2:
        raise ConfigurationError(f"A curve has at least 2 points; got points={points}.")
    grouped = Grouped(records)
    return [
        QueryCurve(*group.key, points=_curve(grouped, group, points))
        for guard in grouped.guards
        for group in grouped.attacked(guard)
        if group.threat in QUERY_THREATS
    ]


def _curve(grouped: Grouped, group: Group, points: int) -> tuple[QueryPoint, ...]:
    right = grouped.clean_right(group.guard)
    queries = np.where(grouped.fooled(group), grouped.of(group, "queries"), np.inf).min(axis=0)
    spent = np.sort(queries[right])
    most = max(1, int(grouped.of(group, "queries").max(initial=0)))
    grid = np.unique(np.append(0, np.geomspace(1, most, points - 1).round().astype(np.int64)))
    fooled = np.searchsorted(spent, grid, "right")
    return tuple(
        QueryPoint(queries=int(at), success=wilson(int(count), len(spent)))
        for at, count in zip(grid, fooled, strict=True)
    )
