"""Fills docs/results.md with the reports' cells and with what an adaptive attacker leaves.

python results/page.py: reads results/<study>/cells.csv and adaptive.md, which `notsure run STUDY
--publish results` writes; a study that is not published yet has all its cells as not measured.
"""

from __future__ import annotations

from pathlib import Path

from notsure.studies.adaptive import NOT_MEASURED
from notsure.studies.cell_tables import read_rows, update_page
from notsure.studies.cells import published
from notsure.studies.publishing import ADAPTIVE, CELLS
from notsure.studies.verdicts import CellRow, judge

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "results.md"


def rows_of(report: str, results: Path) -> list[CellRow]:
    """A row for each cell of a report."""
    path = results / report / CELLS
    return read_rows(path) if path.is_file() else judge(published().where(paper=report), {})


def adaptive_of(report: str, results: Path) -> list[str]:
    """The section under an adaptive attacker of a report's study."""
    path = results / report / ADAPTIVE
    text = path.read_text(encoding="utf-8") if path.is_file() else f"{NOT_MEASURED}."
    return text.rstrip("\n").splitlines()


def write(page: Path = PAGE, results: Path = HERE) -> None:
    """Writes the tables and sections between their markers."""
    reports = list(dict.fromkeys(paper for paper, _ in published().tables))
    rows = [row for report in reports for row in rows_of(report, results)]
    update_page(page, rows, {report: adaptive_of(report, results) for report in reports})


if __name__ == "__main__":
    write()
