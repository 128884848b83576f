"""Paper-ready tables and figures: Markdown, LaTeX, or one PDF."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from notsure.core.errors import ConfigurationError
from notsure.core.storage import atomic, writable_folder
from notsure.evaluation.records import Records
from notsure.report.contents import document_of
from notsure.report.document import Document, Table
from notsure.report.escaping import latex, markdown

FORMATS = ("md", "tex", "pdf")
"""What `write_paper` can write."""

_EXTRA = {"md": (), "tex": ("matplotlib",), "pdf": ("matplotlib", "reportlab", "pypdf")}
"""The libraries of the extra `paper` that each format needs."""


class Written(str):
    """Text that is escaped already."""

    __slots__ = ()


def write_paper(records: Records, path: str | Path, *, kind: str, title: str | None = None) -> Path:
    """Writes the tables and figures of records for a paper, atomically.

    "md" is GitHub-flavoured Markdown, tables alone. "tex" is a LaTeX document with booktabs tables
    that compiles by itself; its figures are PDF files in a folder beside it, named after it. "pdf"
    is one document with both. All hold the same tables, with n and 95 % intervals.

    Args:
        records: of one seed, of one or more attacks; those of several runs as `joined` makes them.
        path: of the file; its folder is made if need be.
        kind: "md", "tex" or "pdf".
        title: of the document; by default it names the data.

    Returns:
        The path of the file.

    Raises:
        ConfigurationError: the format is unknown, or needs libraries that are not there; the path
            is a folder, or in one that cannot be written to; or there are no records, or of no
            attack, or of several seeds.
    """
    if kind not in FORMATS:
        raise ConfigurationError(f"A paper's format is one of {', '.join(FORMATS)}; got {kind!r}.")
    path = Path(path)
    if path.is_dir():
        raise ConfigurationError(
            f"{str(path)!r} is a folder: give the file a name, such as report.{kind}."
        )
    _check_libraries(kind)
    writable_folder(path.parent)
    document = document_of(records, title=title)
    if kind == "tex":
        write_figures(document, path.parent / figures_folder(path))
    content = {
        "md": lambda: as_markdown(document).encode(),
        "tex": lambda: as_latex(document, figures=figures_folder(path)).encode(),
        "pdf": lambda: _as_pdf(document),
    }[kind]()
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return path


def _check_libraries(kind: str) -> None:
    missing = [name for name in _EXTRA[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"The format {kind} needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not there: pip install notsure[paper]"
        )


def figures_folder(path: Path) -> str:
    """The name of the folder of a LaTeX file's figures, which LaTeX reads without quotes."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", path.stem).strip("-") + "-figures"


def write_figures(document: Document, folder: str | Path) -> list[Path]:
    """Writes every figure of a document as a vector PDF file, atomically.

    Raises:
        ConfigurationError: the folder cannot be written to, or matplotlib is not there.
    """
    _check_libraries("tex")
    from notsure.report.plots import as_pdf

    folder = writable_folder(folder)
    written = []
    for plot in document.plots:
        path = folder / f"{plot.identifier}.pdf"
        with atomic(path) as temporary:
            temporary.write_bytes(as_pdf(plot))
        written.append(path)
    return written


def as_markdown(document: Document) -> str:
    """A document's text and tables as GitHub-flavoured Markdown."""
    environment = _environment(markdown, separator=" | ")
    text = environment.get_template("paper.md.jinja").render(document=document)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def as_latex(document: Document, *, figures: str) -> str:
    """A document as LaTeX.

    Args:
        document: what is to be written.
        figures: name of the folder with the figures, letters, digits and hyphens.
    """
    environment = _environment(
        latex,
        separator=" & ",
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters["preamble"] = _preamble
    environment.filters["path"] = Written
    template = environment.get_template("paper.tex.jinja")
    return template.render(document=document, folder=figures).strip() + "\n"


def _environment(escape: Callable[[str], str], *, separator: str, **delimiters: Any) -> Environment:
    """Templates in which all that is put in is escaped."""

    def finalize(value: Any) -> str:
        return value if isinstance(value, Written) else escape(str(value))

    def cells(row: Sequence[str]) -> Written:
        return Written(separator.join(escape(cell) for cell in row))

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - no HTML; finalize escapes
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
        **delimiters,
    )
    environment.filters["cells"] = cells
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    return environment


def _preamble(table: Table) -> Written:
    """The columns of a LaTeX table, which are together as wide as the text."""
    columns = [
        rf">{{\ragged{'left' if column.number else 'right'}\arraybackslash}}"
        rf"p{{\dimexpr{column.width:g}\linewidth-2\tabcolsep\relax}}"
        for column in table.columns
    ]
    return Written("@{}" + "".join(columns) + "@{}")


def _as_pdf(document: Document) -> bytes:
    from notsure.report.pdf import as_pdf

    return as_pdf(document)
