"""Histograms of the detectors' scores, clean against adversarial, with the frozen threshold."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from notsure.evaluation.detection import RANDOM_NOISE
from notsure.evaluation.grouping import Bools, Group, Grouped
from notsure.evaluation.intervals import Area
from notsure.evaluation.records import SCORE, Records
from notsure.report.figures import MUTED, Figure, Panel, arranged, guard_colours, translucent
from notsure.report.formatting import area_text, budget_text, number
from notsure.report.tables import (
    DetectionLine,
    RobustnessLine,
    at_largest_eps,
    attack_labels,
    strongest_attack,
    threats_of,
)

BINS = 40
MOST_COLUMNS = 3
_HEADROOM = 1.25
"""How high an axis goes, in the highest bar, so that the remark stands clear of the bars."""
REACH = 6.0
"""How far beyond the threshold an axis goes, in distances from clean median to threshold."""

_Numbers = npt.NDArray[np.float64]


def histogram_figures(
    records: Records, lines: Sequence[RobustnessLine], detections: Sequence[DetectionLine]
) -> list[Figure]:
    """For each guard with detectors, a figure to choose the attack in, at its largest eps."""
    labels = attack_labels(records)
    areas = {
        (one.guard, threat, one.detector, one.attack, one.norm, one.eps): (
            row.everything if row.noise else row.successful
        )
        for one in detections
        for threat, row in one.by_threat.items()
    }
    grouped = Grouped(records)
    colours = guard_colours(records)
    figures = []
    for position, guard in enumerate(records.guards):
        if not records.meta["guards"][guard]["detectors"]:
            continue
        own = [line for line in lines if line.guard == guard and not line.worst]
        known = max(grouped.threats(guard), key=threats_of(records).index)
        strongest = strongest_attack(lines, guard, known)
        groups = {
            (group.threat, labels[group.attack_id], group.norm, group.eps): group
            for group in grouped.attacked(guard)
        }
        choices = sorted(at_largest_eps(own), key=lambda line: line is not strongest)
        rows: list[dict[str, Any]] = []
        alternatives = {}
        for line in choices:
            label = f"{line.attack}, {budget_text(line.norm, line.eps)}"
            alternatives[label], its = _histograms(grouped, line, groups, areas, colours[guard])
            rows += [{"attack": line.attack, "norm": line.norm, "eps": line.eps, **r} for r in its]
        figures.append(
            Figure(
                identifier=f"scores-{position + 1}",
                heading=guard,
                caption="",
                alt=f"{guard}: histograms of each detector's scores, clean against adversarial, by "
                "threat; the areas under the ROC curve are in the tables of detection.",
                alternatives=alternatives,
                rows=rows,
            )
        )
    return figures


def _histograms(
    grouped: Grouped,
    line: RobustnessLine,
    groups: Mapping[tuple[str, str, str | None, float | None], Group],
    areas: Mapping[tuple[Any, ...], Area],
    colour: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figure of one attack, and what it draws."""
    told = grouped.description(line.guard)
    detectors, calibration = list(told["detectors"]), told.get("calibration") or {}
    of_clean = grouped.clean(line.guard)
    right = ~grouped.misclassified(of_clean)[0]
    attacked = {
        threat: groups[threat, line.attack, line.norm, line.eps] for threat in line.by_threat
    }
    panels: list[Panel | None] = []
    columns = min(len(attacked), MOST_COLUMNS)
    rows: list[dict[str, Any]] = []
    for detector in detectors:
        threshold = calibration.get("thresholds", {}).get(detector)
        normal, _ = _scores(grouped, of_clean, detector)
        each = {threat: _scores(grouped, one, detector) for threat, one in attacked.items()}
        edges = _edges(normal, [values for values, _ in each.values()], threshold)
        for threat, (values, wrong) in each.items():
            area = areas[line.guard, threat, detector, line.attack, line.norm, line.eps]
            # of noise the scores are the point, not the few images that it makes wrong
            noise = attacked[threat].attack == RANDOM_NOISE
            scores = {"clean": normal, "adversarial": values if noise else values[wrong & right]}
            rows += _rows(detector, threat, scores, edges)
            panels.append(
                _panel(
                    f"<b>{html.escape(detector)}</b>, {html.escape(threat)}"
                    f"<br><span style='font-size:11px'>AUC {area_text(area)}</span>",
                    scores,
                    edges,
                    threshold,
                    colour,
                    first=not panels,
                )
            )
        # each detector begins a row
        panels += [None] * (-len(panels) % columns)
    plot = arranged(panels, columns=columns, height=190, narrow_height=180)
    return plot, rows


def _rows(
    detector: str, threat: str, scores: Mapping[str, _Numbers], edges: _Numbers
) -> list[dict[str, Any]]:
    counts = {name: _counted(values, edges) for name, values in scores.items()}
    return [
        {
            "detector": detector,
            "threat": threat,
            "from": float(edges[i]),
            "to": float(edges[i + 1]),
            **{f"{name} images": int(its[i]) for name, its in counts.items()},
        }
        for i in range(len(edges) - 1)
        if any(its[i] for its in counts.values())
    ]


def _counted(values: _Numbers, edges: _Numbers) -> npt.NDArray[np.int64]:
    return np.histogram(values[np.isfinite(values)], bins=edges)[0].astype(np.int64)


def _scores(grouped: Grouped, group: Group, detector: str) -> tuple[_Numbers, Bools]:
    """A detector's score of each image (n,), and whether it is classified wrongly.

    Of several substitutes' images, it is the one that serves the attacker best, as in the areas.
    """
    scores = grouped.of(group, SCORE + detector).astype(np.float64)
    best = (grouped.best_part(group, scores), np.arange(scores.shape[1]))
    return scores[best], np.asarray(grouped.misclassified(group)[best])


def _edges(normal: _Numbers, attacked: Sequence[_Numbers], threshold: float | None) -> _Numbers:
    """Edges of the bins: wide enough for nearly all, however long a tail is."""
    everything = np.concatenate([normal, *attacked])
    everything = everything[np.isfinite(everything)]
    finite = normal[np.isfinite(normal)]
    if len(everything) == 0 or len(finite) == 0:
        return np.linspace(0.0, 1.0, BINS + 1)
    low, high = np.quantile(everything, [0.002, 0.998])
    if threshold is not None:
        scale = _scale(finite, threshold)
        low = max(min(low, threshold - scale), threshold - REACH * scale)
        high = min(max(high, threshold + 0.5 * scale), threshold + REACH * scale)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    if threshold is None:
        return np.linspace(low, high, BINS + 1)
    width = (high - low) / BINS
    left, right = math.ceil((threshold - low) / width), math.ceil((high - threshold) / width)
    edges: _Numbers = threshold + width * np.arange(-left, right + 1)
    # no bar stands on both sides; a score that equals the threshold is accepted
    edges[left] = np.nextafter(np.float32(threshold), np.float32(np.inf))
    return edges


def _scale(normal: _Numbers, threshold: float) -> float:
    """From the clean median to the threshold; where that is among the clean scores, their spread.

    A guard that rejects half of its clean images has its threshold at their median.
    """
    low, median, high = np.quantile(normal, [0.1, 0.5, 0.9])
    # never so small that single precision cannot tell the bins apart
    least = max(0.25 * float(high - low), 1e-5 * max(abs(threshold), 1e-3))
    return max(threshold - float(median), least)


def _panel(
    title: str,
    scores: Mapping[str, _Numbers],
    edges: _Numbers,
    threshold: float | None,
    colour: str,
    *,
    first: bool,
) -> Panel:
    looks = {
        "clean": (MUTED, "rgba(128,128,128,0.28)"),
        "adversarial": (colour, translucent(colour, 0.28)),
    }
    traces, beyond, peak = [], [], 0.0
    for name, values in scores.items():
        line, fill = looks[name]
        counts = _counted(values, edges)
        beyond.append(f"{len(values) - int(counts.sum())} {name}")
        shares = 100 * counts / max(len(values), 1)
        peak = max(peak, float(shares.max()))
        traces.append(
            {
                "type": "scatter",
                "name": f"{name} images",
                "x": [float(f"{edge:.6g}") for edge in edges],
                "y": [*(round(float(share), 3) for share in shares), 0.0],
                "mode": "lines",
                "line": {"shape": "hv", "color": line, "width": 1.5},
                "fill": "tozeroy",
                "fillcolor": fill,
                "hovertemplate": "from %{x:.4g}: %{y:.1f} %",
                "legendgroup": name,
                "showlegend": first,
            }
        )
    written = [] if threshold is None else [f"threshold {number(threshold)}"]
    return Panel(
        title=title,
        traces=traces,
        x={
            "title": {"text": "score", "standoff": 4},
            "range": [float(edges[0]), float(edges[-1])],
        },
        y={"title": {"text": "images, %", "standoff": 4}, "range": [0, _HEADROOM * (peak or 1.0)]},
        line=threshold,
        remark="<br>".join([*written, f"beyond: {', '.join(beyond)}"]),
    )
