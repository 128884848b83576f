"""Figures over a grid of guards that differ in two parameters (lemesle Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from notsure.core.errors import ConfigurationError
from notsure.evaluation.intervals import Rate
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import WORST_CASE, RobustnessRow, robustness

FIGURES = (
    "clean_accuracy",
    "clean_rejection",
    "lenient",
    "strict",
    "success",
    "right",
    "wrong",
    "flagged",
)
"""The rates that a grid can show: those of a `RobustnessRow`."""

Coordinate = float | str


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """One guard of a grid.

    Attributes:
        guard: its name.
        row: the parameter that rows differ in, with its value.
        column: the parameter that columns differ in, with its value.
        value: the figure.
    """

    guard: str
    row: dict[str, Coordinate]
    column: dict[str, Coordinate]
    value: Rate


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A figure of guards by two of their parameters.

    Attributes:
        row_parameter: what the rows differ in.
        column_parameter: what the columns differ in.
        figure: which figure it is, in the worst case over all attacks.
        threat: what the attacker knew.
        norm: of the budget; None where there is none.
        eps: the budget; None where there is none.
        rows: the rows' values, rising.
        columns: the columns' values, rising.
        values: the figure, row by row; None where there is no guard.
        cells: the same, one cell a guard.
    """

    row_parameter: str
    column_parameter: str
    figure: str
    threat: str
    norm: str | None
    eps: float | None
    rows: tuple[Coordinate, ...]
    columns: tuple[Coordinate, ...]
    values: tuple[tuple[Rate | None, ...], ...]
    cells: tuple[GridCell, ...]


def grid(
    records: Records,
    *,
    rows: str,
    columns: str,
    figure: str = "lenient",
    threat: str,
    norm: str | None = None,
    eps: float | None = None,
) -> Grid:
    """The worst-case figure of every guard, laid out by two parameters of the guards.

    Args:
        records: of guards whose meta says their "parameters".
        rows: the parameter that rows differ in.
        columns: the parameter that columns differ in.
        figure: one of `FIGURES`.
        threat: what the attacker knows.
        norm: of the budget; by default the only one that there is.
        eps: the budget; by default the largest.

    Raises:
        ConfigurationError: a guard lacks one of the parameters or has the same values as another;
            there is no such figure, or none under this threat, norm and eps; several norms to
            choose from.
    """
    if figure not in FIGURES:
        raise ConfigurationError(f"There is no figure {figure!r}. There are: {', '.join(FIGURES)}.")
    places = _places(records, rows, columns)
    found = [
        row for row in robustness(records) if row.threat == threat and row.attack == WORST_CASE
    ]
    if not found:
        threats = ", ".join(records.meta["threats"])
        raise ConfigurationError(f"No guard was attacked under {threat!r}. There are: {threats}.")
    norm, eps = _budget(found, norm, eps)
    by_guard = {row.guard: row for row in found if (row.norm, row.eps) == (norm, eps)}
    without = [guard for guard in places if guard not in by_guard]
    if without:
        raise ConfigurationError(
            f"The guards {', '.join(without)} were not attacked under {threat} with a budget of "
            f"{norm} {eps}: choose a budget that all were attacked with."
        )
    cells = tuple(
        GridCell(
            guard=guard,
            row={rows: row},
            column={columns: column},
            value=getattr(by_guard[guard], figure),
        )
        for guard, (row, column) in places.items()
    )
    by_place = {(cell.row[rows], cell.column[columns]): cell.value for cell in cells}
    row_values = _rising([row for row, _ in places.values()])
    column_values = _rising([column for _, column in places.values()])
    return Grid(
        row_parameter=rows,
        column_parameter=columns,
        figure=figure,
        threat=threat,
        norm=norm,
        eps=eps,
        rows=row_values,
        columns=column_values,
        values=tuple(
            tuple(by_place.get((row, column)) for column in column_values) for row in row_values
        ),
        cells=cells,
    )


def _places(records: Records, rows: str, columns: str) -> dict[str, tuple[Coordinate, Coordinate]]:
    """Where each guard stands."""
    places: dict[str, tuple[Coordinate, Coordinate]] = {}
    taken: dict[tuple[Coordinate, Coordinate], str] = {}
    lacking: dict[str, list[str]] = {}
    for guard in records.guards:
        parameters: dict[str, Any] = records.meta["guards"][guard].get("parameters") or {}
        missing = [name for name in dict.fromkeys((rows, columns)) if name not in parameters]
        if missing:
            lacking[guard] = missing
            continue
        place = (_coordinate(parameters[rows]), _coordinate(parameters[columns]))
        if taken.setdefault(place, guard) != guard:
            raise ConfigurationError(
                f"The guards {taken[place]} and {guard} have the same {rows} and {columns}: give "
                "parameters that tell them apart, or select the guards first."
            )
        places[guard] = place
    if lacking:
        said = "; ".join(f"{guard} lacks {', '.join(names)}" for guard, names in lacking.items())
        raise ConfigurationError(f"A grid needs {rows} and {columns} of every guard: {said}.")
    return places


def _coordinate(value: Any) -> Coordinate:
    """A number as it is; anything else by its text."""
    return float(value) if isinstance(value, int | float) else str(value)


def _rising(values: Sequence[Coordinate]) -> tuple[Coordinate, ...]:
    """The distinct values, numbers before words."""
    return tuple(
        sorted(set(values), key=lambda v: (isinstance(v, str), v if isinstance(v, float) else 0, v))
    )


def _budget(
    found: Sequence[RobustnessRow], norm: str | None, eps: float | None
) -> tuple[str | None, float | None]:
    """The budget that is meant."""
    norms = sorted({row.norm for row in found if row.norm is not None})
    if norm is None and len(norms) > 1:
        raise ConfigurationError(f"There are several norms, {', '.join(norms)}: choose one, norm=.")
    if norm is None and norms:
        norm = norms[0]
    sizes = sorted({row.eps for row in found if row.norm == norm and row.eps is not None})
    if norm is not None and (not sizes or eps not in {None, *sizes}):
        there = ", ".join(f"{row.norm} {row.eps:g}" for row in found if row.eps is not None)
        raise ConfigurationError(
            f"No guard has a figure for {norm} {eps}. There are: {there or 'none with a budget'}."
        )
    return norm, sizes[-1] if eps is None and sizes else eps
