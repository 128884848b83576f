"""A written page as tests read it: its text, its tags and the rows of its tables."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from notsure.evaluation.records import Records
from notsure.report import write_report


class Page(HTMLParser):
    """A page's text, tags and tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[str]] = {}
        self._text: list[str] = []
        self._scripts: list[str] = []
        self._inside: list[str] = []
        self._caption = ""
        self.feed(html)
        self.text = plain("".join(self._text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag in {"script", "style", "title"}:
            self._inside.append(tag)
        if tag == "table":
            self._caption = given.get("aria-label") or ""
        if tag == "tr":
            self._row_at = len(self._text)
        if tag == "caption":
            self._caption_at = len(self._text)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()
        if tag not in {"span", "em", "strong", "a"}:
            self._text.append(" ")
        if tag == "caption":
            self._caption = plain("".join(self._text[self._caption_at :]))
        if tag == "tr":
            row = plain("".join(self._text[self._row_at :]))
            self.tables.setdefault(self._caption, []).append(row)

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self._text.append(data)
        elif self._inside[-1] == "script":
            self._scripts.append(data)

    def table(self, caption: str) -> list[str]:
        """The rows, as text, of the one table whose caption begins like this."""
        found = [rows for name, rows in self.tables.items() if name.startswith(caption)]
        assert len(found) == 1, list(self.tables)
        return found[0]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def page_of(records: Records, folder: Path, **options: Any) -> Page:
    """The page of records, written into a folder."""
    written = write_report(records, folder / "report.html", **options)
    return Page(written.read_text(encoding="utf-8"))
