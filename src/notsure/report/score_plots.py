"""Figures of a paper-ready document that show scores, coverage, distances and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from notsure.evaluation.costs import success_against_queries
from notsure.evaluation.coverage import coverage_accuracy
from notsure.evaluation.distances import accuracy_against_distance
from notsure.evaluation.records import SCORE, Records
from notsure.evaluation.robustness import WORST_CASE, RobustnessRow
from notsure.evaluation.threats import CLEAN
from notsure.report.document import Plot
from notsure.report.figures import PALETTE
from notsure.report.formatting import number
from notsure.report.paper_tables import Labels, budget, largest_budgets
from notsure.report.plots import (
    GREY,
    Line,
    Plate,
    empty,
    legend,
    line_plots,
    on_pages,
    put_title,
    rates_line,
    rejects,
)
from notsure.report.tables import threats_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

BINS = 36
MOST_POINTS = 500
"""Points of an ROC curve."""

_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One detector's scores under the strongest attack of one threat.

    Attributes:
        guard: the guard's name.
        detector: the detector's name.
        threat: what the attacker knew.
        attack: the attack's name with its budget.
        clean: (n,) of the clean images.
        adversarial: (m,) of those that were right and that the attack made wrong.
        before: (m,) of their clean versions.
        threshold: the frozen threshold; None without a calibration.
    """

    guard: str
    detector: str
    threat: str
    attack: str
    clean: _Numbers
    adversarial: _Numbers
    before: _Numbers
    threshold: float | None


def strongest(
    rows: Sequence[RobustnessRow], guard: str, threat: str, within: str | None = None
) -> RobustnessRow | None:
    """The attack that leaves least of a guard under a threat, at the largest eps.

    Args:
        rows: of all guards and attacks.
        guard: the guard's name.
        threat: what the attacker knew.
        within: the norm of the budget; None for the first that the guard was attacked in.
    """
    own = [row for row in rows if row.guard == guard and row.attack != WORST_CASE]
    norms = [row.norm for row in own if row.norm is not None]
    norm = within or next(iter(norms), None)
    able = [row for row in largest_budgets(own) if row.threat == threat]
    able = [row for row in able if row.norm == norm] or able
    return min(able, key=lambda row: (row.lenient.value, row.strict.value), default=None)


def scores_of(records: Records, rows: Sequence[RobustnessRow], labels: Labels) -> list[Scores]:
    """Every detector of every guard under the strongest attack of each threat."""
    found = []
    for guard in records.guards:
        told = records.meta["guards"][guard]
        thresholds = (told.get("calibration") or {}).get("thresholds", {})
        of_guard = records.where(guard=guard, probe=None)
        clean = of_guard.where(threat=CLEAN)
        order = np.argsort(clean.column("index"), kind="stable")
        for threat in threats_of(of_guard):
            row = strongest(rows, guard, threat)
            if row is None:
                continue
            now = of_guard.where(threat=threat, attack_id=row.attack_id, norm=row.norm, eps=row.eps)
            made_wrong = (now.column("clean_prediction") == now.column("y")) & (
                now.column("prediction") != now.column("y")
            )
            places = np.searchsorted(clean.column("index")[order], now.column("index"))
            for detector in told["detectors"]:
                normal = clean.column(SCORE + detector)[order].astype(float)
                found.append(
                    Scores(
                        guard=guard,
                        detector=detector,
                        threat=threat,
                        attack=f"{labels[row.attack_id]}, {budget(row.norm, row.eps)}",
                        clean=normal,
                        adversarial=now.column(SCORE + detector)[made_wrong].astype(float),
                        before=normal[places[made_wrong]],
                        threshold=thresholds.get(detector),
                    )
                )
    return found


def roc_points(negatives: _Numbers, positives: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Shares of negatives and of positives at or above each threshold, from none to all.

    Of many thresholds some are left out evenly: more points than a page can show make a large file.
    """
    thresholds = np.unique(np.concatenate([negatives, positives]))[::-1]
    kept = np.linspace(0, len(thresholds) - 1, min(len(thresholds), MOST_POINTS))
    thresholds = thresholds[kept.round().astype(int)]
    shares = [
        1 - np.searchsorted(np.sort(values), thresholds, "left") / max(len(values), 1)
        for values in (negatives, positives)
    ]
    return np.insert(shares[0], 0, 0.0), np.insert(shares[1], 0, 0.0)


def roc_plot(scores: Sequence[Scores], threats: Sequence[str]) -> list[Plot]:
    """ROC curves, a panel for each guard and detector, the threats in one panel."""
    panels: dict[tuple[str, str], list[Scores]] = {}
    for one in scores:
        if len(one.adversarial):
            panels.setdefault((one.guard, one.detector), []).append(one)
    if not panels:
        return []
    plates = []
    for (guard, detector), ones in panels.items():
        lines = []
        for one in ones:
            false, true = roc_points(one.before, one.adversarial)
            lines.append(
                Line(
                    name=one.threat,
                    x=(100 * false).tolist(),
                    y=(100 * true).tolist(),
                    marked=False,
                )
            )
        plates.append(
            Plate(
                title=f"{guard}: {detector}",
                lines=lines,
                x="clean images flagged, %",
                y="adversarial flagged, %",
                diagonal=True,
            )
        )
    return line_plots(
        "roc",
        "ROC curves of the detectors on the images that the strongest attack of each threat "
        "at the largest eps made wrong, against their own clean versions; the attacks are named "
        "below the histograms of the scores. Thin: chance.",
        plates,
        threats,
    )


def _attacks(scores: Sequence[Scores]) -> str:
    told = dict.fromkeys(f"{one.threat}: {one.attack}" for one in scores)
    return "; ".join(told)


def histogram_plots(scores: Sequence[Scores]) -> list[Plot]:
    """Histograms of the scores, a figure for each guard, a panel for each detector and threat."""
    plots: list[Plot] = []
    for position, guard in enumerate(dict.fromkeys(one.guard for one in scores)):
        own = [one for one in scores if one.guard == guard]
        # one detector a row, its threats side by side
        detectors = list(dict.fromkeys(one.detector for one in own))
        own.sort(key=lambda one: detectors.index(one.detector))
        columns = len(own) // len(detectors)
        plots += on_pages(
            f"scores-{position + 1}",
            f"{guard}: the detectors' scores of clean images and of those that the strongest "
            "attack of each threat at the largest eps made wrong. Dashed: the frozen threshold, "
            f"above which an image is rejected. {_attacks(own)}.",
            own,
            draw_histograms,
            columns=min(columns, 3),
        )
    return plots


def draw_histograms(scores: Sequence[Scores], *, columns: int) -> Drawing:
    """Clean scores filled, adversarial ones hatched."""
    drawing, axes = empty(len(scores), columns=columns, height=1.6)
    ranges: dict[str, list[_Numbers]] = {}
    for one in scores:
        ranges.setdefault(one.detector, []).extend([one.clean, one.adversarial])
    for ax, one in zip(axes, scores, strict=True):
        _histogram(ax, one, _edges(ranges[one.detector], one.threshold), columns)
    handles = {patch.get_label(): patch for patch in axes[0].patches}
    legend(drawing, {str(name): handles[name] for name in ("clean", "adversarial")})
    return drawing


def _edges(parts: Sequence[_Numbers], threshold: float | None) -> _Numbers:
    """Edges of the bins, around nearly all scores and the threshold."""
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    marks = [] if threshold is None or not np.isfinite(threshold) else [threshold]
    if len(values):
        marks += np.quantile(values, [0.005, 0.995]).tolist()
    low, high = (min(marks), max(marks)) if marks else (0.0, 1.0)
    spread = (high - low) or 1.0
    edges: _Numbers = np.linspace(low - 0.03 * spread, high + 0.03 * spread, BINS + 1)
    return edges


def _histogram(ax: Axes, one: Scores, edges: _Numbers, columns: int) -> None:
    looks: tuple[tuple[str, _Numbers, dict[str, Any]], ...] = (
        ("clean", one.clean, {"facecolor": "#c9ced4", "edgecolor": GREY}),
        (
            "adversarial",
            one.adversarial,
            {"facecolor": "none", "edgecolor": PALETTE[1], "hatch": "/////"},
        ),
    )
    for name, values, look in looks:
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
        ax.stairs(
            100 * counts / max(len(values), 1), edges, fill=True, label=name, linewidth=0.8, **look
        )
    title = f"{one.detector}\n{one.threat}"
    if one.threshold is not None:
        ax.axvline(one.threshold, color="black", linestyle=(0, (4, 2)), linewidth=0.9)
        title += f", threshold {number(one.threshold)}"
    put_title(ax, title, columns)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("score")
    ax.set_ylabel("images, %")


def coverage_plot(records: Records, rows: Sequence[RobustnessRow]) -> list[Plot]:
    """Accuracy of what is accepted against how much is, a panel for each guard that rejects."""
    curves = coverage_accuracy(records)
    plates = []
    for guard in [guard for guard in records.guards if rejects(records, guard)]:
        lines = []
        for threat in (CLEAN, *threats_of(records)):
            row = None if threat == CLEAN else strongest(rows, guard, threat)
            key = None if row is None else (row.attack_id, row.norm, row.eps)
            for curve in curves:
                its = (curve.attack_id, curve.norm, curve.eps)
                if (curve.guard, curve.threat) == (guard, threat) and (
                    threat == CLEAN or its == key
                ):
                    points = sorted(
                        (p for p in curve.points if p.accuracy.n), key=lambda p: p.coverage.value
                    )
                    covered = [100 * point.coverage.value for point in points]
                    accuracies = [point.accuracy for point in points]
                    own = [i for i, point in enumerate(points) if point.threshold == 0]
                    ring = next(iter(own), None)
                    lines.append(rates_line(threat, covered, accuracies, marked=False, ring=ring))
        if lines:
            plates.append(
                Plate(title=guard, lines=lines, x="accepted, %", y="accuracy of these, %")
            )
    if not plates:
        return []
    return line_plots(
        "coverage",
        "Accuracy of the accepted images against the share that is accepted, as the threshold "
        "moves; of each threat the strongest attack at the largest eps, whose images were made for "
        "the calibrated threshold (rings): elsewhere an attacker who knows the guard makes others, "
        "and the curves flatter it. Shaded: 95 % intervals.",
        plates,
        (CLEAN, *threats_of(records)),
    )


def distance_plot(records: Records, labels: Labels) -> list[Plot]:
    """Accuracy against l2 distance of attacks without a budget, guards in one panel."""
    return _by_threat_and_attack(
        "distance",
        "Lenient accuracy against ℓ₂ distance, of attacks without a budget: images that the attack "
        "had to move further count as not fooled. Shaded: 95 % intervals.",
        "ℓ₂ distance",
        "accuracy, %",
        {
            (threat, labels.get(attack, str(attack)), guard): (
                [point.distance for point in points],
                rates_line(
                    guard,
                    [point.distance for point in points],
                    [point.lenient for point in points],
                    marked=False,
                ),
            )
            for (guard, threat, attack), points in accuracy_against_distance(records).items()
        },
        records.guards,
    )


def query_plot(records: Records, labels: Labels) -> list[Plot]:
    """Success against queries, guards in one panel."""
    return _by_threat_and_attack(
        "queries",
        "Success against the number of queries at the largest eps, over the images that were "
        "accepted and right; an image counts from all the queries on that were spent on it. "
        "Shaded: 95 % intervals.",
        "queries",
        "success, %",
        {
            (
                curve.threat,
                f"{labels[curve.attack_id]}, {budget(curve.norm, curve.eps)}",
                curve.guard,
            ): (
                [float(point.queries) for point in curve.points],
                rates_line(
                    curve.guard,
                    [float(point.queries) for point in curve.points],
                    [point.success for point in curve.points],
                    marked=False,
                ),
            )
            for curve in largest_budgets(success_against_queries(records))
        },
        records.guards,
    )


def _by_threat_and_attack(
    identifier: str,
    caption: str,
    x: str,
    y: str,
    lines: Mapping[tuple[str, str, str], tuple[Sequence[float], Line]],
    guards: Sequence[str],
) -> list[Plot]:
    """A panel for each threat and attack, with the line of each guard."""
    panels: dict[tuple[str, str], list[Line]] = {}
    for (threat, attack, _), (_, line) in lines.items():
        panels.setdefault((threat, attack), []).append(line)
    if not panels:
        return []
    plates = [
        Plate(title=f"{threat}\n{attack}", lines=ones, x=x, y=y)
        for (threat, attack), ones in panels.items()
    ]
    return line_plots(identifier, caption, plates, guards)
