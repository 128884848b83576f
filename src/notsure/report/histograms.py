"""Histograms of the detectors' scores, clean against adversarial, with the frozen threshold."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from notsure.evaluation.metrics import Area
from notsure.evaluation.records import SCORE, Records
from notsure.evaluation.threats import CLEAN
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
REACH = 6.0
"""How far beyond the threshold an axis goes, in distances from clean median to threshold."""

_Numbers = npt.NDArray[np.float64]


def histogram_figures(
    records: Records, lines: Sequence[RobustnessLine], detections: Sequence[DetectionLine]
) -> list[Figure]:
    """For each guard with detectors, a figure to choose the attack in, at its largest eps."""
    labels = attack_labels(records)
    areas = {
        (one.guard, threat, one.detector, one.attack, one.norm, one.eps): row.successful
        for one in detections
        for threat, row in one.by_threat.items()
    }
    colours = guard_colours(records)
    figures = []
    for position, guard in enumerate(records.guards):
        if not records.meta["guards"][guard]["detectors"]:
            continue
        own = [line for line in lines if line.guard == guard and not line.worst]
        of_guard = records.where(guard=guard)
        strongest = strongest_attack(lines, guard, threats_of(of_guard)[-1])
        choices = sorted(at_largest_eps(own), key=lambda line: line is not strongest)
        figures.append(
            Figure(
                identifier=f"scores-{position + 1}",
                heading=guard,
                caption="",
                alt=f"{guard}: histograms of each detector's scores, clean against adversarial, by "
                "threat; the areas under the ROC curve are in the tables of detection.",
                alternatives={
                    f"{line.attack}, {budget_text(line.norm, line.eps)}": _histograms(
                        of_guard, line, labels, areas, colours[guard]
                    )
                    for line in choices
                },
            )
        )
    return figures


def _histograms(
    of_guard: Records,
    line: RobustnessLine,
    labels: Mapping[str | None, str],
    areas: Mapping[tuple[Any, ...], Area],
    colour: str,
) -> dict[str, Any]:
    detectors = list(of_guard.meta["guards"][line.guard]["detectors"])
    calibration = of_guard.meta["guards"][line.guard].get("calibration") or {}
    clean = _ordered(of_guard.where(threat=CLEAN), detectors)
    attacked = {}
    for threat in line.by_threat:
        of_threat = of_guard.where(threat=threat, norm=line.norm, eps=line.eps)
        identity = next(
            one for (one,) in of_threat.distinct("attack_id") if labels[one] == line.attack
        )
        attacked[threat] = _ordered(of_threat.where(attack_id=identity), detectors)
    panels: list[Panel] = []
    for detector in detectors:
        threshold = calibration.get("thresholds", {}).get(detector)
        normal = clean[detector]
        edges = _edges(normal, [one[detector] for one in attacked.values()], threshold)
        for threat, one in attacked.items():
            fooled = (clean["prediction"] == clean["y"]) & (one["prediction"] != one["y"])
            area = areas[line.guard, threat, detector, line.attack, line.norm, line.eps]
            panels.append(
                _panel(
                    f"<b>{html.escape(detector)}</b>, {html.escape(threat)}"
                    f"<br><span style='font-size:11px'>AUC {area_text(area)}</span>",
                    (normal, one[detector][fooled]),
                    edges,
                    threshold,
                    colour,
                    first=not panels,
                )
            )
    return arranged(panels, columns=len(attacked), height=190, narrow_height=180, shared_y=False)


def _ordered(records: Records, detectors: Sequence[str]) -> dict[str, _Numbers]:
    order = np.argsort(records.column("index"), kind="stable")
    return {
        **{name: records.column(name)[order] for name in ("y", "prediction")},
        **{name: records.column(SCORE + name)[order].astype(float) for name in detectors},
    }


def _edges(normal: _Numbers, attacked: Sequence[_Numbers], threshold: float | None) -> _Numbers:
    """Edges of the bins: wide enough for nearly all, however long a tail is."""
    everything = np.concatenate([normal, *attacked])
    everything = everything[np.isfinite(everything)]
    finite = normal[np.isfinite(normal)]
    if len(everything) == 0 or len(finite) == 0:
        return np.linspace(0.0, 1.0, BINS + 1)
    low, high = np.quantile(everything, [0.002, 0.998])
    if threshold is not None:
        scale = max(threshold - float(np.median(finite)), 1e-12)
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


def _panel(
    title: str,
    scores: tuple[_Numbers, _Numbers],
    edges: _Numbers,
    threshold: float | None,
    colour: str,
    *,
    first: bool,
) -> Panel:
    looks = (
        ("clean", MUTED, "rgba(128,128,128,0.28)"),
        ("adversarial", colour, translucent(colour, 0.28)),
    )
    traces, beyond = [], []
    for (name, line, fill), values in zip(looks, scores, strict=True):
        counts, _ = np.histogram(values[np.isfinite(values)], bins=edges)
        beyond.append(f"{len(values) - int(counts.sum())} {name}")
        shares = 100 * counts / max(len(values), 1)
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
        y={"title": {"text": "images, %", "standoff": 4}, "rangemode": "tozero"},
        line=threshold,
        remark="<br>".join([*written, f"beyond: {', '.join(beyond)}"]),
    )
