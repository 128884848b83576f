"""What has to be measured for each published figure: the section `cells` of a study, cell by cell.

A group of `cells` says it for many figures at once, with columns of the cell in braces:

    question = questions(study)["pang.t2.mnist.resnet32.ce.fgsm.kdensity.auc"]
    question.measure, question.guard  # "detection_area", "mnist-32-ce"

How it is measured stands in `notsure.studies.measures`. Here is what has to be said for it, which
takes no torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from notsure.core.errors import ConfigurationError
from notsure.studies.cells import COLUMNS, Cell, Cells, published
from notsure.studies.declared import EvaluationSpec, Study
from notsure.studies.document import Path, nearest

FIELDS = (
    "evaluation",
    "guard",
    "attack",
    "detector",
    "threat",
    "eps",
    "substitute",
    "network",
)
"""What a question may say of where it is measured."""

SMALLEST, LARGEST = "smallest", "largest"

OVER, TAKE = "over", "take"
"""Arguments of every measure: over what it is taken several times, and which of these counts."""

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_ATTACKED = ("evaluation", "guard", "threat", "attack")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a measure has to be told.

    Attributes:
        fields: those of `FIELDS` that have to be there.
        required: the arguments that have to be there.
        optional: the arguments that may be there, besides `over` and `take`.
        every_eps: whether it looks at all budgets of the evaluation by itself where no eps is said.
    """

    fields: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    every_eps: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """All arguments that it knows."""
        return (*self.required, *self.optional, OVER, TAKE)


MEASURES: Mapping[str, Needs] = {
    "clean_error": Needs(fields=("evaluation", "guard")),
    "clean_accuracy": Needs(fields=("evaluation", "guard")),
    "clean_rejection": Needs(fields=("evaluation", "guard")),
    "detection_area": Needs(fields=(*_ATTACKED, "detector")),
    "detection_rate": Needs(fields=_ATTACKED),
    "undetected_ratio": Needs(fields=_ATTACKED, optional=("above",)),
    "distortion": Needs(fields=_ATTACKED),
    "robust_accuracy": Needs(fields=_ATTACKED),
    "worst_robust_accuracy": Needs(fields=_ATTACKED),
    "rejected_at_worst": Needs(fields=_ATTACKED, every_eps=True),
    "misclassification": Needs(fields=_ATTACKED),
    "adversarial_confidence": Needs(fields=(*_ATTACKED, "detector"), optional=("quantile",)),
    "mean_score": Needs(fields=("evaluation", "guard", "detector")),
    "distance_at_zero": Needs(fields=_ATTACKED, optional=("norm", "share"), every_eps=True),
    "seconds_per_example": Needs(fields=_ATTACKED, optional=("count", "others")),
    "seconds_ratio": Needs(fields=_ATTACKED, required=("to",)),
    "parameter_count": Needs(fields=("network",), optional=("module",)),
    "setting": Needs(optional=("path", "value")),
    "best_of": Needs(
        fields=("evaluation", "threat", "attack"), required=("guards",), every_eps=True
    ),
    "saturation": Needs(
        fields=("evaluation", "guard", "threat"),
        required=("attacks",),
        optional=("within",),
        every_eps=True,
    ),
}
"""What each measure has to be told; what it is stands in `notsure.studies.measures`."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be measured for one cell, as its group says it, with nothing left in braces.

    Attributes:
        cell: the published figure.
        measure: one of `MEASURES`.
        group: the name of the entry under `cells`.
        evaluation: as in `CellsSpec`, as the rest.
        eps: in [0,1] pixel units.
    """

    cell: Cell
    measure: str
    group: str = ""
    evaluation: str | None = None
    guard: str | None = None
    attack: str | None = None
    detector: str | None = None
    threat: str | None = None
    eps: float | None = None
    substitute: str | None = None
    network: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    differs: str = ""

    @property
    def over(self) -> Mapping[str, Any]:
        """By field, the values that the measure is taken with, "all" for an evaluation's eps."""
        usual = "eps" if self.measure == "worst_robust_accuracy" else {}
        over = self.arguments.get(OVER, usual)
        return over if isinstance(over, Mapping) else {over: "all"}

    @property
    def take(self) -> str:
        """Which of them counts."""
        return str(self.arguments.get(TAKE, SMALLEST))

    def variants(self, budgets: list[float]) -> Iterator[Question]:
        """The questions of whose answers one counts; the question alone where there is one.

        Args:
            budgets: all eps of its evaluation.
        """
        axes = {
            name: budgets
            if values == "all"
            else [as_size(v) if name == "eps" else v for v in values]
            for name, values in self.over.items()
        }
        for values in itertools.product(*axes.values()):
            chosen: dict[str, Any] = dict(zip(axes, values, strict=True))
            yield replace(self, **chosen)


def cells_of(study: Study) -> Cells:
    """The published figures that a study is to answer; none where it is of no report."""
    return published().where(paper=study.report) if study.report else Cells(())


def questions(study: Study) -> dict[str, Question]:
    """What a study measures for each cell that a group of it is about, by cell_id.

    Raises:
        ConfigurationError: a group is about no cell, or one that another group is about; or what it
            says is not of the right form. The message says where it is written.
    """
    found: dict[str, Question] = {}
    for name, spec in study.cells.items():
        for cell in _meant(study, spec.of, ("cells", name)):
            if cell.cell_id in found:
                raise study.error(
                    f"{cell.cell_id} is in the groups {found[cell.cell_id].group!r} and {name!r}: "
                    "leave it out of one.",
                    *("cells", name, "of"),
                )
            found[cell.cell_id] = _question(study, name, cell)
    return found


def waiting(study: Study) -> dict[str, str]:
    """What cells without an answer at this scale wait for, by cell_id.

    Raises:
        ConfigurationError: an entry is about no cell, or one that another entry is about.
    """
    found: dict[str, str] = {}
    for name, spec in study.waiting.items():
        for cell in _meant(study, spec.of, ("waiting", name)):
            if cell.cell_id in found:
                raise study.error(
                    f"{cell.cell_id} waits twice: leave it out of one entry.",
                    *("waiting", name, "of"),
                )
            found[cell.cell_id] = spec.what
    return found


def unanswered(study: Study) -> list[str]:
    """The cells of a study's report that no group is about and that do not wait, by cell_id."""
    known = questions(study).keys() | waiting(study).keys()
    return [cell.cell_id for cell in cells_of(study) if cell.cell_id not in known]


def budgets_of(evaluation: EvaluationSpec) -> list[float]:
    """The budgets of an evaluation, in [0,1] pixel units; none where the attacks have their own."""
    return [as_size(eps) for eps in evaluation.eps or ()]


def as_size(eps: float | str) -> float:
    """A budget as a number.

    Raises:
        ConfigurationError: it is neither a number nor a fraction.
    """
    try:
        return float(Fraction(eps) if isinstance(eps, str) else eps)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ConfigurationError(
            f"eps is a number or a fraction, such as 0.1 or 8/255; got {eps!r}."
        ) from None


def is_size(eps: object) -> bool:
    """Whether it is a budget as `as_size` takes it."""
    try:
        as_size(eps)  # type: ignore[arg-type]
    except ConfigurationError:
        return False
    return True


def _meant(study: Study, of: Mapping[str, Any], path: Path) -> Cells:
    """The cells that an entry is about."""
    own = cells_of(study)
    if len(own) == 0:
        papers = dict.fromkeys(cell.paper for cell in published())
        raise study.error(
            f"No figures are known of the report {study.report!r}. Those are known of "
            f"{', '.join(papers)}: give one as report.",
            *path,
        )
    for column, values in of.items():
        if column not in COLUMNS:
            raise study.error(
                f"Cells have no column {column!r}.{nearest(column, COLUMNS)}",
                *(*path, "of", column),
                key=True,
            )
        there = list(dict.fromkeys(getattr(cell, column) for cell in own))
        for value in values if isinstance(values, tuple) else (values,):
            if value not in there:
                raise study.error(
                    f"No cell of {study.report} has the {column} {value!r}."
                    f"{nearest(value, map(str, there[:20]))}",
                    *(*path, "of", column),
                )
    found = own.where(**of)
    if len(found) == 0:
        raise study.error(f"No cell of {study.report} has all of these at once.", *path, "of")
    return found


def _question(study: Study, name: str, cell: Cell) -> Question:
    spec = study.cells[name]
    told: dict[str, Any] = {}
    key = ""
    try:
        for key in (*FIELDS, "why", "differs", "arguments"):
            told[key] = _filled(getattr(spec, key), cell)
        key = "eps"
        told[key] = None if told[key] is None else as_size(told[key])
    except ConfigurationError as error:
        raise study.error(str(error), "cells", name, key) from error
    return Question(cell=cell, measure=spec.measure, group=name, **told)


def _filled(value: Any, cell: Cell) -> Any:
    """A value with the columns of a cell in place of their names in braces.

    Raises:
        ConfigurationError: there is no such column, or the report leaves it open.
    """
    if isinstance(value, Mapping):
        return {_filled(key, cell): _filled(one, cell) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(one, cell) for one in value]
    if not isinstance(value, str):
        return value

    def column(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return found[0][0]
        if name not in COLUMNS:
            raise ConfigurationError(f"Cells have no column {name!r}.{nearest(name, COLUMNS)}")
        its = getattr(cell, name)
        if its is None:
            raise ConfigurationError(
                f"The report leaves the {name} of {cell.cell_id} open: write out what is meant, in "
                "a group of its own."
            )
        return f"{its:g}" if isinstance(its, float) else str(its)

    return _PLACEHOLDER.sub(column, value)
