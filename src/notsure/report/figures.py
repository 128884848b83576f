"""Figures as plain plotly JSON: panels that stand side by side, or below one another on a phone."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from notsure.evaluation.metrics import Rate, RobustnessRow, accuracy_against_eps
from notsure.evaluation.records import Records
from notsure.report.formatting import budget_text, norm_text, rate_text
from notsure.report.tables import threats_of

PALETTE = ("#1F7FC4", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C8C8C")
"""After Okabe and Ito: safe for colour-blind eyes, and clear of white as well as of black."""

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
    """

    identifier: str
    heading: str
    caption: str
    alt: str
    alternatives: Mapping[str, dict[str, Any]] = field(repr=False)


def guard_colours(records: Records) -> dict[str, str]:
    """One colour a guard, the same in every figure."""
    return {guard: PALETTE[i % len(PALETTE)] for i, guard in enumerate(records.guards)}


def translucent(colour: str, opacity: float) -> str:
    """A colour such as "#0072B2" at an opacity in [0,1]."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def arranged(
    panels: Sequence[Panel],
    *,
    columns: int,
    height: int,
    narrow_height: int,
    shared_y: bool = False,
) -> dict[str, Any]:
    """Panels as one plotly figure, with a layout for wide and one for narrow pages.

    Args:
        panels: row by row.
        columns: how many stand side by side on a wide page; on a narrow one there is one.
        height: of a panel on a wide page, in pixels.
        narrow_height: of a panel on a narrow page, in pixels.
        shared_y: whether panels side by side have the same vertical axis, so that only the first
            needs numbers.
    """
    data = [
        {**trace, "xaxis": _axis("x", i), "yaxis": _axis("y", i)}
        for i, panel in enumerate(panels)
        for trace in panel.traces
    ]
    columns = min(columns, len(panels))
    return {
        "data": data,
        "wide": _layout(panels, columns, height, _legend_height(data, 800), shared_y),
        "narrow": _layout(panels, 1, narrow_height, _legend_height(data, 250), shared_y=False),
    }


def _legend_height(data: Sequence[Mapping[str, Any]], width: int) -> int:
    """Pixels that a legend takes whose rows may be so many pixels wide, as plotly breaks it."""
    entries = [str(trace["name"]) for trace in data if trace["showlegend"]]
    rows, filled = 0, float(width)
    for entry in entries:
        size = 59 + 6.5 * len(entry)
        rows, filled = (rows + 1, size) if filled + size > width else (rows, filled + size)
    return _LEGEND_ROW * rows


def _layout(
    panels: Sequence[Panel], columns: int, height: int, legend: int, shared_y: bool
) -> dict[str, Any]:
    rows = -(-len(panels) // columns)
    under = _UNDER if "title" in panels[0].x else 4
    above, between = legend + _TITLE, under + _TITLE
    inside = rows * height + (rows - 1) * between
    lines = any("lines" in trace["mode"] for panel in panels for trace in panel.traces)
    layout: dict[str, Any] = {
        "height": inside + above + under,
        "margin": {"t": above, "b": under, "l": 58, "r": 12},
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
    gap = 0.05 if shared_y else 0.09
    width = (1 - gap * (columns - 1)) / columns
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
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


def accuracy_figures(records: Records) -> list[Figure]:
    """Robust accuracy against eps in the worst case, a figure for each norm."""
    curves = accuracy_against_eps(records)
    colours = guard_colours(records)
    threats = threats_of(records)
    figures = []
    for norm in dict.fromkeys(norm for _, _, norm in curves):
        panels = [
            _accuracy_panel(guard, threat, rows, colours[guard])
            for guard in records.guards
            for threat in threats
            if (rows := curves.get((guard, threat, norm)))
        ]
        panels[0] = Panel(
            title=panels[0].title,
            traces=[*_accuracy_legend(), *panels[0].traces],
            x=panels[0].x,
            y=panels[0].y,
        )
        whole = arranged(panels, columns=len(threats), height=210, narrow_height=200, shared_y=True)
        figures.append(
            Figure(
                identifier=f"accuracy-{norm}",
                heading=f"Worst case, {norm_text(norm)}",
                caption="Worst case over all attacks, image by image; eps 0 is the clean images. "
                "Shaded: 95 % intervals.",
                alt=f"Curves of robust accuracy against eps in {norm_text(norm)} by guard and "
                "threat; the numbers are in the table Worst case over all attacks.",
                alternatives={"": whole},
            )
        )
    return figures


def _accuracy_panel(guard: str, threat: str, rows: list[RobustnessRow], colour: str) -> Panel:
    traces = [
        *_accuracy_curve("lenient", [row.lenient for row in rows], rows, colour, "solid"),
        *_accuracy_curve("strict", [row.strict for row in rows], rows, colour, "dash"),
    ]
    norm, largest = norm_text(rows[0].norm), rows[-1].eps or 1.0
    return Panel(
        title=f"<b>{html.escape(guard)}</b>, {html.escape(threat)}",
        traces=traces,
        x={
            "title": {"text": f"eps ({norm})", "standoff": 4},
            "range": [-0.02 * largest, 1.03 * largest],
        },
        y={
            "title": {"text": "robust accuracy, %", "standoff": 4},
            "range": [-3, 103],
            "tickvals": [0, 25, 50, 75, 100],
        },
    )


def _accuracy_curve(
    name: str, rates: list[Rate], rows: list[RobustnessRow], colour: str, dash: str
) -> list[dict[str, Any]]:
    eps = [row.eps or 0.0 for row in rows]
    low, high = ([round(100 * v, 2) for v in ends] for ends in zip(*_ends(rates), strict=True))
    band = {
        "type": "scatter",
        "x": eps + eps[::-1],
        "y": high + low[::-1],
        "fill": "toself",
        "fillcolor": translucent(colour, 0.16),
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "legendgroup": name,
        "showlegend": False,
    }
    hollow = {"symbol": "circle-open", "size": 7, "line": {"width": 2}}
    curve = {
        "type": "scatter",
        "x": eps,
        "y": [round(100 * rate.value, 2) for rate in rates],
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2.5, "dash": dash},
        "marker": {"color": colour, **({"size": 7} if dash == "solid" else hollow)},
        "cliponaxis": False,
        "hoverinfo": "text",
        "hovertext": [
            f"{name}, {budget_text(row.norm, row.eps)}<br>{rate_text(rate)}"
            for row, rate in zip(rows, rates, strict=True)
        ],
        "legendgroup": name,
        "showlegend": False,
    }
    return [band, curve]


def _ends(rates: list[Rate]) -> list[tuple[float, float]]:
    return [(rate.low, rate.high) for rate in rates]


def _accuracy_legend() -> list[dict[str, Any]]:
    words = {
        "lenient": ("lenient: rejected counts as safe", "solid", "circle"),
        "strict": ("strict: rejected counts as lost", "dash", "circle-open"),
    }
    return [
        {
            "type": "scatter",
            "x": [None],
            "y": [None],
            "mode": "lines+markers",
            "name": name,
            "line": {"color": INK, "width": 2.5, "dash": dash},
            "marker": {"color": INK, "symbol": symbol, "size": 7},
            "legendgroup": group,
            "showlegend": True,
        }
        for group, (name, dash, symbol) in words.items()
    ]
