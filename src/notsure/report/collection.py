"""A page of pictures and tables that were chosen from several runs, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from notsure.core.storage import atomic, writable_folder
from notsure.report.export import csv_text
from notsure.report.figures import Figure
from notsure.report.gallery import Gallery, gallery_rows
from notsure.report.html import THEMES, compact, page_environment


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table of words.

    Attributes:
        caption: what it holds.
        head: its columns.
        rows: what stands in each.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A small image of a row of them.

    Attributes:
        picture: PNG data URI.
        words: what it is.
        marked: whether it is the one that was chosen.
    """

    picture: str
    words: str
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Rows of small images.

    Attributes:
        caption: what they are.
        rows: by name, in their order.
    """

    caption: str
    rows: Sequence[tuple[str, Sequence[Tile]]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What stands under one heading.

    Attributes:
        identifier: its id in the page.
        heading: a few words.
        words: paragraphs.
        remarks: a list of points, each a few words that are set off and a text.
        links: addresses beside this page, and what stands there.
        figures: pictures, whose identifiers differ from all others of the page.
        galleries: images with what a guard says of them; as well.
        sheets: tables.
        tiles: rows of images.
    """

    identifier: str
    heading: str
    words: Sequence[str] = ()
    remarks: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
    figures: Sequence[Figure] = ()
    galleries: Sequence[Gallery] = ()
    sheets: Sequence[Sheet] = ()
    tiles: Sequence[Tiles] = ()


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A chapter of the page.

    Attributes:
        identifier: its id in the page; "figures", "told" and "themes" are the page's own.
        heading: a few words.
        words: paragraphs before its parts.
        parts: what it consists of.
    """

    identifier: str
    heading: str
    words: Sequence[str] = ()
    parts: Sequence[Part] = ()


def write_collection(
    path: str | Path, *, title: str, lead: str, chapters: Sequence[Chapter]
) -> Path:
    """Writes a self-contained HTML page, atomically.

    Args:
        path: of the page; its folder is made if need be.
        title: of the page.
        lead: a sentence below it.
        chapters: what it holds; those without parts and words are left out.

    Returns:
        The path of the page.

    Raises:
        ConfigurationError: the folder cannot be written to.
    """
    from plotly.offline import get_plotlyjs

    path = Path(path)
    writable_folder(path.parent)
    kept = [one for one in chapters if one.parts or one.words]
    figures = [figure for one in kept for part in one.parts for figure in part.figures]
    pictures = [gallery for one in kept for part in one.parts for gallery in part.galleries]
    page = (
        page_environment()
        .get_template("collection.html")
        .render(
            title=title,
            lead=lead,
            chapters=kept,
            themes=THEMES,
            drawn={
                one.identifier: {"names": list(one.alternatives), "of": one.alternatives}
                for one in figures
            },
            told={
                **{one.identifier: csv_text(one.rows) for one in figures},
                **{one.identifier: csv_text(gallery_rows(one)) for one in pictures},
            },
            plotly=get_plotlyjs() if figures else "",
        )
    )
    with atomic(path) as temporary:
        temporary.write_text(compact(page), encoding="utf-8")
    return path
