"""Figures attack by attack, areas over a grid of guards, and histograms about a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from notsure.evaluation import detection, robustness
from notsure.report.by_attack import by_attack_figures
from notsure.report.figures import Figure
from notsure.report.histograms import histogram_figures
from notsure.report.matrices import grid_figures
from notsure.report.tables import attack_labels, detection_table, robustness_table
from tests.records import attacked, clean, synthetic
from tests.report_records import grid_of, made_up

THREE = tuple(("PGD", "linf", eps, {"steps": 40}) for eps in (0.3, 0.1, 0.2))


def lines(figure: Figure, choice: str) -> list[dict[str, Any]]:
    """The lines of an alternative, without the marks of the best eps."""
    data = figure.alternatives[choice]["data"]
    return [trace for trace in data if "lines" in trace["mode"]]


def test_each_attack_has_a_panel_and_each_guard_a_line() -> None:
    records = made_up(attacks=[*THREE, ("FGSM", "linf", 0.3, {})])
    (figure,) = by_attack_figures(records)
    assert list(figure.alternatives) == [
        f"{words}, {threat}"
        for words in (
            "accuracy, rejected counts as safe",
            "accuracy, rejected counts as lost",
            "rejected",
        )
        for threat in ("white-box", "oblivious")
    ]
    found = {(r.guard, r.threat, r.attack, r.eps): r for r in robustness(records)}
    for choice, counted in (
        ("accuracy, rejected counts as lost, oblivious", "strict"),
        ("rejected, white-box", "flagged"),
    ):
        drawn = lines(figure, choice)
        threat = choice.rpartition(", ")[2]
        layout = figure.alternatives[choice]["wide"]
        assert [one["text"] for one in layout["annotations"]] == ["<b>PGD</b>", "<b>FGSM</b>"]
        assert [line["name"] for line in drawn] == ["CE", "RCE", "CE", "RCE"]
        for line, attack in zip(drawn, ("PGD", "PGD", "FGSM", "FGSM"), strict=True):
            eps = [0.1, 0.2, 0.3] if attack == "PGD" else [0.3]
            rows = [found[line["name"], threat, attack, one] for one in eps]
            start = rows[0].clean_accuracy
            if counted == "flagged":
                start = rows[0].clean_rejection
            assert line["x"] == [0.0, *eps]
            # no worst case: every eps by itself
            shown = [start, *(getattr(row, counted) for row in rows)]
            assert line["y"][1:] == [round(100 * rate.value, 2) for rate in shown[1:]]


def test_a_diamond_marks_the_eps_that_serves_the_attacker_best() -> None:
    y = [0] * 4
    records = synthetic(
        clean(y=y),
        attacked("PGD", eps=0.1, y=y, prediction=[1, 0, 0, 0]),
        attacked("PGD", eps=0.2, y=y, prediction=[1, 1, 1, 0]),
        attacked("PGD", eps=0.3, y=y, prediction=[1, 1, 0, 0]),
    )
    (figure,) = by_attack_figures(records)
    assert list(figure.alternatives) == ["accuracy, oblivious"]
    (line,) = lines(figure, "accuracy, oblivious")
    assert line["y"] == [100, 75, 25, 50]
    (mark,) = [
        trace
        for trace in figure.alternatives["accuracy, oblivious"]["data"]
        if trace["mode"] == "markers"
    ]
    assert (mark["x"], mark["y"]) == ([0.2], [25.0])


def test_a_step_size_that_goes_with_eps_makes_no_other_attack() -> None:
    sizes = {0.1: 0.01, 0.2: 0.02, 0.3: 0.03}
    scaled = [("PGD", "linf", eps, {"step_size": size}) for eps, size in sizes.items()]
    records = made_up(attacks=scaled)
    assert set(attack_labels(records).values()) - {"none"} == {"PGD"}
    (figure,) = by_attack_figures(records)
    line = lines(figure, "rejected, oblivious")[0]
    assert line["x"] == [0.0, 0.1, 0.2, 0.3]
    # of two attacks at one eps it tells them apart, as what it is
    apart = made_up(attacks=[*scaled, ("PGD", "linf", 0.1, {"step_size": 0.05})])
    named = {"PGD (step_size = 0.1 eps)", "PGD (step_size = 0.5 eps)"}
    assert set(attack_labels(apart).values()) - {"none"} == named


def test_attacks_without_a_budget_have_no_such_figure() -> None:
    assert by_attack_figures(made_up(attacks=[("DeepFool", None, None, {})])) == []


def test_a_grid_has_the_areas_of_its_detectors() -> None:
    # the grid has a gap, and its guards come in any order
    values = [{"lambda": 10.0, "width": 1.0}, {"lambda": 0.1, "width": 2.0}]
    records = grid_of(values)
    (figure,) = grid_figures(records, robustness_table(records))
    areas = [name for name in figure.alternatives if name.startswith("area under the ROC curve")]
    assert areas == [
        f"area under the ROC curve, KDensity, {threat}, {attack}, ℓ∞ 0.3 (76.5/255)"  # noqa: RUF001
        for threat in ("oblivious", "white-box")
        for attack in ("FGSM", "PGD")
    ]
    choice = next(name for name in areas if "white-box, PGD" in name)
    (drawn,) = figure.alternatives[choice]["data"]
    layout = figure.alternatives[choice]["wide"]
    assert layout["yaxis"]["ticktext"] == ["0.1", "10"]
    assert layout["xaxis"]["ticktext"] == ["1", "2"]
    found = {
        one.guard: one.successful
        for one in detection(records)
        if (one.threat, one.attack, one.eps) == ("white-box", "PGD", 0.3)
    }
    text = [
        ["", f"{found['lambda 0.1, width 2'].value:.3f}"],
        [f"{found['lambda 10, width 1'].value:.3f}", ""],
    ]
    assert drawn["text"] == text


@pytest.mark.parametrize("threshold", [4.5, 4.5 - 1e-9, 3.0])
def test_a_threshold_among_the_clean_scores_has_its_histogram(threshold: float) -> None:
    # as of a guard that rejects half of its clean images
    scores = np.linspace(1.0, 8.0, 41, dtype=np.float32)
    y = [0] * 41
    records = synthetic(
        clean(y=y, score_A=scores),
        attacked("PGD", y=y, prediction=[1] * 41, score_A=scores),
        guards={
            "guard": {
                "detectors": {"A": {}},
                "calibration": {
                    "fpr": 0.5,
                    "measured_fpr": 0.5,
                    "count": 41,
                    "thresholds": {"A": threshold},
                    "scales": {"A": 1.0},
                },
            }
        },
    )
    (figure,) = histogram_figures(records, robustness_table(records), detection_table(records))
    counted = sum(row["clean images"] for row in figure.rows)
    # the axis reaches over all that the clean scores are
    assert counted >= 39
