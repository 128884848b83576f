"""Thresholds frozen on clean data: one false-positive rate for all detectors of a guard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from notsure.core.errors import InputError

Rule = Literal["any", "all"]
"""Whether an image is flagged if any score is above its threshold, or only if all are."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds frozen on clean data.

    Attributes:
        fpr: the share of clean images that may be rejected.
        count: how many clean images it was measured on.
        measured_fpr: the share of these that is rejected, at most `fpr`.
        thresholds: per detector; a higher score rejects.
        scales: per detector, the distance from the clean median to the threshold.
        rule: whether any detector rejects by itself, or only all together.
    """

    fpr: float
    count: int
    measured_fpr: float
    thresholds: dict[str, float]
    scales: dict[str, float]
    rule: Rule = "any"

    def rejection(self, scores: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """How far scores (B,) are above their thresholds, in units of their scales, (B,).

        The largest of the detectors where any of them rejects, the smallest where all have to.
        """
        excess = [
            (score - self.thresholds[name]) / self.scales[name] for name, score in scores.items()
        ]
        together = torch.stack(excess)
        return together.amax(dim=0) if self.rule == "any" else together.amin(dim=0)


def calibrated(
    scores: Mapping[str, torch.Tensor], fpr: float, count: int, rule: Rule = "any"
) -> Calibration:
    """Chooses one cutoff rank for all detectors, the largest that keeps the rate.

    Every detector's threshold is exceeded by the same number of clean images, as many as keeps the
    number that the rule rejects at `fpr * count` or below.

    Args:
        scores: of each detector on the clean images, (count,).
        fpr: the share of clean images that may be rejected, in (0, 1).
        count: how many clean images there are.
        rule: how the detectors are combined.

    Raises:
        InputError: a score is not finite.
    """
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise InputError(
                f"{name} gives scores that are not finite on clean data: check the network's "
                "outputs, or a larger bandwidth."
            )
    if not scores:
        return Calibration(fpr=fpr, count=count, measured_fpr=0.0, thresholds={}, scales={})
    allowed = math.floor(fpr * count + 1e-9)
    descending = {name: values.sort(descending=True).values for name, values in scores.items()}

    def rejected(rank: int) -> int:
        above = torch.stack([v > descending[name][rank] for name, v in scores.items()])
        return int((above.any(dim=0) if rule == "any" else above.all(dim=0)).sum())

    # rejected() grows with the rank, and rank 0 rejects nothing
    rank, beyond = 0, count
    while beyond - rank > 1:
        middle = (rank + beyond) // 2
        if rejected(middle) <= allowed:
            rank = middle
        else:
            beyond = middle
    thresholds = {name: float(values[rank]) for name, values in descending.items()}
    scales = {}
    for name, values in scores.items():
        spread = thresholds[name] - float(values.median())
        if spread <= 0:
            spread = float(values.std()) or 1.0
        scales[name] = spread
    return Calibration(
        fpr=fpr,
        count=count,
        measured_fpr=rejected(rank) / count,
        thresholds=thresholds,
        scales=scales,
        rule=rule,
    )
