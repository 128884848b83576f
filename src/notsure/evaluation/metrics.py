"""Figures from records: every rate with its n and its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from notsure.core.errors import ConfigurationError
from notsure.evaluation.records import SCORE, Records
from notsure.evaluation.threats import CLEAN, knowledge_of

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution, for two-sided 95 % intervals."""

WORST_CASE = "worst case"
"""The attack column of rows that take, sample by sample, the worst over all attacks."""

_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of n samples with its 95 % Wilson interval; all in [0,1], NaN where n is 0."""

    count: int
    n: int
    value: float
    low: float
    high: float


def wilson(count: int, n: int) -> Rate:
    """A rate with Wilson's score interval at 95 %.

    Raises:
        ConfigurationError: count is not between 0 and n.
    """
    if not 0 <= count <= n:
        raise ConfigurationError(f"A rate needs 0 <= count <= n; got {count} of {n}.")
    if n == 0:
        return Rate(count=0, n=0, value=math.nan, low=math.nan, high=math.nan)
    share = count / n
    centre = share + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return Rate(
        count=count,
        n=n,
        value=share,
        low=max(0.0, (centre - half) / scale) if count else 0.0,
        high=min(1.0, (centre + half) / scale) if count < n else 1.0,
    )


def _rate(mask: _Bools) -> Rate:
    return wilson(int(mask.sum()), len(mask))


@dataclass(frozen=True)
class Run:
    """What a row of figures is about.

    Attributes:
        guard: the guard's name.
        threat: what the attacker knew.
        attack: the attack's class name, or "worst case".
        attack_id: the identity of attack and settings; None for the worst case.
        norm: of the budget; None for attacks without one.
        eps: the budget; None for attacks without one.
    """

    guard: str
    threat: str
    attack: str
    attack_id: str | None
    norm: str | None
    eps: float | None


@dataclass(frozen=True, kw_only=True)
class RobustnessRow(Run):
    """What is left of a guard under one attack, or under the worst of all, sample by sample.

    A worst case includes the attacks of all who know less, and the clean image, which anybody can
    send.

    Attributes:
        clean_accuracy: clean images that are accepted and right, over all.
        clean_rejection: clean images that are rejected, over all.
        lenient: robust accuracy counting a rejected input as safe: not (accepted and wrong).
        strict: robust accuracy counting a rejected input as lost: accepted and right.
        success: fooled (accepted and wrong) over the images that were accepted and right.
    """

    clean_accuracy: Rate
    clean_rejection: Rate
    lenient: Rate
    strict: Rate
    success: Rate


def robustness(records: Records) -> list[RobustnessRow]:
    """Robust accuracy of every guard under every threat, attack and eps, worst cases last."""
    rows: list[RobustnessRow] = []
    for guard in records.guards:
        of_guard = records.where(guard=guard)
        clean = _by_index(of_guard.where(threat=CLEAN))
        threats = [name for name in of_guard.meta["threats"] if name != CLEAN]
        for threat in threats:
            of_threat = of_guard.where(threat=threat)
            for attack, attack_id, norm, eps in of_threat.distinct(
                "attack", "attack_id", "norm", "eps"
            ):
                attacked = _by_index(of_threat.where(attack_id=attack_id, norm=norm, eps=eps))
                run = Run(guard, threat, attack, attack_id, norm, eps)
                rows.append(_robustness_row(run, clean, [attacked]))
            known = [t for t in threats if knowledge_of(t) <= knowledge_of(threat)]
            for norm, eps in of_threat.distinct("norm", "eps"):
                able = [of_guard.where(threat=t, norm=norm, eps=eps) for t in known]
                attacked_by = [
                    _by_index(one.where(attack_id=attack_id))
                    for one in able
                    for (attack_id,) in one.distinct("attack_id")
                ]
                run = Run(guard, threat, WORST_CASE, None, norm, eps)
                rows.append(_robustness_row(run, clean, [clean, *attacked_by]))
    return rows


def _by_index(records: Records) -> dict[str, npt.NDArray[Any]]:
    """The decisions of one image each, ordered by the image's position in the test set."""
    order = np.argsort(records.column("index"), kind="stable")
    return {
        name: records.column(name)[order]
        for name in ("index", "y", "clean_prediction", "prediction", "accepted", "success")
    }


def _robustness_row(
    run: Run,
    clean: dict[str, npt.NDArray[Any]],
    attacked: Sequence[dict[str, npt.NDArray[Any]]],
) -> RobustnessRow:
    y = clean["y"]
    if len(np.unique(clean["index"])) < len(y):
        raise ConfigurationError(
            f"The records of {run.guard} hold clean images more than once: an image that is "
            "attacked twice is not two images. Select one seed first, records.where(seed=...)."
        )
    clean_accepted = clean["accepted"].astype(bool)
    clean_right = clean_accepted & (clean["prediction"] == y)
    fooled, held = np.zeros(len(y), bool), np.ones(len(y), bool)
    for one in attacked:
        if not np.array_equal(one["index"], clean["index"]):
            raise ConfigurationError(
                f"The records of {run.guard}, {run.threat}, {run.attack} do not cover the clean "
                "images one to one: they are incomplete, or of several seeds: select one."
            )
        accepted, right = one["accepted"].astype(bool), one["prediction"] == y
        fooled |= accepted & ~right
        held &= accepted & right
    return RobustnessRow(
        **vars(run),
        clean_accuracy=_rate(clean_right),
        clean_rejection=_rate(~clean_accepted),
        lenient=_rate(~fooled),
        strict=_rate(held),
        success=_rate(fooled[clean_right]),
    )


def accuracy_against_eps(
    records: Records, *, attack: str = WORST_CASE
) -> dict[tuple[str, str, str], list[RobustnessRow]]:
    """Rows by eps for each (guard, threat, norm), starting from the clean images at eps 0."""
    curves: dict[tuple[str, str, str], list[RobustnessRow]] = {}
    for row in robustness(records):
        if row.attack != attack or row.norm is None or row.eps is None:
            continue
        curves.setdefault((row.guard, row.threat, row.norm), []).append(row)
    for (guard, threat, norm), rows in curves.items():
        rows.sort(key=lambda row: row.eps or 0.0)
        if rows[0].eps:
            clean = _by_index(records.where(guard=guard, threat=CLEAN))
            start = Run(guard, threat, attack, None, norm, 0.0)
            rows.insert(0, _robustness_row(start, clean, [clean]))
    return curves


@dataclass(frozen=True, kw_only=True)
class Area:
    """An area under the ROC curve with adversarial as the positive class.

    Attributes:
        value: chance that an adversarial image scores higher than a clean one, ties half; NaN
            where there is none of either.
        low: end of the 95 % interval (Hanley & McNeil 1982).
        high: other end.
        positives: number of adversarial images.
        negatives: number of clean images.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int


def area_under_roc(clean: npt.ArrayLike, adversarial: npt.ArrayLike) -> Area:
    """The area under the ROC curve of scores, higher = more adversarial."""
    negatives, positives = np.asarray(clean, float), np.asarray(adversarial, float)
    m, n = len(positives), len(negatives)
    if m == 0 or n == 0:
        return Area(value=math.nan, low=math.nan, high=math.nan, positives=m, negatives=n)
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left")
    not_above = np.searchsorted(ordered, positives, "right")
    value = float((below + not_above).mean() / (2 * n))
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = value * (1 - value) + (m - 1) * (q1 - value**2) + (n - 1) * (q2 - value**2)
    half = Z95 * math.sqrt(max(variance, 0.0) / (m * n))
    return Area(
        value=value,
        low=max(0.0, value - half),
        high=min(1.0, value + half),
        positives=m,
        negatives=n,
    )


@dataclass(frozen=True, kw_only=True)
class Detection(Run):
    """How well a detector tells one attack's images from clean ones.

    Attributes:
        detector: the detector's name.
        successful: area over the images that are classified rightly when clean and wrongly when
            attacked, against their own clean versions (pang's Table 2).
        everything: area over all images, attacked against clean; images that the attack left as
            they were count as attacked.
        flagged: of the images of `successful`, the share above the detector's frozen threshold;
            n is 0 for a guard without a calibration.
    """

    detector: str
    successful: Area
    everything: Area
    flagged: Rate


def detection(records: Records) -> list[Detection]:
    """Every detector of every guard against every threat, attack and eps."""
    rows: list[Detection] = []
    for guard in records.guards:
        of_guard = records.where(guard=guard)
        description = of_guard.meta["guards"][guard]
        thresholds = (description.get("calibration") or {}).get("thresholds", {})
        clean = of_guard.where(threat=CLEAN)
        clean_order = np.argsort(clean.column("index"), kind="stable")
        for threat, attack, attack_id, norm, eps in of_guard.distinct(
            "threat", "attack", "attack_id", "norm", "eps"
        ):
            if threat == CLEAN:
                continue
            attacked = of_guard.where(threat=threat, attack_id=attack_id, norm=norm, eps=eps)
            order = np.argsort(attacked.column("index"), kind="stable")
            y = attacked.column("y")[order]
            fooled = (attacked.column("clean_prediction")[order] == y) & (
                attacked.column("prediction")[order] != y
            )
            for detector in description["detectors"]:
                scores = attacked.column(SCORE + detector)[order]
                normal = clean.column(SCORE + detector)[clean_order]
                above = (
                    scores[fooled] > thresholds[detector]
                    if detector in thresholds
                    else np.zeros(0, bool)
                )
                rows.append(
                    Detection(
                        *(guard, threat, attack, attack_id, norm, eps),
                        detector=detector,
                        successful=area_under_roc(normal[fooled], scores[fooled]),
                        everything=area_under_roc(normal, scores),
                        flagged=_rate(above),
                    )
                )
    return rows
