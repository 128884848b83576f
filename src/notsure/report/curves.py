"""Curves of rates with their intervals: lines of several guards or threats in one plot."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from notsure.evaluation.intervals import Rate
from notsure.report.figures import INK, Panel, translucent
from notsure.report.formatting import rate_text

K = TypeVar("K")

PER_CENT = {"range": [-3, 103], "tickvals": [0, 25, 50, 75, 100]}
"""An axis of rates."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a plot.

    Attributes:
        name: what it is called in the legend, where it stands once for all panels.
        colour: of the line and its markers.
        symbol: of the markers; empty for a line without markers.
        dash: of the line.
        x: where each point stands.
        rates: how high, with the intervals.
        words: what is said of each point, before the rate; plain text.
        marked: the position of a point that is marked; None for none.
        band: whether the intervals are shaded.
    """

    name: str
    colour: str
    x: Sequence[float]
    rates: Sequence[Rate]
    words: Sequence[str]
    symbol: str = "circle"
    dash: str = "solid"
    marked: int | None = None
    band: bool = False


def curve_panels(
    panels: Mapping[K, Sequence[Curve]],
    *,
    titles: Mapping[K, str],
    x: Mapping[str, Any],
    y_title: str,
    legend: Sequence[Mapping[str, Any]] | None = None,
) -> dict[K, Panel]:
    """Panels with their lines; each name stands once in the legend.

    Args:
        panels: the lines in each.
        titles: plotly text above each.
        x: plotly settings of the horizontal axis.
        y_title: title of the vertical axis, which is in per cent.
        legend: traces that make the legend in place of the lines themselves.
    """
    found: dict[K, Panel] = {}
    named: set[str] = set()
    for key, curves in panels.items():
        traces: list[Mapping[str, Any]] = [] if found else list(legend or [])
        for curve in curves:
            shown = legend is None and curve.name not in named
            named.add(curve.name)
            traces += _traces(curve, shown=shown)
        y = {"title": {"text": y_title, "standoff": 4}, **PER_CENT}
        found[key] = Panel(title=titles[key], traces=traces, x=x, y=y)
    return found


def bold_panels(
    panels: Mapping[str, Sequence[Curve]], *, x: Mapping[str, Any], y_title: str
) -> list[Panel]:
    """Panels with their lines, by the names that stand above them."""
    titles = {name: f"<b>{html.escape(name)}</b>" for name in panels}
    return list(curve_panels(panels, titles=titles, x=x, y_title=y_title).values())


def legend_entry(name: str, *, dash: str, symbol: str) -> dict[str, Any]:
    """A legend's entry for what several lines of different colours have in common."""
    return {
        "type": "scatter",
        "x": [None],
        "y": [None],
        "mode": "lines+markers",
        "name": html.escape(name),
        "line": {"color": INK, "width": 2.5, "dash": dash},
        "marker": {"color": INK, "symbol": symbol, "size": 7},
        "legendgroup": html.escape(name),
        "showlegend": True,
    }


def _traces(curve: Curve, *, shown: bool) -> list[dict[str, Any]]:
    name = html.escape(curve.name)
    y = [_per_cent(rate.value) for rate in curve.rates]
    line = {
        "type": "scatter",
        "x": [_rounded(value) for value in curve.x],
        "y": y,
        "mode": "lines+markers" if curve.symbol else "lines",
        "line": {"color": curve.colour, "width": 2.5, "dash": curve.dash},
        "cliponaxis": False,
        "hoverinfo": "text",
        "hovertext": [
            f"{html.escape(words)}<br>{rate_text(rate)}"
            for words, rate in zip(curve.words, curve.rates, strict=True)
        ],
        "name": name,
        "legendgroup": name,
        "showlegend": shown,
    }
    if curve.symbol:
        line["marker"] = {
            "color": curve.colour,
            "symbol": curve.symbol,
            "size": 7,
            "line": {"width": 2 if curve.symbol.endswith("-open") else 0, "color": curve.colour},
        }
    traces = [_band(curve, name), line] if curve.band else [line]
    if curve.marked is not None:
        at = curve.marked
        traces.append(
            {
                "type": "scatter",
                "x": [_rounded(curve.x[at])],
                "y": [y[at]],
                "mode": "markers",
                "marker": {
                    "color": curve.colour,
                    "symbol": "diamond",
                    "size": 12,
                    "line": {"width": 1.5, "color": INK},
                },
                "cliponaxis": False,
                "hoverinfo": "skip",
                "name": name,
                "legendgroup": name,
                "showlegend": False,
            }
        )
    return traces


def _band(curve: Curve, name: str) -> dict[str, Any]:
    x = [_rounded(value) for value in curve.x]
    low = [_per_cent(rate.low) for rate in curve.rates]
    high = [_per_cent(rate.high) for rate in curve.rates]
    return {
        "type": "scatter",
        "x": x + x[::-1],
        "y": high + low[::-1],
        "fill": "toself",
        "fillcolor": translucent(curve.colour, 0.16),
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "name": name,
        "legendgroup": name,
        "showlegend": False,
    }


def _per_cent(share: float) -> float | None:
    return None if share != share else round(100 * share, 2)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
