"""How our figure beside a published one is measured, on what a study has yielded.

A question says what is asked for, `Findings` hold the records, networks and guards:

    answer = measured(questions(study)[cell_id], findings)

What each measure has to be told stands in `notsure.studies.questions.MEASURES`. Those of
times, of networks and settings, and those that weigh several guards or attacks are in
`notsure.studies.choices`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats
from torch import nn

from notsure.core.errors import ConfigurationError, NotSureError
from notsure.evaluation import Records, detection
from notsure.evaluation.grouping import Group, Grouped
from notsure.evaluation.intervals import rate_of, wilson
from notsure.evaluation.records import SCORE
from notsure.studies.cells import Cell
from notsure.studies.questions import Question
from notsure.studies.selection import Declared, attacked_rows, clean_rows
from notsure.studies.verdicts import Answer, answer_area, answer_mean, answer_rate, only

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MEDIAN = -1.0
"""The rejection of the median clean image, in a guard's units; pang's eta, from which f2 counts."""


class UnfinishedError(NotSureError, RuntimeError):
    """A figure whose records, network or guard the study has not come to yet."""


class Findings(Protocol):
    """What a study has yielded so far; each method raises UnfinishedError for what is not there."""

    scale: str

    def records(self, evaluation: str) -> Records:
        """The records of an evaluation."""

    def budgets(self, evaluation: str) -> list[float]:
        """The eps of an evaluation."""

    def attack(self, name: str) -> Declared:
        """The attack of a name."""

    def module(self, network: str) -> nn.Module:
        """The module of a trained network."""

    def settings(self, section: str, name: str) -> Mapping[str, Any]:
        """What a guard or a network of a name was told."""

    def remark(self, question: Question) -> str:
        """What has to be said of the data that a question is measured on; empty for nothing."""


class Attacked:
    """The images of one attack on one guard within one budget, beside the clean ones.

    Attributes:
        rows: the records.
        grouped: the same.
        guard: the guard's name.
        group: the attacked images.
        clean: the clean images.
        eps: the budget; None for none.
        clean_wrong: which images (n,) are classified wrongly when clean.
        clean_right: which are accepted and right when clean.
        wrong: which are classified wrongly when attacked, whether accepted or not.
        rejected: which are rejected when attacked.
        success: on which the attack reached its own goal, on what it saw.
        changed: which are not as they were.
    """

    def __init__(self, rows: Records) -> None:
        self.rows, self.grouped = rows, Grouped(rows)
        (self.guard,) = self.grouped.guards
        (self.group,) = self.grouped.attacked(self.guard)
        self.eps = self.group.eps
        self.clean = self.grouped.clean(self.guard)
        self.clean_wrong = self.grouped.misclassified(self.clean)[0]
        self.clean_right = self.grouped.clean_right(self.guard)
        self.wrong = self.grouped.misclassified(self.group)[0]
        self.rejected = self.grouped.rejected(self.group)[0]
        self.success = self.of("success").astype(bool)
        self.changed = np.asarray(self.of("linf") > 0)

    @property
    def fooled(self) -> Bools:
        """Which images are accepted and classified wrongly."""
        return np.asarray(self.wrong & ~self.rejected)

    @property
    def newly_wrong(self) -> Bools:
        """Which are classified rightly when clean and wrongly when attacked."""
        return np.asarray(self.wrong & ~self.clean_wrong)

    def of(self, column: str, group: Group | None = None) -> npt.NDArray[Any]:
        """A column of the attacked images, or of another group's, (n,)."""
        return np.asarray(self.grouped.of(group or self.group, column)[0])

    def score(self, detector: str, group: Group | None = None) -> Floats:
        """A detector's scores, (n,)."""
        return self.of(SCORE + detector, group).astype(np.float64)

    def rejection(self, detector: str | None) -> Floats:
        """The rejection by one detector, or by the guard, in a guard's units, (n,)."""
        if detector is None:
            return self.of("rejection").astype(np.float64)
        calibration = self.grouped.description(self.guard)["calibration"]
        threshold = calibration["thresholds"][detector]
        return np.asarray((self.score(detector) - threshold) / calibration["scales"][detector])


def attacked(question: Question, findings: Findings, **changed: Any) -> list[Attacked]:
    """The images that a question is about, by rising budget; one where it says which.

    Args:
        question: it has an evaluation, guard, threat and attack.
        findings: where the records are.
        changed: fields of the question that are other ones here.
    """
    question = replace(question, **changed)
    tables = attacked_rows(
        findings.records(_named(question.evaluation)),
        guard=_named(question.guard),
        threat=_named(question.threat),
        attack=findings.attack(_named(question.attack)),
        eps=question.eps,
        substitute=question.substitute,
    )
    return [Attacked(table) for table in tables]


def _named(name: str | None) -> str:
    if name is None:
        raise ConfigurationError(
            "A measure is not told what it needs: check the study with check_questions."
        )
    return name


def _attacked(question: Question, findings: Findings) -> Attacked:
    """The images of the one budget that a question is about."""
    found = attacked(question, findings)
    if len(found) > 1:
        sizes = ", ".join(f"{one.eps:g}" for one in found if one.eps is not None)
        raise ConfigurationError(
            f"{question.attack} was run with the eps {sizes}: say which, eps: ..., or take it over "
            "all of them, arguments: {over: eps}."
        )
    return found[0]


def _clean(question: Question, findings: Findings) -> Records:
    return clean_rows(findings.records(_named(question.evaluation)), _named(question.guard))


def clean_error(question: Question, findings: Findings) -> Answer:
    """Clean images that are classified wrongly, whether accepted or not."""
    rows = _clean(question, findings)
    wrong = rows.column("prediction") != rows.column("y")
    return answer_rate(question.cell, rate_of(wrong), scale=findings.scale)


def clean_accuracy(question: Question, findings: Findings) -> Answer:
    """Clean images that are accepted and classified rightly."""
    rows = _clean(question, findings)
    right = (rows.column("prediction") == rows.column("y")) & rows.column("accepted").astype(bool)
    return answer_rate(question.cell, rate_of(right), scale=findings.scale)


def clean_rejection(question: Question, findings: Findings) -> Answer:
    """Clean images that the guard rejects; with a detector, those above its frozen threshold."""
    rows = _clean(question, findings)
    flagged = ~rows.column("accepted").astype(bool)
    if question.detector is not None:
        calibration = rows.meta["guards"][question.guard]["calibration"]
        scores = rows.column(SCORE + question.detector)
        flagged = np.asarray(scores > calibration["thresholds"][question.detector])
    return answer_rate(question.cell, rate_of(flagged), scale=findings.scale)


def detection_area(question: Question, findings: Findings) -> Answer:
    """Area under the ROC curve, over images right when clean and wrong when attacked (pang)."""
    rows = detection(_attacked(question, findings).rows)
    row = only(rows, detector=question.detector, control=False)
    return answer_area(question.cell, row.successful, scale=findings.scale)


def detection_rate(question: Question, findings: Findings) -> Answer:
    """Flagged at the frozen threshold, of the images right when clean and wrong when attacked.

    Without a detector it is the guard that rejects them.
    """
    images = _attacked(question, findings)
    flagged = images.rejected
    if question.detector is not None:
        flagged = images.rejection(question.detector) > 0
    return answer_rate(question.cell, rate_of(flagged[images.newly_wrong]), scale=findings.scale)


def undetected_ratio(question: Question, findings: Findings) -> Answer:
    """The share of an attack's images with f2 > 0 (pang, Table 3), of those right when clean.

    f2 is positive where the rejection is above that of the median clean image, -1 in a guard's
    units, or above `above`. An image on which the attack failed comes back as it was; whatever the
    attack found for it is rejected, so that it counts.
    Deviation: the median is that of the calibration images; the report takes the training images'.
    """
    images = _attacked(question, findings)
    above = float(question.arguments.get("above", MEDIAN))
    positive = ~images.success | (images.rejection(question.detector) > above)
    return answer_rate(question.cell, rate_of(positive[~images.clean_wrong]), scale=findings.scale)


def distortion(question: Question, findings: Findings) -> Answer:
    """Mean l2 distance of the images newly fooled; per pixel value and on 0..255 in that unit."""
    images = _attacked(question, findings)
    far = images.of("l2").astype(np.float64)[images.fooled & images.clean_right]
    if question.cell.unit == "l2_rms_255":
        far = far * 255 / math.sqrt(math.prod(images.grouped.meta["image_shape"]))
    return mean_of(question.cell, far, findings.scale)


def robust_accuracy(question: Question, findings: Findings) -> Answer:
    """Attacked images that are rejected or classified rightly (lenient)."""
    standing = ~_attacked(question, findings).fooled
    return answer_rate(question.cell, rate_of(standing), scale=findings.scale)


def rejected_at_worst(question: Question, findings: Findings) -> Answer:
    """Attacked images that are rejected, at the eps that leaves the least robust accuracy."""
    every = attacked(question, findings)
    worst = max(every, key=lambda images: int(images.fooled.sum()))
    why = "" if worst.eps is None else f"at eps {worst.eps:g}, the best for the attacker"
    rate = rate_of(worst.rejected)
    return answer_rate(question.cell, rate, scale=findings.scale, why=why)


def misclassification(question: Question, findings: Findings) -> Answer:
    """Of the images that fooled what was attacked, those that the guard's network gets wrong."""
    images = _attacked(question, findings)
    rate = rate_of(images.wrong[images.success])
    return answer_rate(question.cell, rate, scale=findings.scale)


def adversarial_confidence(question: Question, findings: Findings) -> Answer:
    """A low quantile, by default that of 5 %, of the softmax's confidence in the wrong class.

    It is read off the scores of a `Confidence` detector, over images right when clean and wrong
    when attacked.
    """
    images = _attacked(question, findings)
    confidence = np.exp(-images.score(_named(question.detector))[images.newly_wrong])
    share = float(question.arguments.get("quantile", 0.05))
    whole = question.cell.whole or 1.0
    why = "the lowest" if share == 0 else f"the {100 * share:g} % quantile"
    return quantile_of(whole * confidence, share, findings.scale, f"{why} over the fooling images")


def mean_score(question: Question, findings: Findings) -> Answer:
    """Mean of a detector's score: over clean images, or over those that an attack changed."""
    if question.attack is None:
        scores = _clean(question, findings).column(SCORE + _named(question.detector))
        return mean_of(question.cell, scores, findings.scale)
    images = _attacked(question, findings)
    scores = images.score(_named(question.detector))[images.changed]
    return mean_of(question.cell, scores, findings.scale)


def distance_at_zero(question: Question, findings: Findings) -> Answer:
    """The distance within which the accuracy has fallen to 0, or to `share`.

    Of each image the nearest one counts that fooled the guard, over all budgets; the distance is
    the largest of these, or a quantile. Where more images stand than that, nothing is compared.
    """
    norm = str(question.arguments.get("norm", "l2"))
    share = float(question.arguments.get("share", 0.0))
    every = attacked(question, findings)
    tries = [np.where(one.fooled, one.of(norm).astype(np.float64), np.inf) for one in every]
    nearest = np.min(tries, axis=0)
    rejected = every[0].grouped.rejected(every[0].clean)[0]
    nearest = np.where(every[0].clean_wrong & ~rejected, 0.0, nearest)
    reached = np.isfinite(nearest)
    if reached.mean() >= 1 - share - 1e-12:
        far = np.where(reached, nearest, nearest[reached].max())
        return quantile_of(far, 1 - share, findings.scale)
    largest = float(nearest[reached].max(initial=0.0))
    left = wilson(int((~reached).sum()), len(reached))
    return Answer(
        value=largest,
        low=largest,
        high=largest,
        n=len(reached),
        scale=findings.scale,
        differs=f"the farthest image that fell; {100 * left.value:.1f} % stand whatever was tried",
    )


def mean_of(cell: Cell, values: npt.ArrayLike, scale: str) -> Answer:
    """The answer that is a mean; a single image has no interval, and nothing is compared."""
    given = np.asarray(values, np.float64)
    if len(given) != 1:
        return answer_mean(cell, given, scale=scale)
    value = float(given[0])
    return Answer(
        value=value,
        low=value,
        high=value,
        n=1,
        scale=scale,
        differs="a single image, which has no interval",
    )


def quantile_of(values: Floats, share: float, scale: str, why: str = "") -> Answer:
    """A quantile, with the interval that order statistics give; the ends 0 and 1 have none.

    Args:
        values: one per image, (n,), in the cell's unit.
        share: of them that are at most as large, in [0,1].
        scale: as in `Answer`.
        why: as in `Answer`.
    """
    n = len(values)
    if n == 0:
        return Answer(value=math.nan, low=math.nan, high=math.nan, n=0, scale=scale, why=why)
    ordered = np.sort(values)
    places = (
        math.ceil(share * n - 1e-9) - 1,
        int(stats.binom.ppf(0.025, n, share)) - 1,
        int(stats.binom.ppf(0.975, n, share)),
    )
    value, low, high = (float(ordered[min(max(place, 0), n - 1)]) for place in places)
    if share in (0.0, 1.0):
        low = high = value
    return Answer(value=value, low=low, high=high, n=n, scale=scale, why=why)
