"""What a paper-ready document is made of, whatever it is written as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notsure.core.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


LONGEST_WHOLE = 30
"""A table of more rows than this may break over pages."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        head: what stands above it.
        width: its share of the page's width; those of a table add up to 1.
        number: whether it holds figures, which stand to the right.
        grouped: whether a cell that repeats the one above may be left empty.
    """

    head: str
    width: float
    number: bool = False
    grouped: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of plain text.

    Attributes:
        identifier: letters, digits and hyphens, for labels.
        caption: what it holds, and over how many images.
        columns: from left to right.
        rows: a cell for each column; nothing is escaped.

    Raises:
        ConfigurationError: a row has more or fewer cells than there are columns.
    """

    identifier: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ConfigurationError(
                    f"The table {self.identifier} has {len(self.columns)} columns and a row of "
                    f"{len(row)} cells."
                )

    @property
    def long(self) -> bool:
        """Whether it may have to break over pages."""
        return len(self.rows) > LONGEST_WHOLE

    def grouped_rows(self) -> list[list[str]]:
        """The rows, with cells of grouped columns empty where they repeat those above.

        A table that may break over pages keeps them all.
        """
        if self.long:
            return [list(row) for row in self.rows]
        shown = []
        above: Sequence[str] = ()
        for row in self.rows:
            same = bool(above)
            cells = []
            for position, column in enumerate(self.columns):
                same = same and column.grouped and row[position] == above[position]
                cells.append("" if same else row[position])
            shown.append(cells)
            above = row
        return shown

    def starts_group(self, position: int) -> bool:
        """Whether the row at a position differs from the one above in the first grouped column."""
        grouped = next((i for i, column in enumerate(self.columns) if column.grouped), None)
        if grouped is None or position == 0:
            return False
        return self.rows[position][grouped] != self.rows[position - 1][grouped]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure.

    Attributes:
        identifier: letters, digits and hyphens, for labels and for the file's name.
        caption: what is to be seen.
        draw: makes it; needs matplotlib.
    """

    identifier: str
    caption: str
    draw: Callable[[], Drawing]


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A paragraph of plain text; its first words, the lead, stand out and may be none."""

    lead: str = ""
    text: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, paragraphs, then tables and figures."""

    heading: str
    passages: Sequence[Passage] = ()
    parts: Sequence[Table | Plot] = ()

    @property
    def tables(self) -> list[Table]:
        """Its tables."""
        return [part for part in self.parts if isinstance(part, Table)]

    @property
    def plots(self) -> list[Plot]:
        """Its figures."""
        return [part for part in self.parts if isinstance(part, Plot)]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A title, a line about the run, and sections."""

    title: str
    about: str
    sections: Sequence[Section]

    @property
    def plots(self) -> list[Plot]:
        """All figures, in order."""
        return [plot for section in self.sections for plot in section.plots]
