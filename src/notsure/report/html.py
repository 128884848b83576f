"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from notsure.core.errors import ConfigurationError
from notsure.core.storage import atomic, writable_folder
from notsure.evaluation.costs import QUERY_THREATS, costs
from notsure.evaluation.distances import minimal_distortions
from notsure.evaluation.intervals import Rate
from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN
from notsure.report import formatting
from notsure.report.accuracy import accuracy_figures, attack_figures
from notsure.report.coverage import coverage_figure
from notsure.report.description import (
    describe_attacks,
    describe_guards,
    describe_substitutes,
)
from notsure.report.effort import distance_figures, queries_figure
from notsure.report.embedding import embedding_figure
from notsure.report.export import csv_text, detection_csv, robustness_csv, rows_csv
from notsure.report.figures import Figure
from notsure.report.gallery import galleries, gallery_rows
from notsure.report.headlines import headlines
from notsure.report.histograms import histogram_figures
from notsure.report.matrices import generalisation_figure, grid_figures, transfer_figure
from notsure.report.reading import flag_groups, threat_lines, uneven_attacks
from notsure.report.split import split_figure
from notsure.report.tables import (
    OBLIVIOUS,
    WHITE_BOX,
    at_largest_eps,
    attack_labels,
    check_records,
    detection_table,
    robustness_table,
    threats_of,
)

TOLD_VERDICT = (WHITE_BOX, *QUERY_THREATS)
"""Threats whose attackers are told what the guard answers."""

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
    flags = flag_groups(records.flags())
    # only the flags look at the probes
    everything, records = records, records.ordinary()
    lines = robustness_table(records)
    detections = detection_table(records)
    largest = {(line.guard, line.norm, line.eps) for line in at_largest_eps(lines)}
    distortions, spent = minimal_distortions(records), costs(records)
    figures: dict[str, Sequence[Figure]] = {
        "split": _there(split_figure(records, lines)),
        "accuracy": [*accuracy_figures(records), *attack_figures(records, lines)],
        "coverage": _there(coverage_figure(records, lines)),
        "effort": [*distance_figures(records), *_there(queries_figure(records))],
        "transfer": _there(transfer_figure(records)),
        "grids": grid_figures(records, lines),
        "histograms": histogram_figures(records, lines, detections),
        "generalisation": _there(generalisation_figure(records)),
        "embedding": _there(embedding_figure(records)),
    }
    pictures = galleries(records, lines)
    tables = {
        "robustness.csv": robustness_csv(lines),
        "detection.csv": detection_csv(detections),
        "distortions.csv": rows_csv(distortions),
        "costs.csv": rows_csv(spent),
    }
    threats = threats_of(records)
    data = records.meta.get("data") or "unnamed data"
    drawn = [figure for its in figures.values() for figure in its]
    return compact(
        page_environment()
        .get_template("template.html")
        .render(
            title=title or f"What is left: {data}",
            data=data,
            meta=records.meta,
            suite=records.meta.get("suite"),
            records_count=len(everything),
            probes_count=len(everything) - len(records),
            clean_count=len(records.where(guard=records.guards[0], threat=CLEAN)),
            seed=records.distinct("seed")[0][0],
            themes=THEMES,
            guards=describe_guards(records),
            headlines=headlines(records, lines),
            flags=flags,
            threats=threats,
            threat_lines=threat_lines(records),
            only_oblivious=threats == [OBLIVIOUS],
            uneven=uneven_attacks(records),
            white_box=WHITE_BOX,
            told_verdict=TOLD_VERDICT,
            oblivious=OBLIVIOUS,
            labels=attack_labels(records),
            attacks=describe_attacks(records),
            substitutes=describe_substitutes(records),
            costs=spent,
            distortions=distortions,
            lines=lines,
            detections=detections,
            detections_at_largest=[
                one for one in detections if (one.guard, one.norm, one.eps) in largest
            ],
            longest_open=LONGEST_OPEN,
            figures=figures,
            galleries=pictures,
            ties=int(everything.column("tie").astype(bool).sum()),
            downloads={name: _data_uri(text) for name, text in tables.items() if text},
            drawn={
                figure.identifier: {
                    "names": list(figure.alternatives),
                    "of": figure.alternatives,
                }
                for figure in drawn
            },
            told={
                **{figure.identifier: csv_text(figure.rows) for figure in drawn},
                **{one.identifier: csv_text(gallery_rows(one)) for one in pictures},
            },
            plotly=get_plotlyjs(),
        )
    )


def compact(page: str) -> str:
    """The page without the indentation of its tables, which makes up half of them."""
    tables, mark, scripts = page.partition('<script type="application/json"')
    return re.sub(r"\s*\n\s*", "\n", tables) + mark + scripts


def _there(*figures: Figure | None) -> list[Figure]:
    return [figure for figure in figures if figure is not None]


def page_environment() -> Environment:
    """What fills the templates of pages."""
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
        bar,
        spans,
        heights,
    ):
        environment.filters[function.__name__] = function
    environment.globals["NO_SUCCESS"] = formatting.NO_SUCCESS
    environment.globals["DASH"] = formatting.DASH
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


def heights(figure: Figure) -> Mapping[str, int]:
    """How high a figure is before it is drawn, in pixels, on a wide and on a narrow page."""
    first = next(iter(figure.alternatives.values()))
    return {name: first[name]["height"] for name in ("wide", "narrow")}


def _data_uri(text: str) -> str:
    return "data:text/csv;charset=utf-8," + quote(text, safe=",.-_~:;()=/+")
