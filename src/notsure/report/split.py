"""What a guard makes of the images: right, wrong and flagged, as stacked bars."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from notsure.evaluation.intervals import Rate, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN
from notsure.report.figures import Figure, Panel, arranged
from notsure.report.formatting import norm_text, number, rate_text
from notsure.report.tables import RobustnessLine

_BAR = 23
"""Pixels of one bar and the gap to the next."""
_NARROWEST_NUMBER = 9.0
"""Bars of a smaller share, in per cent, hold no number."""

PARTS = {
    "right": ("accepted and right", "#009E73", ""),
    "wrong": ("accepted and wrong", "#D55E00", "/"),
    "flagged": ("rejected", "#8C8C8C", "."),
}
"""What a guard can make of an image: in words, its colour, and its texture beside the colour."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """The split of all images in one case."""

    label: str
    threat: str
    eps: float | None
    right: Rate
    wrong: Rate
    flagged: Rate


def split_figure(records: Records, lines: Sequence[RobustnessLine]) -> Figure | None:
    """The worst case of every guard under every threat at every eps; a choice for each norm."""
    worst = [line for line in lines if line.worst]
    norms = list(dict.fromkeys(line.norm for line in worst))
    bars = {
        norm: {
            guard: _bars([line for line in worst if (line.guard, line.norm) == (guard, norm)])
            for guard in records.guards
            if any((line.guard, line.norm) == (guard, norm) for line in worst)
        }
        for norm in norms
    }
    if not bars:
        return None
    return Figure(
        identifier="split",
        heading="Right, wrong and flagged",
        caption="What each guard makes of all images in the worst case over all attacks and all "
        "eps up to the stated one: an image counts as wrong if any attack gets it accepted and "
        "wrong, else as flagged if any gets it rejected, else as right.",
        alt="Stacked bars of the shares that are accepted and right, accepted and wrong, and "
        "rejected; the numbers are in the table Worst case over all attacks.",
        alternatives={norm_text(norm): _drawn(by_guard) for norm, by_guard in bars.items()},
        rows=[
            {
                "guard": guard,
                "threat": bar.threat,
                "norm": norm,
                "eps": bar.eps,
                "right": bar.right,
                "wrong": bar.wrong,
                "flagged": bar.flagged,
            }
            for norm, by_guard in bars.items()
            for guard, its in by_guard.items()
            for bar in its
        ],
        choice="Norm",
    )


def _bars(lines: Sequence[RobustnessLine]) -> list[Bar]:
    clean = lines[0].strongest
    right, flagged = clean.clean_accuracy, clean.clean_rejection
    bars = [
        Bar(
            label=CLEAN,
            threat=CLEAN,
            eps=0.0,
            right=right,
            wrong=wilson(right.n - right.count - flagged.count, right.n),
            flagged=flagged,
        )
    ]
    for line in lines:
        for threat, row in list(line.by_threat.items())[::-1]:
            eps = "" if line.eps is None else f"{number(line.eps)} "
            bars.append(
                Bar(
                    label=f"{eps}{threat}",
                    threat=threat,
                    eps=line.eps,
                    right=row.right,
                    wrong=row.wrong,
                    flagged=row.flagged,
                )
            )
    return bars


def _drawn(by_guard: dict[str, list[Bar]]) -> dict[str, Any]:
    panels = [
        Panel(
            title=f"<b>{html.escape(guard)}</b>",
            traces=[_trace(part, bars, first=position == 0) for part in PARTS],
            x={
                "title": {"text": "images, %", "standoff": 4},
                "range": [0, 100],
                "tickvals": [0, 25, 50, 75, 100],
            },
            y={"type": "category", "autorange": "reversed", "showgrid": False, "ticks": ""},
        )
        for position, (guard, bars) in enumerate(by_guard.items())
    ]
    height = 12 + _BAR * max(map(len, by_guard.values()))
    return arranged(
        panels,
        columns=2,
        height=height,
        narrow_height=height,
        left=146,
        layout={"barmode": "stack", "bargap": 0.22},
    )


def _trace(part: str, bars: Sequence[Bar], *, first: bool) -> dict[str, Any]:
    name, colour, texture = PARTS[part]
    rates: list[Rate] = [getattr(bar, part) for bar in bars]
    shares = [round(100 * rate.value, 2) for rate in rates]
    return {
        "type": "bar",
        "orientation": "h",
        "y": [html.escape(bar.label) for bar in bars],
        "x": shares,
        "name": name,
        "legendgroup": part,
        "showlegend": first,
        "marker": {
            "color": colour,
            "pattern": {
                "shape": texture,
                "fillmode": "overlay",
                "size": 7,
                "solidity": 0.16,
                "fgcolor": "#ffffff",
            },
            "line": {"width": 0},
        },
        "text": [f"{share:.0f}" if share >= _NARROWEST_NUMBER else "" for share in shares],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"color": "#101418", "size": 12},
        "constraintext": "none",
        "hoverinfo": "text",
        "hovertext": [
            f"{html.escape(bar.label)}: {name}<br>{rate_text(rate)}"
            for bar, rate in zip(bars, rates, strict=True)
        ],
    }
