"""Ours beside the published figures: answers from measured rates, areas and means, and verdicts.

    cell = published()["pang.t1.mnist.resnet32.ce.clean.error_rate"]
    row = only(robustness(records), guard="CE", attack="FGSM", eps=0.1, threat="oblivious")
    answers[cell.cell_id] = answer_rate(cell, row.clean_accuracy, scale="cpu", complement=True)
    rows = judge(published().where(paper="pang"), answers)

Every cell gets a row. Its verdict is "within", "better" or "worse" as `compare` says, and "not
comparable" where nothing was measured, or something of another kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import special

from notsure.core.errors import ConfigurationError
from notsure.evaluation.intervals import Area, Rate
from notsure.studies.cells import SCALES, Cell, Cells

WITHIN, BETTER, WORSE = "within", "better", "worse"
NOT_COMPARABLE = "not comparable"
VERDICTS = (WITHIN, BETTER, WORSE, NOT_COMPARABLE)
"""What a row of ours may say of a published figure."""

_SLACK = 1e-9
_Row = TypeVar("_Row")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What we measured for a cell, in the cell's unit.

    Attributes:
        value: our figure; NaN where there was nothing to measure on, which is n = 0.
        low: lower end of its 95 % interval; the value itself where it was counted, not sampled.
        high: upper end.
        n: number of images that the figure is over.
        scale: "smoke", "cpu" or "paper".
        why: what a reader has to know of how it was measured: deviations, and their reasons.
        differs: in what ours is of another kind than the report's, such as another data set;
            empty where it is of the same kind. Nothing is compared otherwise.

    Raises:
        ConfigurationError: the value is not within its interval or not finite although n > 0, n is
            negative, or the scale is unknown.
    """

    value: float
    low: float
    high: float
    n: int
    scale: str
    why: str = ""
    differs: str = ""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigurationError(f"A scale is one of {', '.join(SCALES)}; got {self.scale!r}.")
        if self.n < 0:
            raise ConfigurationError(f"n counts images and cannot be negative; got {self.n}.")
        if self.n == 0:
            return
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            raise ConfigurationError(
                f"An answer over n = {self.n} images needs a finite interval; got [{self.low:g}, "
                f"{self.high:g}]. Where there was nothing to measure on, n is 0."
            )
        if not self.low <= self.value <= self.high:
            raise ConfigurationError(
                f"An answer lies within its interval; got {self.value:g} and [{self.low:g}, "
                f"{self.high:g}]. All three are in the cell's unit."
            )


def answer_rate(
    cell: Cell,
    rate: Rate,
    *,
    scale: str,
    complement: bool = False,
    why: str = "",
    differs: str = "",
) -> Answer:
    """The answer to a cell that is a share, from a rate and its Wilson interval.

    Args:
        cell: the published figure, in percent or as a ratio.
        rate: ours, in [0,1].
        scale: as in `Answer`.
        complement: whether the cell counts the others, as an error rate does beside an accuracy.
        why: as in `Answer`.
        differs: as in `Answer`.

    Raises:
        ConfigurationError: the cell is no share, or an area.
    """
    whole = _whole(cell, area=False)
    ends = (1 - rate.high, 1 - rate.low) if complement else (rate.low, rate.high)
    return Answer(
        value=whole * (1 - rate.value if complement else rate.value),
        low=whole * ends[0],
        high=whole * ends[1],
        n=rate.n,
        scale=scale,
        why=why,
        differs=differs,
    )


def answer_area(cell: Cell, area: Area, *, scale: str, why: str = "", differs: str = "") -> Answer:
    """The answer to a cell that is an AUC, from an area with its interval.

    n is the number of adversarial images; it is 0 where there are none of either kind.

    Args:
        cell: the published figure.
        area: ours, in [0,1].
        scale: as in `Answer`.
        why: as in `Answer`.
        differs: as in `Answer`.

    Raises:
        ConfigurationError: the cell is no AUC.
    """
    whole = _whole(cell, area=True)
    return Answer(
        value=whole * area.value,
        low=whole * area.low,
        high=whole * area.high,
        n=area.positives if area.negatives else 0,
        scale=scale,
        why=why,
        differs=differs,
    )


def answer_mean(
    cell: Cell, values: npt.ArrayLike, *, scale: str, why: str = "", differs: str = ""
) -> Answer:
    """The answer to a cell that is a mean over images, with Student's interval.

    Args:
        cell: the published figure.
        values: one per image, (n,), in the cell's unit: for l2_rms_255 the l2 distances of the
            images that were fooled, times 255 / sqrt(values per image).
        scale: as in `Answer`.
        why: as in `Answer`.
        differs: as in `Answer`.

    Raises:
        ConfigurationError: the values are not (n,), one is not finite, or there is a single one,
            which has no interval.
    """
    given = np.asarray(values, np.float64)
    if given.ndim != 1:
        raise ConfigurationError(f"The values are one per image, (n,); got {given.shape}.")
    if not np.isfinite(given).all():
        raise ConfigurationError(
            f"{int((~np.isfinite(given)).sum())} of {len(given)} values for {cell.cell_id} are not "
            "finite: give those of the images that the figure is over, such as the fooled ones."
        )
    if len(given) == 1:
        raise ConfigurationError(
            f"One value for {cell.cell_id} has no interval: measure on more images, or give a "
            "figure without chance to answer_exactly."
        )
    mean = half = math.nan
    if len(given):
        mean = float(given.mean())
        error = float(given.std(ddof=1)) / math.sqrt(len(given))
        half = float(special.stdtrit(len(given) - 1, 0.975)) * error
    return Answer(
        value=mean,
        low=mean - half,
        high=mean + half,
        n=len(given),
        scale=scale,
        why=why,
        differs=differs,
    )


def answer_exactly(
    value: float, *, n: int = 1, scale: str, why: str = "", differs: str = ""
) -> Answer:
    """The answer to a cell that is counted or chosen rather than sampled, such as parameters.

    Args:
        value: ours, in the cell's unit.
        n: number of images that it was found with; 1 where there are none.
        scale: as in `Answer`; a count that no scale changes is of "paper".
        why: as in `Answer`.
        differs: as in `Answer`.
    """
    return Answer(value=value, low=value, high=value, n=n, scale=scale, why=why, differs=differs)


def only(rows: Iterable[_Row], **values: Any) -> _Row:
    """The one row that has these attributes, such as a `RobustnessRow` or a `Detection`.

    Raises:
        ConfigurationError: no row has them, or several have; the message says what there is.
    """
    given = list(rows)
    found = [r for r in given if all(getattr(r, name) == wanted for name, wanted in values.items())]
    if len(found) == 1:
        return found[0]
    asked = ", ".join(f"{name}={wanted!r}" for name, wanted in values.items())
    there = "; ".join(
        f"{name}: {', '.join(sorted({repr(getattr(row, name)) for row in given}))}"
        for name in values
    )
    raise ConfigurationError(
        f"{len(found)} of {len(given)} rows have {asked}, where one was looked for. "
        f"They have {there or 'nothing that was asked for'}."
    )


def _nothing_at(scale: str) -> str:
    """What is said where no image was as it had to be, and when there may be some."""
    found = "nothing to measure on, n = 0"
    return found if scale == "paper" else f"{found}, waits for paper scale"


def compare(cell: Cell, answer: Answer) -> tuple[str, str]:
    """The verdict of a measured figure against a published one, and the reason for it.

    "Within" means that our 95 % interval, widened by half a unit of the last printed digit and by
    1 percentage point (2 points, 0.02, for an AUC; nothing more for what is no share), covers the
    published figure. Otherwise it is "better" or "worse", as `Cell.better` has it; of a figure
    that describes a setting every other one is worse.

    Where the report prints a bound instead ("less than 50 %"), the interval has to reach what lies
    within the bound.

    Nothing is compared where the cell has obstacles, or where ours was measured at smoke scale, on
    nothing, or as `Answer.differs` says.
    """
    reasons = [
        *cell.obstacles,
        *([_nothing_at(answer.scale)] if answer.n == 0 else []),
        *(["measured at smoke scale"] if answer.scale == "smoke" else []),
        *([answer.differs] if answer.differs else []),
    ]
    if reasons:
        return NOT_COMPARABLE, "; ".join(reasons)
    least, most = cell.range
    low, high = answer.low - cell.margin, answer.high + cell.margin
    slack = _SLACK * max(1.0, abs(cell.value), abs(low), abs(high))
    if low <= most + slack and high >= least - slack:
        return WITHIN, ""
    side = "above" if low > most else "below"
    reason = f"{side} it by more than {cell.margin:.4g} beyond our interval"
    if cell.better == "same":
        return WORSE, f"{reason}; it is a setting or a count"
    right = side == ("above" if cell.better == "higher" else "below")
    return BETTER if right else WORSE, f"{reason}; {cell.better} is better"


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """A published figure and ours.

    Attributes:
        cell: the published figure.
        ours: our figure in the cell's unit, to six digits; None where nothing was measured.
        low: lower end of its 95 % interval.
        high: upper end.
        n: number of images; 0 where there was nothing to measure on.
        scale: "smoke", "cpu" or "paper".
        verdict: one of `VERDICTS`.
        why: the reasons for the verdict, and what has to be said beside it.
    """

    cell: Cell
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    scale: str | None = None
    verdict: str = NOT_COMPARABLE
    why: str = ""

    @property
    def answered(self) -> bool:
        """Whether it was measured at cpu or paper scale."""
        return self.ours is not None and self.scale in {"cpu", "paper"}


def judge(
    cells: Cells, answers: Mapping[str, Answer], waiting: Mapping[str, str] | None = None
) -> list[CellRow]:
    """A row for every cell, in the cells' order.

    Args:
        cells: the published figures of a study, usually `published().where(paper=...)`.
        answers: ours, by cell_id.
        waiting: by cell_id, what a cell without an answer waits for: a scale, a machine, a part.

    Raises:
        ConfigurationError: an answer, or what a cell waits for, is of none of these cells, or a
            cell has both.
    """
    waiting = waiting or {}
    for cell_id in (*answers, *waiting):
        cells[cell_id]
    both = [cell_id for cell_id in answers if cell_id in waiting]
    if both:
        raise ConfigurationError(
            f"{both[0]} has an answer and waits for one all the same: take it out of one."
        )
    return [_row(cell, answers.get(cell.cell_id), waiting.get(cell.cell_id, "")) for cell in cells]


def _row(cell: Cell, answer: Answer | None, waiting: str) -> CellRow:
    if answer is None:
        missing = f"not measured yet, waits for {waiting}" if waiting else "not measured yet"
        return CellRow(cell=cell, why="; ".join([missing, *cell.obstacles, *cell.caveats]))
    verdict, reason = compare(cell, answer)
    why = "; ".join(filter(None, [reason, answer.why, *cell.caveats]))
    row = CellRow(cell=cell, n=answer.n, scale=answer.scale, verdict=verdict, why=why)
    if answer.n == 0:
        return row
    return replace(row, ours=_six(answer.value), low=_six(answer.low), high=_six(answer.high))


def _six(number: float) -> float:
    """Six significant digits, which are written and read again without loss."""
    return float(f"{number:.6g}")


def _whole(cell: Cell, *, area: bool) -> float:
    whole = cell.whole
    if whole is None or (cell.metric == "auc") is not area:
        kind = "an area under the ROC curve" if area else "a share of images"
        raise ConfigurationError(
            f"{cell.cell_id} is {cell.metric} in {cell.unit}, not {kind}: use the answer_ function "
            "that suits it."
        )
    return whole
