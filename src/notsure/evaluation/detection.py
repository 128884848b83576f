"""How well detectors tell adversarial images from clean ones, and from attacks they never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from notsure.evaluation.grouping import Array, Bools, Group, Grouped, labels, largest_eps
from notsure.evaluation.intervals import (
    Area,
    Rate,
    area_under_roc,
    false_positive_rate_at,
    rate_of,
    wilson,
)
from notsure.evaluation.records import CONTROL, SCORE, Records
from notsure.evaluation.robustness import Run

OBLIVIOUS, WHITE_BOX, RANDOM_NOISE = "oblivious", "white-box", "RandomNoise"

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Detection(Run):
    """How well a detector tells one attack's images from clean ones.

    Where an attack was carried over from several substitutes, each image counts once, by the
    version that serves the attacker best: misclassified before not, then the lowest score.

    Attributes:
        detector: the detector's name, or the control's.
        successful: area over the images that are classified rightly when clean and wrongly when
            attacked, against their own clean versions (pang's Table 2).
        everything: area over all images, attacked against clean; images that the attack left as
            they were count as attacked.
        flagged: of the images of `successful`, the share above the detector's frozen threshold;
            n is 0 for a guard without a calibration, and for a control.
        flagged_everything: the same of the images of `everything`.
        false_positives: share of the clean images of `successful` that are flagged where the
            threshold is such that 95 % of their attacked versions are (FPR at 95 % TPR).
        false_positives_everything: the same of the images of `everything`.
        evaded: of all images, the share that is classified rightly when clean and wrongly when
            attacked, and not flagged by this detector's frozen threshold; n is 0 without one.
        control: whether this is no detector but a control, whose scores know nothing; its figures
            are over the images that it was computed for.
        noise: whether the attack is random noise, which is a control as well.
        held_out: whether the detector learnt from an attack of another class than this one; None
            where nothing was learnt from any attack.
        adaptive: of an oblivious row, `everything` of the white-box row of the same attack class,
            norm, eps and detector; None where there is none. Where there are several, it is the one
            that evades the detector most often, then the one of the smallest area.
        adaptive_flagged: `flagged_everything` of that white-box row.
        adaptive_evaded: `evaded` of that white-box row.

    Under a threat whose attacker is told the verdict an image that is rejected is no success. So,
    where each detector can reject by itself, none of the `successful` ones is flagged, whatever the
    detector, and their area says only how clean they look below the threshold. An image that was
    not broken is as it was, and scores as its clean version does: of an attack that always fails
    `everything` is 0.5, as it is of a detector that sees nothing. What the detector is worth
    against such an attacker is in `evaded`.
    """

    detector: str
    successful: Area
    everything: Area
    flagged: Rate
    flagged_everything: Rate
    false_positives: Rate
    false_positives_everything: Rate
    evaded: Rate
    control: bool = False
    noise: bool = False
    held_out: bool | None = None
    adaptive: Area | None = None
    adaptive_flagged: Rate | None = None
    adaptive_evaded: Rate | None = None


def detection(records: Records) -> list[Detection]:
    """Every detector and control of every guard against every threat, attack and eps.

    Args:
        records: of one seed; rows of probes are left out.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one, or a score is NaN.
    """
    grouped = Grouped(records)
    rows: list[Detection] = []
    for guard in grouped.guards:
        columns = _columns(grouped, guard)
        thresholds = (grouped.description(guard).get("calibration") or {}).get("thresholds", {})
        fitted_on = grouped.description(guard).get("fitted_on")
        found = [
            _detection(grouped, group, column, thresholds, fitted_on)
            for group in grouped.attacked(guard)
            for column in columns
        ]
        rows += _beside_adaptive(found)
    return rows


def _columns(grouped: Grouped, guard: str) -> list[str]:
    """The guard's score columns, and those of controls that could be made for it."""
    clean = grouped.clean(guard)
    scores = [SCORE + name for name in grouped.description(guard)["detectors"]]
    controls = [CONTROL + name for name in grouped.controls] if scores else []
    made = [name for name in controls if not np.isnan(_values(grouped, clean, name)).all()]
    return scores + made


def _values(grouped: Grouped, group: Group, column: str) -> _Floats:
    """A column of scores as (parts, n)."""
    return grouped.of(group, column).astype(np.float64)


def _attacked_values(
    grouped: Grouped, group: Group, columns: Sequence[str], by: str | None = None
) -> tuple[_Floats, Bools]:
    """Scores (n, columns) of one version of each image, and which are misclassified (n,)."""
    scores = [_values(grouped, group, column) for column in columns]
    wrong = grouped.misclassified(group)
    if len(group.rows) == 1:
        return np.stack([one[0] for one in scores], axis=1), wrong[0]
    judge = scores[0] if by is None else _values(grouped, group, by)
    best = (grouped.best_part(group, judge), np.arange(group.rows.shape[1]))
    return np.stack([one[best] for one in scores], axis=1), np.asarray(wrong[best])


def _detection(
    grouped: Grouped,
    group: Group,
    column: str,
    thresholds: Mapping[str, float],
    fitted_on: Mapping[str, Any] | None,
) -> Detection:
    clean = grouped.clean(group.guard)
    normal = _values(grouped, clean, column)[0]
    scores, wrong = _attacked_values(grouped, group, [column])
    attacked = scores[:, 0]
    fooled = wrong & ~grouped.misclassified(clean)[0]
    control = column.startswith(CONTROL)
    if control:
        # controls are computed for the first images only
        known = ~np.isnan(normal) & ~np.isnan(attacked)
        normal, attacked, fooled = normal[known], attacked[known], fooled[known]
    detector = column.removeprefix(CONTROL if control else SCORE)
    threshold = None if control else thresholds.get(detector)
    learnt = fitted_on is not None and not control
    return Detection(
        *group.key,
        detector=detector,
        successful=area_under_roc(normal[fooled], attacked[fooled]),
        everything=area_under_roc(normal, attacked),
        flagged=_above(attacked[fooled], threshold),
        flagged_everything=_above(attacked, threshold),
        false_positives=false_positive_rate_at(normal[fooled], attacked[fooled]),
        false_positives_everything=false_positive_rate_at(normal, attacked),
        evaded=wilson(0, 0) if threshold is None else rate_of(fooled & (attacked <= threshold)),
        control=control,
        noise=group.attack == RANDOM_NOISE,
        held_out=group.attack != fitted_on["name"] if learnt and fitted_on else None,
    )


def _above(scores: Array, threshold: float | None) -> Rate:
    """The share of scores that a frozen threshold flags; of none where there is none."""
    return wilson(0, 0) if threshold is None else rate_of(scores > threshold)


def _beside_adaptive(rows: Sequence[Detection]) -> list[Detection]:
    """The rows of a guard, the oblivious ones with what is left of them in the white box."""
    strongest: dict[tuple[str, str | None, float | None, str, bool], Detection] = {}
    for row in rows:
        key = (row.attack, row.norm, row.eps, row.detector, row.control)
        rival = strongest.get(key)
        if row.threat == WHITE_BOX and (rival is None or _strength(row) > _strength(rival)):
            strongest[key] = row
    beside = []
    for row in rows:
        adaptive = strongest.get((row.attack, row.norm, row.eps, row.detector, row.control))
        if row.threat == OBLIVIOUS and adaptive is not None:
            beside.append(
                replace(
                    row,
                    adaptive=adaptive.everything,
                    adaptive_flagged=adaptive.flagged_everything,
                    adaptive_evaded=adaptive.evaded,
                )
            )
        else:
            beside.append(row)
    return beside


def _strength(row: Detection) -> tuple[int, float]:
    """Of two adaptive attacks the one that has more of this is the stronger."""
    reached = row.evaded.count if row.evaded.n else row.successful.positives
    return reached, -row.everything.value


@dataclass(frozen=True, kw_only=True)
class Generalisation:
    """How well what was learnt from one attack tells another's images from clean ones.

    Attributes:
        guard: the guard's name.
        trained_on: the attack that was learnt from: its class, with norm or identity where several
            attacks are of that class.
        tested_on: the attack that it was tested on; the same one for the figure to compare with.
        area: under the ROC curve, over the test images that the tested attack succeeded on, against
            their own clean versions.
        trained_on_id: the identity of that attack and its settings.
        tested_on_id: the same of the other.
    """

    guard: str
    trained_on: str
    tested_on: str
    area: Area
    trained_on_id: str | None
    tested_on_id: str | None


def generalisation(records: Records) -> list[Generalisation]:
    """How detectors' scores, combined on one oblivious attack, do on each other oblivious attack.

    For each ordered pair of attacks on a guard, at the largest eps of their norm: a logistic
    regression of the guard's standardised scores is trained on the images of even index, and tested
    on those of odd index, each attacked against clean. Images count that the attack succeeded on:
    classified rightly when clean and wrongly when attacked. An infinite score counts as the largest
    finite one of the training images. Nothing comes of an attack that succeeded on no image to
    learn from: n is 0 there. Random noise, which is a control, is left out.

    Args:
        records: of one seed; rows of probes are left out.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one, or a score is NaN.
    """
    grouped = Grouped(records)
    found = []
    for guard in grouped.guards:
        own = [SCORE + name for name in grouped.description(guard)["detectors"]]
        oblivious = [
            group
            for group in grouped.attacked(guard)
            if group.threat == OBLIVIOUS and group.attack != RANDOM_NOISE
        ]
        attacks = largest_eps(oblivious) if own else []
        names = labels(attacks)
        splits = [_split(grouped, group, own) for group in attacks]
        for trained, ((clean, attacked), _) in zip(attacks, splits, strict=True):
            combination = _Combination(clean, attacked) if len(clean) else None
            for tested, (_, (other_clean, other)) in zip(attacks, splits, strict=True):
                found.append(
                    Generalisation(
                        guard=guard,
                        trained_on=names[trained.attack_id],
                        tested_on=names[tested.attack_id],
                        area=area_under_roc([], [])
                        if combination is None
                        else area_under_roc(combination(other_clean), combination(other)),
                        trained_on_id=trained.attack_id,
                        tested_on_id=tested.attack_id,
                    )
                )
    return found


_Half = tuple[_Floats, _Floats]


def _split(grouped: Grouped, group: Group, columns: Sequence[str]) -> tuple[_Half, _Half]:
    """Clean and attacked scores (n, columns) of the images that fell, of even and of odd index."""
    clean = grouped.clean(group.guard)
    normal = np.stack([_values(grouped, clean, column)[0] for column in columns], axis=1)
    attacked, wrong = _attacked_values(grouped, group, columns)
    fooled = wrong & ~grouped.misclassified(clean)[0]
    even = grouped.of(clean, "index")[0] % 2 == 0
    train, test = fooled & even, fooled & ~even
    # a NaN in what is not looked at would be as much of a fault as elsewhere
    area_under_roc(normal.ravel(), attacked.ravel())
    return (normal[train], attacked[train]), (normal[test], attacked[test])


class _Combination:
    """Scores (n, columns) standardised and weighted by a logistic regression, to one score (n,)."""

    def __init__(self, clean: _Floats, attacked: _Floats) -> None:
        both = np.concatenate([clean, attacked])
        finite = np.where(np.isfinite(both), both, np.nan)
        no_number = np.isnan(finite).all(axis=0)
        finite[:, no_number] = 0.0
        self.low, self.high = np.nanmin(finite, axis=0), np.nanmax(finite, axis=0)
        both = np.clip(both, self.low, self.high)
        self.centre, scale = both.mean(axis=0), both.std(axis=0)
        self.scale = np.where(scale > 0, scale, 1.0)
        adversarial = np.repeat([0, 1], [len(clean), len(attacked)])
        self.model = LogisticRegression(max_iter=1000)
        self.model.fit((both - self.centre) / self.scale, adversarial)

    def __call__(self, scores: _Floats) -> _Floats:
        if len(scores) == 0:
            return np.zeros(0)
        clipped = np.clip(scores, self.low, self.high)
        return np.asarray(self.model.decision_function((clipped - self.centre) / self.scale))
