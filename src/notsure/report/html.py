"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from notsure.core.errors import ConfigurationError
from notsure.core.storage import atomic, writable_folder
from notsure.evaluation.metrics import Rate, RobustnessRow
from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN, THREATS
from notsure.report import formatting
from notsure.report.description import costs, describe_attacks, describe_guards, threat_words
from notsure.report.embedding import embedding_figure
from notsure.report.export import detection_csv, robustness_csv
from notsure.report.figures import Figure, accuracy_figures, guard_colours
from notsure.report.gallery import galleries
from notsure.report.histograms import histogram_figures
from notsure.report.tables import (
    RobustnessLine,
    at_largest_eps,
    check_records,
    detection_table,
    robustness_table,
    threats_of,
)

OBLIVIOUS = "oblivious"
LONGEST_OPEN = 40
"""Tables of at most so many rows are shown unfolded."""

THEMES: dict[str, dict[str, str]] = {
    "light": {
        "paper": "#ffffff",
        "raised": "#f6f7f9",
        "ink": "#1c2128",
        "muted": "#59636e",
        "grid": "#dfe3e8",
        "line": "#d1d7de",
        "link": "#0a5ba8",
        "warn": "#fff4d6",
        "warn-line": "#b7791f",
        "bad": "#a4350c",
        "good": "#00684b",
    },
    "dark": {
        "paper": "#13171c",
        "raised": "#1b2027",
        "ink": "#e6e9ed",
        "muted": "#a0a9b4",
        "grid": "#2c333c",
        "line": "#38414c",
        "link": "#7cb8f2",
        "warn": "#33280e",
        "warn-line": "#d9a441",
        "bad": "#f59a73",
        "good": "#5fd0a8",
    },
}
"""The page's colours, which its figures take as well."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What is really left of one guard.

    Attributes:
        guard: its name.
        colour: its colour in all figures.
        clean: any row of it, for the clean rates.
        worst: for each norm, the worst case at the largest eps, all threats side by side.
        rejects: whether the guard may answer NOT SURE.
    """

    guard: str
    colour: str
    clean: RobustnessRow
    worst: Sequence[RobustnessLine]
    rejects: bool


def write_report(records: Records, path: str | Path, *, title: str | None = None) -> Path:
    """Writes records as one self-contained HTML page, atomically.

    Args:
        records: of one seed, of one or more attacks.
        path: of the page; its folder is made if need be.
        title: of the page; by default it names the data.

    Returns:
        The path of the page.

    Raises:
        ConfigurationError: the path is a folder, or in one that cannot be written to; or there are
            no records, or of no attack, or of several seeds.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigurationError(
            f"{str(path)!r} is a folder: give the page a name, such as report.html."
        )
    writable_folder(path.parent)
    page = render(records, title=title)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(records: Records, *, title: str | None = None) -> str:
    """The page's HTML.

    Raises:
        ConfigurationError: there are no records, or of no attack, or of several seeds.
    """
    from plotly.offline import get_plotlyjs

    check_records(records)
    lines = robustness_table(records)
    detections = detection_table(records)
    accuracy = accuracy_figures(records)
    histograms = histogram_figures(records, lines, detections)
    embedding = embedding_figure(records)
    threats = threats_of(records)
    largest = {(line.guard, line.norm, line.eps) for line in at_largest_eps(lines)}
    data = records.meta.get("data") or "unnamed data"
    environment = _environment()
    return environment.get_template("template.html").render(
        title=title or f"What is left: {data}",
        data=data,
        meta=records.meta,
        records_count=len(records),
        clean_count=len(records.where(guard=records.guards[0], threat=CLEAN)),
        seed=records.distinct("seed")[0][0],
        themes=THEMES,
        guards=describe_guards(records),
        headlines=_headlines(records, lines),
        threats=threats,
        only_oblivious=threats == [OBLIVIOUS],
        untested=[name for name in _all_threats() if name not in threats],
        attacks=describe_attacks(records),
        costs=costs(records),
        lines=lines,
        detections=detections,
        detections_at_largest=[
            one for one in detections if (one.guard, one.norm, one.eps) in largest
        ],
        longest_open=LONGEST_OPEN,
        accuracy=accuracy,
        histograms=histograms,
        embedding=embedding,
        galleries=galleries(records, lines),
        ties=int(records.column("tie").astype(bool).sum()),
        downloads={
            "robustness.csv": _data_uri(robustness_csv(lines)),
            **({"detection.csv": _data_uri(detection_csv(detections))} if detections else {}),
        },
        figures=_figures_json([*accuracy, *histograms, *([embedding] if embedding else [])]),
        plotly=get_plotlyjs(),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        formatting.percent,
        formatting.rate_parts,
        formatting.rate_text,
        formatting.area_parts,
        formatting.norm_text,
        formatting.number,
        formatting.in_255,
        formatting.budget_text,
        formatting.seconds_text,
        formatting.listing,
        threat_words,
        bar,
        spans,
    ):
        environment.filters[function.__name__] = function
    environment.globals["NO_SUCCESS"] = formatting.NO_SUCCESS
    return environment


def bar(rate: Rate) -> str:
    """Where a rate and its interval lie on a track from 0 to 100 %, as style properties."""
    if rate.n == 0:
        return "--at:0%;--low:0%;--size:0%"
    return (
        f"--at:{100 * rate.value:.2f}%;--low:{100 * rate.low:.2f}%;"
        f"--size:{100 * (rate.high - rate.low):.2f}%"
    )


def spans(rows: Sequence[Any], *names: str) -> list[tuple[Any, int]]:
    """Each row with how many rows its first cell spans; 0 where the cell above reaches it."""
    groups = [list(group) for _, group in groupby(rows, key=attrgetter(*names))]
    return [(row, 0 if i else len(group)) for group in groups for i, row in enumerate(group)]


def _headlines(records: Records, lines: Sequence[RobustnessLine]) -> list[Headline]:
    colours = guard_colours(records)
    worst = at_largest_eps([line for line in lines if line.worst])
    found = []
    for guard in records.guards:
        own = [line for line in worst if line.guard == guard]
        description = records.meta.get("guards", {}).get(guard, {})
        found.append(
            Headline(
                guard=guard,
                colour=colours[guard],
                clean=own[0].strongest,
                worst=own,
                rejects=bool(description.get("detectors")),
            )
        )
    return found


def _all_threats() -> list[str]:
    return list(dict.fromkeys([*THREATS, "transfer", "query"]))


def _figures_json(figures: Sequence[Figure]) -> dict[str, Any]:
    return {
        figure.identifier: {"names": list(figure.alternatives), "of": figure.alternatives}
        for figure in figures
    }


def _data_uri(text: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()
