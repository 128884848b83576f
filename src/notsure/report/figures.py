"""Figures as plain plotly JSON: panels that stand side by side, or below one another on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from notsure.evaluation.records import Records

PALETTE = ("#1F7FC4", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C8C8C")
"""After Okabe and Ito: safe for colour-blind eyes, and clear of white as well as of black."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
"""Beside the colours, for those who cannot tell these apart."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""The same of lines without markers."""

INK, MUTED, GRID = "var(--ink)", "var(--muted)", "var(--grid)"
"""Colours of the page's scheme, put in by the page's script."""

_TITLE = 42
"""Pixels above a panel for its title of one or two lines."""
_UNDER = 48
"""Pixels below a panel for the numbers and the title of its axis."""
_LEGEND_ROW = 29


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: plotly text above it; what comes from users has to be escaped.
        traces: plotly traces, without axes.
        x: plotly settings of the horizontal axis.
        y: plotly settings of the vertical axis.
        line: where a dashed vertical line stands; None for none.
        remark: small plotly text in the upper right corner.
    """

    title: str
    traces: Sequence[Mapping[str, Any]]
    x: Mapping[str, Any]
    y: Mapping[str, Any]
    line: float | None = None
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the page.

    Attributes:
        identifier: its id in the page, and the name of the downloaded file.
        heading: a few words.
        caption: what is to be seen, in plain words; may be empty.
        alt: the same for those who cannot see it, and where the numbers stand.
        alternatives: by label, plotly figures to choose from: `data`, and a layout each for a
            `wide` and a `narrow` page.
        rows: what is drawn, of all alternatives, as rows of a table; may hold rates and areas.
        choice: what the alternatives differ in.
    """

    identifier: str
    heading: str
    caption: str
    alt: str
    alternatives: Mapping[str, dict[str, Any]] = field(repr=False)
    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    choice: str = "Attack"


def guard_colours(records: Records) -> dict[str, str]:
    """One colour a guard, the same in every figure."""
    return {guard: PALETTE[i % len(PALETTE)] for i, guard in enumerate(records.guards)}


def guard_symbols(records: Records) -> dict[str, str]:
    """One marker a guard, the same in every figure."""
    return {guard: SYMBOLS[i % len(SYMBOLS)] for i, guard in enumerate(records.guards)}


def guard_dashes(records: Records) -> dict[str, str]:
    """One dash a guard, of its lines without markers, the same in every figure."""
    return {guard: DASHES[i % len(DASHES)] for i, guard in enumerate(records.guards)}


def translucent(colour: str, opacity: float) -> str:
    """A colour such as "#0072B2" at an opacity in [0,1]."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def arranged(
    panels: Sequence[Panel | None],
    *,
    columns: int,
    height: int,
    narrow_height: int,
    shared_y: bool = False,
    left: int = 58,
    under: int | None = None,
    layout: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Panels as one plotly figure, with a layout for wide and one for narrow pages.

    Args:
        panels: row by row; None leaves a gap on a wide page.
        columns: how many stand side by side on a wide page; on a narrow one there is one.
        height: of a panel on a wide page, in pixels.
        narrow_height: of a panel on a narrow page, in pixels.
        shared_y: whether panels side by side have the same vertical axis, so that only the first
            needs numbers.
        left: pixels left of a panel for the numbers or names of its axis.
        under: pixels below a panel for the numbers or names and the title of its axis; by default
            what a title of one line takes, if there is one.
        layout: further plotly settings of the whole figure.
    """
    data = [
        {**trace, "xaxis": _axis("x", i), "yaxis": _axis("y", i)}
        for i, panel in enumerate(panels)
        if panel is not None
        for trace in panel.traces
    ]
    columns = min(columns, len(panels))
    if under is None:
        under = _UNDER if any("title" in panel.x for panel in panels if panel is not None) else 4
    room = _Room(left=left, under=under)
    further = dict(layout or {})
    wide = _layout(panels, columns, height, _legend_height(data, 800), room, shared_y)
    narrow = _layout(panels, 1, narrow_height, _legend_height(data, 250), room, shared_y=False)
    return {"data": data, "wide": {**wide, **further}, "narrow": {**narrow, **further}}


def _legend_height(data: Sequence[Mapping[str, Any]], width: int) -> int:
    """Pixels that a legend takes whose rows may be so many pixels wide, as plotly breaks it."""
    entries = [str(trace["name"]) for trace in data if trace["showlegend"]]
    rows, filled = 0, float(width)
    for entry in entries:
        size = 59 + 6.5 * len(entry)
        rows, filled = (rows + 1, size) if filled + size > width else (rows, filled + size)
    return _LEGEND_ROW * rows


@dataclass(frozen=True, kw_only=True)
class _Room:
    """Pixels beside and below a panel."""

    left: int
    under: int


def _layout(
    panels: Sequence[Panel | None],
    columns: int,
    height: int,
    legend: int,
    room: _Room,
    shared_y: bool,
) -> dict[str, Any]:
    # on a page of one column the gaps are left out
    placed = [(i, panel) for i, panel in enumerate(panels) if panel is not None]
    slots = [i for i, _ in placed] if columns > 1 else list(range(len(placed)))
    rows = -(-(slots[-1] + 1) // columns)
    under = room.under
    above, between = legend + _TITLE, under + _TITLE
    inside = rows * height + (rows - 1) * between
    lines = any("lines" in trace.get("mode", "") for _, panel in placed for trace in panel.traces)
    layout: dict[str, Any] = {
        "height": inside + above + under,
        "margin": {"t": above, "b": under, "l": room.left, "r": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": INK},
        "hoverlabel": {"align": "left"},
        "showlegend": legend > 0,
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 1,
            "yanchor": "top",
            "xref": "container",
            "x": 0,
            "itemwidth": 44,
            "itemsizing": "trace" if lines else "constant",
        },
        "annotations": [],
        "shapes": [],
    }
    gap = 0.05 if shared_y else 0.09 + (room.left - 58) / 1100
    width = (1 - gap * (columns - 1)) / columns
    for slot, (i, panel) in zip(slots, placed, strict=True):
        row, column = divmod(slot, columns)
        left, top = column * (width + gap), 1 - row * (height + between) / inside
        bottom = max(0.0, top - height / inside)
        common = {"gridcolor": GRID, "linecolor": MUTED, "zeroline": False, "automargin": False}
        x, y = _axis("x", i), _axis("y", i)
        layout[_axis("xaxis", i)] = {
            **common,
            "ticks": "outside",
            "tickcolor": MUTED,
            "domain": [left, left + width],
            "anchor": y,
            **panel.x,
        }
        layout[_axis("yaxis", i)] = {
            **common,
            "domain": [bottom, top],
            "anchor": x,
            **panel.y,
            **({"showticklabels": False, "title": {"text": ""}} if shared_y and column else {}),
        }
        layout["annotations"] += _annotations(panel, left, top, x, y)
        if panel.line is not None:
            layout["shapes"].append(
                {
                    "type": "line",
                    "xref": x,
                    "yref": f"{y} domain",
                    "x0": panel.line,
                    "x1": panel.line,
                    "y0": 0,
                    "y1": 1,
                    "line": {"color": INK, "width": 1.5, "dash": "dash"},
                }
            )
    return layout


def _annotations(panel: Panel, left: float, top: float, x: str, y: str) -> list[dict[str, Any]]:
    plain = {"showarrow": False, "xref": "paper", "yref": "paper"}
    title = {
        **plain,
        "x": left,
        "y": top,
        "xanchor": "left",
        "yanchor": "bottom",
        "align": "left",
        "text": panel.title,
        "font": {"size": 13},
    }
    if not panel.remark:
        return [title]
    return [
        title,
        {
            **plain,
            "xref": f"{x} domain",
            "yref": f"{y} domain",
            "x": 1,
            "y": 1,
            "xanchor": "right",
            "yanchor": "top",
            "align": "right",
            "text": panel.remark,
            "font": {"size": 11, "color": MUTED},
        },
    ]


def _axis(name: str, position: int) -> str:
    return name if position == 0 else f"{name}{position + 1}"
