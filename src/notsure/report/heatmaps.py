"""Matrices as heat maps with their numbers: transfer, generalisation, grids of parameters."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping
from typing import Any

from notsure.evaluation.intervals import Area, Rate
from notsure.report.figures import Panel, arranged
from notsure.report.formatting import area_text, rate_text

_CELL = 46
"""Pixels of a row."""
_LEFT = 146
_LONGEST = 18
"""Characters of a name in one line."""
_MOST_IN_HALF = 5
"""Columns of a matrix that takes half of a wide page."""
_ACROSS = 30
"""Characters that stand side by side below a panel on a narrow page."""


def heat_map(
    panels: Mapping[str, Mapping[tuple[str, str], Rate | Area | None]],
    *,
    down: str,
    across: str,
) -> dict[str, Any]:
    """Panels of cells, by their titles (plotly text), as one plotly figure.

    Args:
        panels: each a matrix, by the names of row and column; a missing cell stays empty.
        down: what the rows are.
        across: what the columns are.
    """
    across_names = [list(dict.fromkeys(name for _, name in cells)) for cells in panels.values()]
    most = max(map(len, across_names))
    rows = max(len({name for name, _ in cells}) for cells in panels.values())
    names = [name for its in across_names for name in its]
    lines = max(len(_broken(name, most)) for name in names)
    drawn = [_panel(title, cells, most, down, across) for title, cells in panels.items()]
    columns = 2 if most <= _MOST_IN_HALF else 1
    return arranged(
        # few columns do not fill a wide page
        [*drawn, *[None] * (-len(drawn) % columns)],
        columns=columns,
        height=10 + _CELL * rows,
        narrow_height=10 + _CELL * rows,
        left=_LEFT,
        under=36 + 15 * lines,
    )


def _panel(
    title: str,
    cells: Mapping[tuple[str, str], Rate | Area | None],
    most: int,
    down: str,
    across: str,
) -> Panel:
    rows = list(dict.fromkeys(name for name, _ in cells))
    columns = list(dict.fromkeys(name for _, name in cells))
    table = [[cells.get((row, column)) for column in columns] for row in rows]
    trace = {
        "type": "heatmap",
        "x": list(range(len(columns))),
        "y": list(range(len(rows))),
        "z": [[_share(value) for value in line] for line in table],
        "zmin": 0,
        "zmax": 100,
        "colorscale": "Cividis",
        "showscale": False,
        "showlegend": False,
        "xgap": 2,
        "ygap": 2,
        "text": [[_short(value) for value in line] for line in table],
        "texttemplate": "%{text}",
        "hoverinfo": "text",
        "hovertext": [
            [
                f"{html.escape(row)} to {html.escape(column)}<br>{_long(value)}"
                for column, value in zip(columns, line, strict=True)
            ]
            for row, line in zip(rows, table, strict=True)
        ],
    }
    plain = {"showgrid": False, "ticks": "", "tickangle": 0}
    return Panel(
        title=title,
        traces=[trace],
        x={
            **plain,
            "title": {"text": html.escape(across), "standoff": 6},
            "tickvals": list(range(len(columns))),
            "ticktext": ["<br>".join(map(html.escape, _broken(name, most))) for name in columns],
        },
        y={
            **plain,
            "title": {"text": html.escape(down), "standoff": 4},
            "autorange": "reversed",
            "tickvals": list(range(len(rows))),
            "ticktext": ["<br>".join(map(html.escape, _broken(name, 1))) for name in rows],
        },
    )


def _broken(name: str, columns: int) -> list[str]:
    """A name in lines as long as a column is wide, of a row's name if there is one column."""
    size = min(_LONGEST, max(_ACROSS // columns, 6))
    return textwrap.wrap(name, size)[:4] or [""]


def _share(value: Rate | Area | None) -> float | None:
    if value is None or value.value != value.value:
        return None
    return round(100 * value.value, 2)


def _short(value: Rate | Area | None) -> str:
    if _share(value) is None or value is None:
        return ""
    return f"{value.value:.3f}" if isinstance(value, Area) else f"{100 * value.value:.1f}"


def _long(value: Rate | Area | None) -> str:
    if value is None:
        return "not run"
    return area_text(value) if isinstance(value, Area) else rate_text(value)
