"""What transfers, what generalises, and what parameters do: the heat maps of the page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from notsure.evaluation.detection import detection, generalisation
from notsure.evaluation.grids import grid
from notsure.evaluation.intervals import Area, Rate
from notsure.evaluation.records import Records
from notsure.evaluation.transferability import ITSELF, transfer_matrix
from notsure.report.figures import Figure
from notsure.report.formatting import budget_text, norm_text, number
from notsure.report.heatmaps import heat_map
from notsure.report.tables import RobustnessLine, at_largest_eps, attack_labels

Cells = dict[tuple[str, str], Rate | Area | None]

GRID_FIGURES = {
    "lenient": "robust accuracy, lenient",
    "strict": "robust accuracy, strict",
    "clean_accuracy": "clean accuracy",
}


AREA = "area under the ROC curve"
"""How the choices of a grid begin that are no rates."""


def transfer_figure(records: Records) -> Figure | None:
    """Which substitute's images fool which guard; None without the threat "transfer"."""
    labels = attack_labels(records)
    cells = transfer_matrix(records)
    if all(cell.substitute == ITSELF for cell in cells):
        return None
    choices: dict[str, tuple[Cells, Cells]] = {}
    for cell in cells:
        label = f"{labels[cell.attack_id]}, {budget_text(cell.norm, cell.eps)}"
        fooled, flagged = choices.setdefault(label, ({}, {}))
        fooled[cell.substitute, cell.guard] = cell.success
        flagged[cell.substitute, cell.guard] = cell.flagged
    # a row for itself alone tells nothing of a transfer
    choices = {
        label: parts
        for label, parts in choices.items()
        if any(substitute != ITSELF for substitute, _ in parts[0])
    }
    return Figure(
        identifier="transfer",
        heading="Transfer",
        caption="Of the images that a guard accepts and classifies rightly when clean, the share, "
        f"in per cent, that fools it when made on a substitute; “{ITSELF}” is the guard's own "
        "network under the oblivious threat. Beside it the share of all such images that the "
        "guard rejects.",
        alt="Heat maps by substitute and guard: images that fool the guard, images it rejects.",
        alternatives={
            label: heat_map(
                {"<b>fooled, %</b>": fooled, "<b>flagged, %</b>": flagged},
                down="made on",
                across="sent to",
            )
            for label, (fooled, flagged) in choices.items()
        },
        rows=[{**vars(cell), "attack": labels[cell.attack_id]} for cell in cells],
    )


def generalisation_figure(records: Records) -> Figure | None:
    """How a detector that learns from one attack fares on another; None with fewer than two."""
    labels = attack_labels(records)
    found = [
        replace(
            one,
            trained_on=_told_apart(one.trained_on, labels[one.trained_on_id]),
            tested_on=_told_apart(one.tested_on, labels[one.tested_on_id]),
        )
        for one in generalisation(records)
    ]
    panels: dict[str, Cells] = {}
    for one in found:
        own = panels.setdefault(f"<b>{html.escape(one.guard)}</b>", {})
        own[one.trained_on, one.tested_on] = one.area
    if not panels:
        return None
    return Figure(
        identifier="generalisation",
        heading="Attacks that were not seen",
        caption="Area under the ROC curve of a logistic regression on the guard's scores that "
        "learnt from one attack (rows) and meets another (columns), each at the guard's largest "
        "eps, under the oblivious threat; trained on one half of the images, tested on the other.",
        alt="Heat maps of the areas under the ROC curve, by the attack trained on and the attack "
        "tested on.",
        alternatives={"": heat_map(panels, down="trained on", across="tested on")},
        rows=[vars(one) for one in found],
    )


def _told_apart(name: str, label: str) -> str:
    """An attack that is told by its identity, by what it differs in."""
    return label if "#" in name else name


def grid_figures(records: Records, lines: Sequence[RobustnessLine]) -> list[Figure]:
    """Figures over the parameters that the user gave the guards, where two or more have them."""
    parameters = _numeric(records)
    figures = []
    for down, across in combinations(_names(parameters), 2):
        places = [(p[down], p[across]) for p in parameters.values() if {down, across} <= set(p)]
        if len(places) < 2 or len(set(places)) < len(places):
            continue
        figures.append(_two(records, lines, down, across, parameters))
    if not figures:
        figures = [_one(lines, name, parameters) for name in _names(parameters)]
    # the names are the user's, and no part of an id
    return [replace(one, identifier=f"grid-{i + 1}") for i, one in enumerate(figures)]


def _numeric(records: Records) -> dict[str, dict[str, float]]:
    return {
        guard: {
            name: float(value)
            for name, value in records.meta["guards"][guard].get("parameters", {}).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for guard in records.guards
    }


def _names(parameters: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The parameters that differ between guards."""
    names = dict.fromkeys(name for its in parameters.values() for name in its)
    return [n for n in names if len({its[n] for its in parameters.values() if n in its}) > 1]


def _two(
    records: Records,
    lines: Sequence[RobustnessLine],
    down: str,
    across: str,
    parameters: Mapping[str, Mapping[str, float]],
) -> Figure:
    having = [guard for guard, its in parameters.items() if {down, across} <= set(its)]
    records = _of_guards(records, having)
    choices: dict[str, Cells] = {}
    rows: list[dict[str, object]] = []
    for line in at_largest_eps([one for one in lines if one.worst and one.guard == having[0]]):
        for threat in list(line.by_threat)[::-1]:
            for figure, words in GRID_FIGURES.items():
                label = words
                if figure != "clean_accuracy":
                    label = f"{words}, {threat}, {budget_text(line.norm, line.eps)}"
                if label in choices:
                    continue
                told = grid(
                    records,
                    rows=down,
                    columns=across,
                    figure=figure,
                    threat=threat,
                    norm=line.norm,
                    eps=line.eps,
                )
                choices[label] = {
                    (number(float(row)), number(float(column))): told.values[i][j]
                    for i, row in enumerate(told.rows)
                    for j, column in enumerate(told.columns)
                }
                rows += [
                    {"figure": label, down: row, across: column, "value": told.values[i][j]}
                    for i, row in enumerate(told.rows)
                    for j, column in enumerate(told.columns)
                ]
    for label, areas in _areas(records, down, across, parameters).items():
        choices[label] = areas
        rows += [
            {"figure": label, down: float(row), across: float(column), "value": area}
            for (row, column), area in areas.items()
            if area is not None
        ]
    return Figure(
        identifier="grid",
        heading=f"{down} and {across}",
        caption="Each cell is a guard with these parameters. Rates are in per cent, in the worst "
        "case over all attacks and all eps up to the stated one; areas under the ROC curve are of "
        "one attack, over the images that are right when clean and wrong when attacked.",
        alt=f"Heat map of the guards' figures by {down} and {across}.",
        alternatives={
            label: heat_map({"": cells}, down=down, across=across)
            for label, cells in choices.items()
        },
        rows=rows,
        choice="Figure",
    )


def _areas(
    records: Records, down: str, across: str, parameters: Mapping[str, Mapping[str, float]]
) -> dict[str, Cells]:
    """How well each detector tells clean images from each attack's at its largest eps."""
    labels = attack_labels(records)
    found = [one for one in detection(records) if not one.control and not one.noise]
    largest: dict[str | None, float] = {}
    for one in found:
        largest[one.norm] = max(largest.get(one.norm, 0.0), one.eps or 0.0)
    places = {
        guard: (its[down], its[across])
        for guard, its in parameters.items()
        if {down, across} <= set(its)
    }
    # the whole grid, rising, as that of the rates
    empty: Cells = {
        (number(row), number(column)): None
        for row in sorted({row for row, _ in places.values()})
        for column in sorted({column for _, column in places.values()})
    }
    choices: dict[str, Cells] = {}
    for one in found:
        if (one.eps or 0.0) == largest[one.norm] and one.guard in places:
            label = (
                f"{AREA}, {one.detector}, {one.threat}, {labels[one.attack_id]}, "
                f"{budget_text(one.norm, one.eps)}"
            )
            row, column = places[one.guard]
            choices.setdefault(label, dict(empty))[number(row), number(column)] = one.successful
    return choices


def _one(
    lines: Sequence[RobustnessLine], name: str, parameters: Mapping[str, Mapping[str, float]]
) -> Figure:
    """One parameter: its values against the eps of each threat."""
    choices: dict[str, Cells] = {}
    rows: list[dict[str, object]] = []
    own = [line for line in lines if line.worst and name in parameters[line.guard]]
    for line in sorted(own, key=lambda one: parameters[one.guard][name]):
        value = parameters[line.guard][name]
        clean = line.strongest.clean_accuracy
        for threat, row in list(line.by_threat.items())[::-1]:
            for figure in ("lenient", "strict"):
                label = f"{GRID_FIGURES[figure]}, {threat}, {norm_text(line.norm)}"
                cells = choices.setdefault(label, {})
                cells.setdefault((number(value), "clean"), clean)
                eps = "no budget" if line.eps is None else f"eps {number(line.eps)}"
                cells[number(value), eps] = getattr(row, figure)
                rows.append(
                    {
                        "figure": label,
                        name: value,
                        "guard": line.guard,
                        "eps": line.eps,
                        "value": getattr(row, figure),
                    }
                )
    return Figure(
        identifier="grid",
        heading=name,
        caption="Each row is a guard with this parameter, in per cent; the worst case over all "
        "attacks and all eps up to the stated one.",
        alt=f"Heat map of the guards' robust accuracy by {name} and eps.",
        alternatives={
            label: heat_map({"": cells}, down=name, across="images")
            for label, cells in choices.items()
        },
        rows=rows,
        choice="Figure",
    )


def _of_guards(records: Records, guards: Sequence[str]) -> Records:
    mask = pc.is_in(records.table["guard"], value_set=pa.array(guards))
    its = {guard: records.meta["guards"][guard] for guard in guards}
    return Records(records.table.filter(mask), {**records.meta, "guards": its})
