"""A paper-ready document as one PDF: text, tables, and vector figures in their places."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from html import escape
from io import BytesIO
from typing import Any

from pypdf import PdfReader, PdfWriter, Transformation
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    KeepTogether,
    LongTable,
    PageTemplate,
    Paragraph,
    Spacer,
    TableStyle,
)

from notsure.report.document import Document, Section, Table
from notsure.report.escaping import one_line
from notsure.report.plots import as_pdf as plot_as_pdf
from notsure.report.plots import font_file, spelled

MARGIN = 18 * mm
_INK, _MUTED, _RULE = HexColor("#1c2128"), HexColor("#59636e"), HexColor("#b8bfc7")
_FONT, _BOLD = "notsure-sans", "notsure-sans-bold"
_BODY = ParagraphStyle(
    "body", fontName=_FONT, fontSize=8.5, leading=12, spaceAfter=4, textColor=_INK
)
_STYLES = {
    "body": _BODY,
    "title": ParagraphStyle("title", _BODY, fontName=_BOLD, fontSize=17, leading=21, spaceAfter=4),
    "about": ParagraphStyle("about", _BODY, fontSize=8, textColor=_MUTED, spaceAfter=6),
    "heading": ParagraphStyle(
        "heading",
        _BODY,
        fontName=_BOLD,
        fontSize=12,
        leading=15,
        spaceBefore=8,
        spaceAfter=5,
        keepWithNext=1,
    ),
    "caption": ParagraphStyle("caption", _BODY, fontSize=7.5, leading=10, keepWithNext=1),
    "under": ParagraphStyle("under", _BODY, fontSize=7.5, leading=10, spaceAfter=12),
    "cell": ParagraphStyle("cell", _BODY, fontSize=6.3, leading=8.2, spaceAfter=0),
    "number": ParagraphStyle("number", _BODY, fontSize=6.3, leading=8.2, alignment=2),
    "head": ParagraphStyle("head", _BODY, fontName=_BOLD, fontSize=6.3, leading=8.2),
    "number head": ParagraphStyle(
        "number head", _BODY, fontName=_BOLD, fontSize=6.3, leading=8.2, alignment=2
    ),
}


@dataclass
class _Places:
    """What has been placed so far.

    Attributes:
        found: where the figures stand: page, lower left corner, scale, and their content.
        numbers: how many tables and figures there are.
    """

    found: list[tuple[int, float, float, float, bytes]] = field(default_factory=list)
    numbers: Counter[str] = field(default_factory=Counter)

    def numbered(self, what: str) -> str:
        """The next table or figure, as "Table 2."."""
        self.numbers[what] += 1
        return f"{what} {self.numbers[what]}."


class _Place(Flowable):  # type: ignore[misc]
    """Room for a figure, which is put there afterwards."""

    def __init__(self, content: bytes, width: float, places: _Places) -> None:
        super().__init__()
        box = PdfReader(BytesIO(content)).pages[0].mediabox
        self.scale = width / float(box.width)
        self.width, self.height = width, float(box.height) * self.scale
        self.content, self.places = content, places

    def wrap(self, *_: Any) -> tuple[float, float]:
        """How large it is."""
        return self.width, self.height

    def draw(self) -> None:
        """Notes where it stands."""
        x, y = self.canv.absolutePosition(0, 0)
        self.places.found.append((self.canv.getPageNumber(), x, y, self.scale, self.content))


def as_pdf(document: Document) -> bytes:
    """The bytes of the PDF, the same for the same document."""
    _register_fonts()
    content = BytesIO()
    width = A4[0] - 2 * MARGIN
    template = BaseDocTemplate(
        content,
        pagesize=A4,
        title=one_line(document.title),
        author="notsure",
        invariant=1,
    )
    frame = Frame(MARGIN, MARGIN, width, A4[1] - 2 * MARGIN, 0, 0, 0, 0)
    template.addPageTemplates(PageTemplate(frames=[frame], onPage=_page_number))
    places = _Places()
    story: list[Any] = [
        _text(document.title, "title"),
        _text(f"{document.about[:1].upper()}{document.about[1:]}.", "about"),
    ]
    for section in document.sections:
        story += _section(section, width, places)
    template.build(story)
    return _with_figures(content, places)


@cache
def _register_fonts() -> None:
    pdfmetrics.registerFont(TTFont(_FONT, font_file()))
    pdfmetrics.registerFont(TTFont(_BOLD, font_file(bold=True)))


def _text(text: str, style: str, lead: str = "") -> Paragraph:
    text, lead = (escape(spelled(one), quote=False) for one in (text, lead))
    if lead:
        text = f'<font name="{_BOLD}">{lead}</font> {text}'
    return Paragraph(text, _STYLES[style])


def _section(section: Section, width: float, places: _Places) -> list[Any]:
    whole: list[Any] = [_text(section.heading, "heading")]
    whole += [_text(passage.text, "body", passage.lead) for passage in section.passages]
    story: list[Any] = []
    if section.passages:
        story, whole = whole, []
    for part in section.parts:
        # the heading stands on the page of what it heads
        if isinstance(part, Table):
            caption = _text(part.caption, "caption", places.numbered("Table"))
            table = _table(part, width)
            together = [*whole, caption, table]
            story += together if part.long else [KeepTogether(together)]
            story.append(Spacer(0, 12))
        else:
            place = _Place(plot_as_pdf(part), width, places)
            caption = _text(part.caption, "under", places.numbered("Figure"))
            story.append(KeepTogether([*whole, place, caption]))
        whole = []
    return story


def _table(table: Table, width: float) -> LongTable:
    heads = [
        _text(column.head, "number head" if column.number else "head") for column in table.columns
    ]
    styles = ["number" if column.number else "cell" for column in table.columns]
    rows = [
        [_text(cell, style) for cell, style in zip(row, styles, strict=True)]
        for row in table.grouped_rows()
    ]
    looks: list[tuple[Any, ...]] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEABOVE", (0, 0), (-1, 0), 0.8, _INK),
        ("LINEBELOW", (0, 0), (-1, 0), 0.5, _INK),
        ("LINEBELOW", (0, -1), (-1, -1), 0.8, _INK),
        ("TOPPADDING", (0, 0), (-1, -1), 1.6),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 1.6),
        ("LEFTPADDING", (0, 0), (-1, -1), 1.5),
        ("RIGHTPADDING", (0, 0), (-1, -1), 2),
    ]
    looks += [
        ("LINEABOVE", (0, position + 1), (-1, position + 1), 0.3, _RULE)
        for position in range(len(rows))
        if table.starts_group(position)
    ]
    return LongTable(
        [heads, *rows],
        colWidths=[column.width * width for column in table.columns],
        repeatRows=1,
        style=TableStyle(looks),
    )


def _page_number(canvas: Any, _template: Any) -> None:
    canvas.saveState()
    canvas.setFont(_FONT, 7)
    canvas.setFillColor(_MUTED)
    canvas.drawRightString(A4[0] - MARGIN, MARGIN / 2, str(canvas.getPageNumber()))
    canvas.restoreState()


def _with_figures(content: BytesIO, places: _Places) -> bytes:
    """The document with each figure in its place, as vectors."""
    writer = PdfWriter(clone_from=content)
    for page, x, y, scale, figure in places.found:
        drawing = PdfReader(BytesIO(figure)).pages[0]
        move = Transformation().scale(scale).translate(x, y)
        writer.pages[page - 1].merge_transformed_page(drawing, move)
    for one in writer.pages:
        one.compress_content_streams()
    written = BytesIO()
    writer.write(written)
    return written.getvalue()
