"""The rows of published figures and ours as files: CSV, the tables of the results' page, counts."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.storage import atomic, writable_folder
from notsure.studies.cells import SCALES, Cell, Cells, published
from notsure.studies.verdicts import VERDICTS, CellRow

if TYPE_CHECKING:
    from rich.table import Table

HEAD = ("cell_id", "published", "ours", "low", "high", "n", "scale", "verdict", "why")
"""The columns of a study's cells.csv."""

COUNT = "cells answered"
"""The marker of the count on the page."""

_END = "<!-- end -->"
_MARKER = re.compile(r"^<!-- ((?:cells|adaptive) [^\n]*?) -->$", re.MULTILINE)


def write_rows(path: str | Path, rows: Iterable[CellRow]) -> Path:
    """Writes rows as CSV, atomically; the same rows give the same bytes.

    Args:
        path: of the file, usually results/<study>/cells.csv.
        rows: in the order in which they are written.

    Raises:
        ConfigurationError: the folder cannot be written to.
    """
    path = Path(path)
    writable_folder(path.parent)
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows(_fields(row) for row in rows)
    return path


def read_rows(path: str | Path, cells: Cells | None = None) -> list[CellRow]:
    """Reads rows that were written.

    Args:
        path: of the file.
        cells: the published figures that they are of; by default all.

    Raises:
        ConfigurationError: there is no such file, or it has a cell that is not published.
        CheckpointError: it is damaged, or a published figure has changed since; the message names
            the line.
    """
    path, cells = Path(path), published() if cells is None else cells
    if not path.is_file():
        raise ConfigurationError(f"There are no cells at {str(path)!r}: run the study.")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}.") from error
    if not lines or tuple(lines[0]) != HEAD:
        raise CheckpointError(f"{str(path)!r} is no file of cells: its head is not {HEAD}.")
    return [
        _parsed(line, cells, f"{path.name}, row {place}")
        for place, line in enumerate(lines[1:], start=1)
    ]


def _fields(row: CellRow) -> tuple[str, ...]:
    numbers = ("" if x is None else repr(x) for x in (row.ours, row.low, row.high, row.n))
    return (row.cell.cell_id, row.cell.printed, *numbers, row.scale or "", row.verdict, row.why)


def _parsed(line: Sequence[str], cells: Cells, where: str) -> CellRow:
    if len(line) != len(HEAD):
        raise CheckpointError(f"{where}: a row has {len(HEAD)} columns, this has {len(line)}.")
    cell_id, printed, ours, low, high, n, scale, verdict, why = line
    cell = cells[cell_id]
    if printed != cell.printed:
        raise CheckpointError(
            f"{where}: {cell_id} was compared with {printed!r}, and {cell.printed!r} is published: "
            "judge it again."
        )
    if verdict not in VERDICTS or (scale and scale not in SCALES):
        raise CheckpointError(f"{where}: {verdict!r} at scale {scale!r} is no verdict of ours.")
    try:
        numbers = [float(text) if text else None for text in (ours, low, high)]
        count = int(n) if n else None
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}.") from error
    return CellRow(
        cell=cell,
        ours=numbers[0],
        low=numbers[1],
        high=numbers[2],
        n=count,
        scale=scale or None,
        verdict=verdict,
        why=why,
    )


@dataclass(frozen=True, kw_only=True)
class CellCount:
    """How many cells have an answer.

    Attributes:
        cells: number of rows.
        answered: measured at cpu or paper scale.
        smoke: measured at smoke scale only.
        verdicts: number of rows by verdict, in the order of `VERDICTS`.
    """

    cells: int
    answered: int
    smoke: int
    verdicts: dict[str, int]

    @property
    def share(self) -> float:
        """The answered ones in [0,1]; NaN without cells."""
        return self.answered / self.cells if self.cells else math.nan


def count(rows: Iterable[CellRow]) -> CellCount:
    """Counts answered cells and verdicts.

    A cell counts as answered with whatever verdict, if it was measured at cpu or paper scale.
    """
    given = list(rows)
    found = Counter(row.verdict for row in given)
    return CellCount(
        cells=len(given),
        answered=sum(row.answered for row in given),
        smoke=sum(row.ours is not None and row.scale == "smoke" for row in given),
        verdicts={verdict: found[verdict] for verdict in VERDICTS},
    )


def markdown_table(rows: Iterable[CellRow]) -> list[str]:
    """The lines of a Markdown table of one report's table; figures are in the cells' units."""
    lines = [
        "| cell | unit | published | ours [95 % interval] | n | scale | verdict | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row.cell.cell_id.removeprefix(f"{row.cell.paper}.{row.cell.table}.")
        fields = [name, *cell_fields(row)[1:]]
        lines.append("| " + " | ".join(_escaped(field) for field in fields) + " |")
    return lines


def cell_fields(row: CellRow) -> list[str]:
    """A row as words: cell, unit, published, ours with its interval, n, scale, verdict, why."""
    cell = row.cell
    return [
        cell.cell_id.removeprefix(f"{cell.paper}."),
        cell.unit,
        _bounded(cell),
        _interval(row),
        "" if row.n is None else str(row.n),
        row.scale or "",
        row.verdict,
        row.why,
    ]


def summary_table(rows: Iterable[CellRow]) -> Table:
    """The rows for the console: cell, published, ours with its interval, verdict."""
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("cell", overflow="fold"), "published", "ours [95 %]", "verdict")
    for row in rows:
        table.add_row(
            row.cell.cell_id.removeprefix(f"{row.cell.paper}."),
            _bounded(row.cell),
            Text(_interval(row) or "not yet"),
            row.verdict,
        )
    return table


def markdown_count(rows: Iterable[CellRow]) -> list[str]:
    """The lines of a Markdown table of how many cells of each report are answered."""
    by_paper: dict[str, list[CellRow]] = {}
    for row in rows:
        by_paper.setdefault(row.cell.paper, []).append(row)
    everything = [row for own in by_paper.values() for row in own]
    lines = [
        f"| report | cells | answered | share | smoke only | {' | '.join(VERDICTS)} |",
        "|---|---|---|---|---|" + "---|" * len(VERDICTS),
    ]
    for name, own in [*by_paper.items(), ("all", everything)]:
        its = count(own)
        share = f"{100 * its.share:.0f} %" if its.cells else ""
        verdicts = " | ".join(str(its.verdicts[verdict]) for verdict in VERDICTS)
        lines.append(
            f"| {name} | {its.cells} | {its.answered} | {share} | {its.smoke} | {verdicts} |"
        )
    return lines


def update_page(
    path: str | Path, rows: Iterable[CellRow], adaptive: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Writes the tables between the markers of a Markdown page, atomically.

    The table of pang's Table 1 stands between the lines `<!-- cells pang t1 -->` and
    `<!-- end -->`, the count between `<!-- cells answered -->` and the same, what an adaptive
    attacker leaves of pang's systems between `<!-- adaptive pang -->` and the same.

    Args:
        path: of the page, usually docs/results.md.
        rows: of all studies that the page is about.
        adaptive: by report, the lines of its section under an adaptive attacker.

    Raises:
        ConfigurationError: there is no page; a marker is there twice, has no end, or is of a table
            without rows; or rows have no marker to stand under.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no page {path.name} to write tables into.") from error
    given = list(rows)
    by_table: dict[str, list[CellRow]] = {}
    for row in given:
        by_table.setdefault(f"cells {row.cell.paper} {row.cell.table}", []).append(row)
    tables = {name: markdown_table(own) for name, own in by_table.items()}
    tables[COUNT] = markdown_count(given)
    for name, lines in (adaptive or {}).items():
        tables[f"adaptive {name}"] = list(lines)
    with atomic(path) as temporary:
        temporary.write_text(_filled(text, tables, path.name), encoding="utf-8")
    return path


def _filled(text: str, tables: dict[str, list[str]], page: str) -> str:
    markers = list(_MARKER.finditer(text))
    names = [marker[1] for marker in markers]
    twice = [name for name, times in Counter(names).items() if times > 1]
    unknown = [name for name in names if name not in tables]
    missing = [name for name in tables if name not in names]
    for wrong, trouble, remedy in (
        (twice, "stands there twice", "remove one"),
        (unknown, "is of no table with rows", "remove it, or give the rows of that study"),
        (missing, "is missing", f"add that line, and {_END} below it"),
    ):
        if wrong:
            raise ConfigurationError(f"{page}: the marker <!-- {wrong[0]} --> {trouble}: {remedy}.")
    parts, place = [], 0
    for marker in markers:
        end = text.find(f"\n{_END}", marker.end())
        following = text.find("\n<!-- ", marker.end())
        if end < 0 or following < end:
            raise ConfigurationError(
                f"{page}: the marker <!-- {marker[1]} --> has no {_END}: add it below."
            )
        parts += [text[place : marker.end()], "\n\n", "\n".join(tables[marker[1]]), "\n"]
        place = end
    return "".join([*parts, text[place:]])


def _bounded(cell: Cell) -> str:
    """What the report prints, with a sign where it is a bound."""
    least, most = cell.range
    if math.isinf(most):
        return f"> {cell.printed}"
    return f"< {cell.printed}" if math.isinf(least) else cell.printed


def _interval(row: CellRow) -> str:
    if row.ours is None or row.low is None or row.high is None:
        return ""
    return f"{row.ours:.4g} [{row.low:.4g}, {row.high:.4g}]"


def _escaped(text: str) -> str:
    """A field that neither ends its column nor its row."""
    return " ".join(text.replace("|", "\\|").split())
