"""Accuracy against coverage: what a guard is worth at other thresholds than its own."""

from __future__ import annotations

from collections.abc import Sequence

from notsure.evaluation.coverage import Coverage, coverage_accuracy
from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN
from notsure.report.curves import PER_CENT, Curve, bold_panels
from notsure.report.figures import DASHES, MUTED, PALETTE, Figure, arranged
from notsure.report.formatting import number, percent
from notsure.report.tables import RobustnessLine, attack_labels, strongest_attack, threats_of


def coverage_figure(records: Records, lines: Sequence[RobustnessLine]) -> Figure | None:
    """A panel for each guard that rejects: its clean images, and each threat's strongest attack."""
    labels = attack_labels(records)
    threats = threats_of(records)
    shown: dict[str, list[Coverage]] = {}
    for one in coverage_accuracy(records):
        strongest = strongest_attack(lines, one.guard, one.threat)
        place = (labels[one.attack_id], one.norm, one.eps)
        if one.threat == CLEAN or (
            strongest is not None and place == (strongest.attack, strongest.norm, strongest.eps)
        ):
            shown.setdefault(one.guard, []).append(one)
    if not shown:
        return None
    panels = bold_panels(
        {
            guard: [
                _curve(one, threats, labels[one.attack_id])
                for one in sorted(its, key=lambda one: -place_of(one.threat, threats))
            ]
            for guard, its in shown.items()
        },
        x={"title": {"text": "coverage, %", "standoff": 4}, **PER_CENT},
        y_title="accuracy, %",
    )
    return Figure(
        identifier="coverage",
        heading="Accuracy against coverage",
        caption="As a guard's threshold moves, the share of images that it accepts (coverage) and "
        "the share of these that it classifies rightly, on clean images and under the attack that "
        "fools it most often at the largest eps. A diamond marks the frozen threshold. A guard "
        "that knows when it is wrong gains accuracy to the left. The attacked images were made for "
        "the frozen threshold: for another one an attacker who knows the guard makes others, so "
        "away from the diamond these curves flatter it.",
        alt="Curves of accuracy over the accepted images against the share that is accepted, for "
        "clean images and for each threat's strongest attack.",
        alternatives={"": arranged(panels, columns=2, height=260, narrow_height=240)},
        rows=[
            {
                "guard": one.guard,
                "threat": one.threat,
                "attack": labels[one.attack_id],
                "norm": one.norm,
                "eps": one.eps,
                "threshold": point.threshold,
                "coverage": point.coverage,
                "accuracy": point.accuracy,
            }
            for its in shown.values()
            for one in its
            for point in one.points
        ],
    )


def place_of(threat: str, threats: Sequence[str]) -> int:
    """Where a threat stands among some; 0 is that of the clean images."""
    return 0 if threat == CLEAN else threats.index(threat) + 1


def _curve(one: Coverage, threats: Sequence[str], attack: str) -> Curve:
    points = [point for point in one.points if point.coverage.count]
    place = place_of(one.threat, threats)
    frozen = min(range(len(points)), key=lambda i: abs(points[i].threshold), default=None)
    return Curve(
        name=one.threat,
        colour=PALETTE[(place - 1) % len(PALETTE)] if place else MUTED,
        symbol="",
        dash=DASHES[place % len(DASHES)],
        x=[100 * point.coverage.value for point in points],
        rates=[point.accuracy for point in points],
        words=[
            f"{one.threat if one.threat == CLEAN else attack}, threshold "
            f"{number(point.threshold)}, coverage {percent(point.coverage.value)}"
            for point in points
        ],
        marked=frozen,
    )
