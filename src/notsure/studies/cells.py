"""The figures that the five reports print, one cell each, and what may be compared with them.

The cells stand in `published.csv`, whose columns are `COLUMNS`. What a cell's figure is and what
speaks against comparing ours with it is taken from its columns, the note among them:

    cells = published()
    cells["pang.t1.mnist.resnet32.ce.clean.error_rate"].value  # 0.38, in the cell's unit, percent
    cells.where(paper="pang", table="t2", attack=("fgsm", "bim"), eps=None)
"""

from __future__ import annotations

import csv
import difflib
import functools
import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from notsure.core.errors import ConfigurationError
from notsure.studies.comparability import (
    CAVEATS,
    ERRATA,
    METRICS,
    OBSTACLES,
    UNITS,
    Direction,
)

SCALES = ("smoke", "cpu", "paper")
"""At what scale a figure is measured: a check that all runs, what two cores can do, the whole."""

PUBLISHED = Path(__file__).with_name("published.csv")
"""The reference file."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One printed figure; the text columns are None where the report leaves them open.

    Attributes:
        cell_id: unique name.
        paper: short name of the report, as studies are named.
        table: "t1", "f1", ... or "text".
        dataset: lower-case name.
        model: the network.
        training: its objective.
        system: what guards it; "none" where nothing does.
        attack: short name.
        eps: the budget in [0,1] pixel units; None where the report prints none.
        norm: of the budget or distance.
        threat: what the attacker knows; "clean" without an attack.
        metric: one of `METRICS`.
        unit: one of `UNITS`.
        value: in that unit.
        note: the conditions of the figure.
        printed: the value as the report prints it.
    """

    cell_id: str
    paper: str
    table: str
    dataset: str | None
    model: str | None
    training: str | None
    system: str | None
    attack: str | None
    eps: float | None
    norm: str | None
    threat: str | None
    metric: str
    unit: str
    value: float
    note: str
    printed: str

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit: 0.005 for "0.38", 50 for "1.3e3"."""
        return float(Decimal((0, (5,), _exponent(self.printed) - 1)))

    @property
    def better(self) -> Direction:
        """Which side of the figure is better for the defender."""
        metric = METRICS[self.metric]
        attacked = metric.attacked if self.threat not in {None, "clean"} else None
        return attacked or metric.better

    @property
    def whole(self) -> float | None:
        """How many of its unit make the whole of a share; None where it is no share."""
        return None if METRICS[self.metric].margin is None else UNITS[self.unit]

    @property
    def margin(self) -> float:
        """By how much ours may miss the figure without counting, in its unit."""
        share = METRICS[self.metric].margin
        return self.rounding + (share or 0.0) * (self.whole or 0.0)

    @property
    def range(self) -> tuple[float, float]:
        """What the report states: the value, or all values on one side of a printed bound."""
        if re.search(r"\blower bound", self.note):
            return self.value, math.inf
        if re.search(r"\bupper bound", self.note):
            return -math.inf, self.value
        return self.value, self.value

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why nothing can be compared with the figure; empty where something can."""
        return tuple(text for pattern, text in OBSTACLES if re.search(pattern, self.note))

    @property
    def caveats(self) -> tuple[str, ...]:
        """What has to be said beside a comparison."""
        noted = [text for pattern, text in CAVEATS if re.search(pattern, self.note)]
        errata = [text for *key, text in ERRATA if key == [self.paper, self.attack]]
        return tuple(noted + errata)


def _exponent(printed: str) -> int:
    """The power of ten of the last printed digit."""
    exponent = Decimal(printed).as_tuple().exponent
    if not isinstance(exponent, int):
        raise ConfigurationError(f"{printed!r} is no finite number.")
    return exponent


COLUMNS = tuple(field.name for field in fields(Cell) if field.name != "printed")
"""The columns of the reference file, in their order."""

_REQUIRED = ("cell_id", "paper", "table", "metric", "unit", "value")


class Cells:
    """Cells in the order of their file, by id or by what stands in their columns.

    Args:
        cells: with ids that are unique.

    Raises:
        ConfigurationError: an id occurs twice.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._cells: dict[str, Cell] = {}
        for cell in cells:
            if cell.cell_id in self._cells:
                raise ConfigurationError(f"The cell {cell.cell_id!r} is there twice: remove one.")
            self._cells[cell.cell_id] = cell

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells.values())

    def __contains__(self, cell_id: object) -> bool:
        return cell_id in self._cells

    def __getitem__(self, cell_id: str) -> Cell:
        """The cell of this id.

        Raises:
            ConfigurationError: there is none; the message names the nearest.
        """
        if cell_id not in self._cells:
            near = _nearest(cell_id, self._cells)
            raise ConfigurationError(f"There is no cell {cell_id!r} among these.{near}")
        return self._cells[cell_id]

    def where(self, **values: Any) -> Cells:
        """The cells that have these values in these columns.

        Args:
            values: one value for each column, None for what the report leaves open, or a
                collection of values any of which will do.

        Raises:
            ConfigurationError: there is no such column.
        """
        for name in values:
            if name not in COLUMNS:
                raise ConfigurationError(
                    f"Cells have no column {name!r}.{_nearest(name, COLUMNS)} "
                    f"They have {', '.join(COLUMNS)}."
                )
        wanted = {
            name: value
            if isinstance(value, Collection) and not isinstance(value, str)
            else (value,)
            for name, value in values.items()
        }
        return Cells(
            cell
            for cell in self
            if all(getattr(cell, name) in allowed for name, allowed in wanted.items())
        )

    @property
    def tables(self) -> list[tuple[str, str]]:
        """The tables of the reports that they are from, (paper, table), in order."""
        return list(dict.fromkeys((cell.paper, cell.table) for cell in self))


@functools.cache
def published() -> Cells:
    """Every figure that the five reports print."""
    return read_cells(PUBLISHED)


def read_cells(path: str | Path) -> Cells:
    """Reads cells from a CSV file with the columns `COLUMNS`.

    Raises:
        ConfigurationError: there is no such file, its columns are others, or a row is not whole;
            the message names file and line.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ConfigurationError(
                    f"{path.name} is no file of published cells: its columns have to be "
                    f"{', '.join(COLUMNS)}."
                )
            return Cells([_cell(row, f"{path.name}, line {reader.line_num}") for row in reader])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{str(path)!r} cannot be read: {error}.") from error


def _cell(row: dict[str, Any], where: str) -> Cell:
    if None in row or None in row.values():
        raise ConfigurationError(f"{where}: a row has {len(COLUMNS)} columns.")
    missing = [name for name in _REQUIRED if not row[name]]
    if missing:
        raise ConfigurationError(f"{where}: {', '.join(missing)} must not be empty.")
    for name, known in (("metric", METRICS), ("unit", UNITS)):
        if row[name] not in known:
            near = _nearest(row[name], known)
            raise ConfigurationError(f"{where}: there is no {name} {row[name]!r}.{near}")
    if METRICS[row["metric"]].margin is not None and UNITS[row["unit"]] is None:
        raise ConfigurationError(f"{where}: {row['metric']} is a share, not in {row['unit']}.")
    texts = {name: row[name] or None for name in COLUMNS}
    return Cell(
        **{
            **texts,
            "eps": _number(row["eps"], "eps", where) if row["eps"] else None,
            "value": _number(row["value"], "value", where),
            "note": row["note"],
            "printed": row["value"],
        }
    )


def _number(text: str, name: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(f"{where}: {name} is no finite number but {text!r}.")
    return number


def _nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names what may have been meant, with the space before it."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
