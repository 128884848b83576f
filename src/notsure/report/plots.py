"""The figures of a paper-ready document: vector graphics for print, from records alone.

Every line differs from the others in more than its colour, for those who cannot tell colours apart
and for grey print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from notsure.evaluation.intervals import Rate
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import RobustnessRow, accuracy_against_eps
from notsure.report.document import Plot
from notsure.report.escaping import one_line
from notsure.report.figures import PALETTE
from notsure.report.formatting import norm_text
from notsure.report.tables import RobustnessLine, threats_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.ft2font import FT2Font
    from matplotlib.lines import Line2D

WIDTH = 6.8
"""Inches that a figure is wide: the text of an A4 page."""

MOST_ROWS = 5
"""Rows of panels in one figure, which has to fit a page."""

LETTERS_ACROSS = 105
"""Of titles, all panels side by side."""

GREY = "#5f6771"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (5, 1.5, 1.2, 1.5)),
    (0, (9, 2)),
)

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dfe3e8",
    "grid.linewidth": 0.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "pdf.fonttype": 42,
}
"""Letters stay letters in the PDF, and the grid stays behind."""

_Panel = TypeVar("_Panel")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a panel.

    Attributes:
        name: in the legend; lines of one name look the same in all panels.
        x: from left to right.
        y: in per cent.
        low: ends of the intervals, which are shaded; empty for none.
        high: the other ends.
        marked: whether every point has its marker.
        ring: the position of a point that is ringed; None for none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marked: bool = True
    ring: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One pair of axes: a title, its lines, the titles of the axes, and whether x equals y."""

    title: str
    lines: Sequence[Line]
    x: str
    y: str
    diagonal: bool = False


def as_pdf(plot: Plot) -> bytes:
    """A figure as the bytes of a PDF of one page, the same for the same records."""
    import matplotlib as mpl

    content = BytesIO()
    with mpl.rc_context(STYLE):
        plot.draw().savefig(content, format="pdf", metadata={"CreationDate": None})
    return content.getvalue()


def spelled(text: str) -> str:
    """Text on one line; what the figures' letters do not have stands as its Unicode number."""
    return "".join(
        letter if letter == " " or _font().get_char_index(ord(letter)) else f"[U+{ord(letter):04X}]"
        for letter in one_line(text)
    )


def plain(text: str) -> str:
    """Text that matplotlib takes as it is: no formulas, and no name that a legend would skip."""
    text = spelled(text)
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


@cache
def _font() -> FT2Font:
    from matplotlib.ft2font import FT2Font

    return FT2Font(font_file())


def font_file(*, bold: bool = False) -> Path:
    """The letters of all figures: matplotlib brings them along, and they have most signs."""
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / name


def empty(panels: int, *, columns: int, height: float) -> tuple[Drawing, list[Axes]]:
    """A drawing with axes for so many panels, and room for a legend above."""
    from matplotlib.figure import Figure as Drawing

    rows = -(-panels // columns)
    drawing = Drawing(figsize=(WIDTH, height * rows + 0.3), layout="constrained")
    axes = drawing.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[panels:]:
        unused.remove()
    return drawing, axes[:panels]


def put_title(ax: Axes, title: str, columns: int) -> None:
    """A panel's title, on as many lines as it takes where so many panels stand side by side."""
    wide = LETTERS_ACROSS // columns
    lines = [line for one in title.split("\n") for line in textwrap.wrap(one, wide)]
    ax.set_title("\n".join(plain(line).strip() for line in lines), loc="left")


def legend(drawing: Drawing, handles: Mapping[str, Any]) -> None:
    """One legend above all panels."""
    if not handles:
        return
    widest = max(len(name) for name in handles)
    columns = max(1, min(len(handles), int(125 // (widest + 11))))
    drawing.legend(
        handles=list(handles.values()),
        labels=[plain(name) for name in handles],
        loc="outside upper left",
        ncols=columns,
        borderaxespad=0.2,
        columnspacing=1.6,
    )


def draw_lines(plates: Sequence[Plate], *, names: Sequence[str], columns: int) -> Drawing:
    """Lines in panels; the name's place among `names` decides how its line looks."""
    height = 1.9 if len(plates) <= 3 * columns else 1.65
    drawing, axes = empty(len(plates), columns=columns, height=height)
    handles: dict[str, Line2D] = {}
    for ax, plate in zip(axes, plates, strict=True):
        for line in plate.lines:
            look = names.index(line.name)
            colour = PALETTE[look % len(PALETTE)]
            (handle,) = ax.plot(
                list(line.x),
                list(line.y),
                color=colour,
                linestyle=DASHES[look % len(DASHES)],
                marker=MARKERS[look % len(MARKERS)] if line.marked else "",
                markeredgecolor="white",
                markeredgewidth=0.4,
                clip_on=False,
                zorder=3,
            )
            if line.low:
                ax.fill_between(
                    list(line.x), list(line.low), list(line.high), color=colour, alpha=0.14, lw=0
                )
            if line.ring is not None:
                ax.plot(
                    line.x[line.ring],
                    line.y[line.ring],
                    marker="o",
                    markersize=6,
                    markerfacecolor="none",
                    markeredgecolor=colour,
                    clip_on=False,
                    zorder=4,
                )
            handles.setdefault(line.name, handle)
        if plate.diagonal:
            ax.plot([0, 100], [0, 100], color=GREY, linewidth=0.6, zorder=1)
        put_title(ax, plate.title, columns)
        ax.set_xlabel(plain(plate.x))
        ax.set_ylabel(plain(plate.y))
        ax.set_ylim(0, 100)
        ax.set_yticks([0, 25, 50, 75, 100])
        ax.locator_params(axis="x", nbins=5)
    legend(drawing, {name: handles[name] for name in names if name in handles})
    return drawing


def rates_line(
    name: str,
    x: Sequence[float],
    rates: Sequence[Rate],
    *,
    marked: bool,
    ring: int | None = None,
) -> Line:
    """A line of rates with their intervals."""
    return Line(
        name=name,
        x=x,
        y=[100 * rate.value for rate in rates],
        low=[100 * rate.low for rate in rates],
        high=[100 * rate.high for rate in rates],
        marked=marked,
        ring=ring,
    )


def on_pages(
    identifier: str,
    caption: str,
    panels: Sequence[_Panel],
    draw: Callable[..., Drawing],
    *,
    columns: int,
) -> list[Plot]:
    """Figures of panels, drawn when they are asked for; so many that each fits a page.

    Args:
        identifier: of the figure; those after the first have their number behind it.
        caption: the same for all.
        panels: row by row.
        draw: takes some of the panels, and `columns`.
        columns: how many panels stand side by side.
    """
    size = MOST_ROWS * columns
    parts = [panels[start : start + size] for start in range(0, len(panels), size)]
    return [
        Plot(
            identifier=f"{identifier}-{place}" if place > 1 else identifier,
            caption=f"{caption} ({place} of {len(parts)})" if len(parts) > 1 else caption,
            draw=partial(draw, part, columns=min(columns, len(panels))),
        )
        for place, part in enumerate(parts, start=1)
    ]


def line_plots(
    identifier: str,
    caption: str,
    plates: Sequence[Plate],
    names: Sequence[str],
    *,
    columns: int = 3,
) -> list[Plot]:
    """Figures of panels with lines; `names` are those of the lines, in the order of the legend."""
    draw = partial(draw_lines, names=names)
    return on_pages(identifier, caption, plates, draw, columns=columns)


def accuracy_plots(records: Records) -> list[Plot]:
    """Robust accuracy against eps in the worst case, all guards in one figure for each norm."""
    curves = accuracy_against_eps(records)
    rejecting = any(rejects(records, guard) for guard in records.guards)
    plots: list[Plot] = []
    for norm in dict.fromkeys(norm for _, _, norm in curves):
        plates = []
        for threat in threats_of(records):
            for kind in ("lenient", "strict") if rejecting else ("lenient",):
                lines = [
                    rates_line(
                        guard,
                        [row.eps or 0.0 for row in rows],
                        [getattr(row, kind) for row in rows],
                        marked=True,
                    )
                    for guard in records.guards
                    if (rows := curves.get((guard, threat, norm)))
                ]
                if lines:
                    plates.append(
                        Plate(
                            title=f"{threat}, {kind}" if rejecting else threat,
                            lines=lines,
                            x=f"eps ({norm_text(norm)})",
                            y="robust accuracy, %",
                        )
                    )
        kinds = "Lenient: a rejected image counts as safe; strict: as lost. " if rejecting else ""
        plots += line_plots(
            f"accuracy-{norm}",
            f"Robust accuracy against eps in {norm_text(norm)}: worst case, image by image, over "
            "all attacks and all eps up to the one below; eps 0 is the clean images. "
            f"{kinds}Shaded: 95 % intervals.",
            plates,
            records.guards,
            columns=2 if rejecting else 3,
        )
    return plots


def attack_plots(records: Records, lines: Sequence[RobustnessLine]) -> list[Plot]:
    """Lenient robust accuracy against eps of each attack by itself: a figure a guard and norm."""
    curves = accuracy_against_eps(records)
    plots: list[Plot] = []
    for norm in dict.fromkeys(norm for _, _, norm in curves):
        for position, guard in enumerate(records.guards):
            own = [line for line in lines if (line.guard, line.norm) == (guard, norm)]
            own = [line for line in own if not line.worst]
            names = list(dict.fromkeys(line.attack for line in own))
            plates = []
            for threat in threats_of(records):
                drawn = [
                    _attack_line(name, rows, curves[guard, threat, norm][0])
                    for name in names
                    if (rows := _under(own, name, threat))
                ]
                if drawn:
                    plates.append(
                        Plate(
                            title=threat,
                            lines=drawn,
                            x=f"eps ({norm_text(norm)})",
                            y="robust accuracy, %",
                        )
                    )
            if plates:
                plots += line_plots(
                    f"attacks-{norm}-{position + 1}",
                    f"{guard}: what each attack by itself leaves at each eps in {norm_text(norm)}, "
                    "a rejected image counted as safe; no worst case, so a line may rise. eps 0 is "
                    "the clean images. Shaded: 95 % intervals.",
                    plates,
                    names,
                )
    return plots


def _under(lines: Sequence[RobustnessLine], name: str, threat: str) -> list[RobustnessRow]:
    """The rows of an attack under a threat, by rising eps."""
    rows = [
        one.by_threat[threat] for one in lines if one.attack == name and threat in one.by_threat
    ]
    return sorted(rows, key=lambda row: row.eps or 0.0)


def _attack_line(name: str, rows: Sequence[RobustnessRow], clean: RobustnessRow) -> Line:
    # of a single eps there is no line to draw
    points = [clean, *rows] if len(rows) > 1 else rows
    x = [row.eps or 0.0 for row in points]
    return rates_line(name, x, [row.lenient for row in points], marked=True)


def rejects(records: Records, guard: str) -> bool:
    """Whether a guard may answer NOT SURE."""
    told = records.meta.get("guards", {}).get(guard, {})
    return bool(told.get("rejects", told.get("detectors")))
