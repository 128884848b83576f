"""What the report draws, and what it writes beside each figure: numbers, images, CSV."""

from __future__ import annotations

import base64
import re
from typing import Any

import numpy as np
import pytest

from notsure.evaluation.coverage import coverage_accuracy
from notsure.evaluation.distances import accuracy_against_distance
from notsure.evaluation.intervals import area_under_roc, wilson
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import WORST_CASE, robustness
from notsure.evaluation.transferability import transfer_matrix
from notsure.report.accuracy import accuracy_figures, attack_figures
from notsure.report.coverage import coverage_figure
from notsure.report.effort import distance_figures, queries_figure
from notsure.report.figures import Figure, Panel, arranged
from notsure.report.gallery import galleries, gallery_rows, png
from notsure.report.heatmaps import heat_map
from notsure.report.histograms import histogram_figures
from notsure.report.matrices import generalisation_figure, grid_figures, transfer_figure
from notsure.report.split import split_figure
from notsure.report.tables import attack_labels, detection_table, robustness_table
from tests.records import attacked, clean, synthetic
from tests.report_records import EVERY_THREAT, MANY, Attack, grid_of, made_up


@pytest.fixture(scope="module")
def records() -> Records:
    """Every kind of row there is."""
    return made_up(
        {"CE": ["KDensity"], "bare": []},
        threats=EVERY_THREAT,
        attacks=MANY,
        purified=True,
        substitutes=("another seed", "distilled"),
    )


def _lines(figure: Figure, choice: str) -> list[dict[str, Any]]:
    """The traces of an alternative that show numbers, and not the intervals about them."""
    return [
        trace
        for trace in figure.alternatives[choice]["data"]
        if trace["hoverinfo"] != "skip" and trace["x"] != [None]
    ]


def _titles(figure: Figure, choice: str) -> list[str]:
    return [re.sub("<[^>]+>", " ", one["text"]).strip() for one in _notes(figure, choice)]


def _notes(figure: Figure, choice: str) -> list[dict[str, Any]]:
    notes: list[dict[str, Any]] = figure.alternatives[choice]["wide"]["annotations"]
    return notes


def test_all_guards_stand_in_one_plot_for_each_threat(records: Records) -> None:
    compared, single = accuracy_figures(records)
    rows = {
        (row.guard, row.threat, row.eps): row
        for row in robustness(records)
        if row.attack == WORST_CASE
    }
    for choice, rate in zip(compared.alternatives, ("lenient", "strict"), strict=True):
        assert choice.startswith(rate)
        threats = _titles(compared, choice)
        assert threats == list(EVERY_THREAT[::-1])
        lines = _lines(compared, choice)
        assert [line["name"] for line in lines] == ["CE", "bare"] * len(threats)
        assert [line["showlegend"] for line in lines] == [True, True] + [False] * 8
        for line, threat in zip(lines, np.repeat(threats, 2), strict=True):
            assert line["x"] == [0.0, 0.1, 0.3]
            shown = [
                round(100 * getattr(rows[line["name"], threat, e], rate).value, 2)
                for e in (0.1, 0.3)
            ]
            assert line["y"][1:] == shown
        assert len({line["marker"]["symbol"] for line in lines}) == 2
    assert len(_titles(single, "")) == 2 * len(EVERY_THREAT)


def test_one_guard_is_not_compared_with_itself() -> None:
    assert [f.identifier for f in accuracy_figures(made_up({"CE": []}))] == ["accuracy-linf"]


def test_split_adds_up_to_all_images(records: Records) -> None:
    figure = split_figure(records, robustness_table(records))
    assert figure is not None
    parts: dict[tuple[str, str], dict[str, float]] = {}
    for trace in figure.alternatives["ℓ∞"]["data"]:  # noqa: RUF001
        for label, share in zip(trace["y"], trace["x"], strict=True):
            parts.setdefault((trace["xaxis"], label), {})[trace["name"]] = share
    assert len(parts) == 2 * (1 + 2 * len(EVERY_THREAT))
    for shares in parts.values():
        assert sum(shares.values()) == pytest.approx(100, abs=0.02)
    row = next(
        row
        for row in robustness(records)
        if (row.guard, row.threat, row.eps, row.attack) == ("CE", "white-box", 0.1, WORST_CASE)
    )
    assert parts["x", "0.1 white-box"] == {
        "accepted and right": round(100 * row.right.value, 2),
        "accepted and wrong": round(100 * row.wrong.value, 2),
        "rejected": round(100 * row.flagged.value, 2),
    }
    textures = {trace["marker"]["pattern"]["shape"] for trace in figure.alternatives["ℓ∞"]["data"]}  # noqa: RUF001
    assert len(textures) == 3
    for told in figure.rows:
        assert told["right"].count + told["wrong"].count + told["flagged"].count == 60


def test_coverage_marks_the_frozen_threshold(records: Records) -> None:
    figure = coverage_figure(records, robustness_table(records))
    assert figure is not None
    assert _titles(figure, "") == ["CE"]
    known = {
        (one.threat, one.attack, one.eps): one
        for one in coverage_accuracy(records)
        if one.guard == "CE"
    }
    lines = _lines(figure, "")
    assert {line["name"] for line in lines} == {"clean", *EVERY_THREAT}
    marks = [t for t in figure.alternatives[""]["data"] if t["mode"] == "markers"]
    assert len(marks) == len(lines)
    accepted = records.where(guard="CE", threat="clean").column("accepted").astype(bool)
    mark = next(mark for mark in marks if mark["name"] == "clean")
    assert mark["x"] == [pytest.approx(100 * accepted.mean(), abs=0.01)]
    points = [p for p in known["clean", "none", 0.0].points if p.coverage.count]
    line = next(line for line in lines if line["name"] == "clean")
    assert line["y"] == [round(100 * p.accuracy.value, 2) for p in points]
    assert line["x"][-1] == 100


def test_only_guards_that_reject_have_a_coverage() -> None:
    bare = made_up({"bare": []})
    assert coverage_figure(bare, robustness_table(bare)) is None


def test_each_attack_has_its_own_curve(records: Records) -> None:
    (figure,) = attack_figures(records, robustness_table(records))
    assert figure.identifier == "attacks-linf"
    assert list(figure.alternatives) == [
        f"{guard}, {counted}" for guard in ("CE", "bare") for counted in ("lenient", "strict")
    ]
    found = {(r.guard, r.threat, r.attack, r.eps): r for r in robustness(records)}
    lines = _lines(figure, "CE, strict")
    assert _titles(figure, "CE, strict") == list(EVERY_THREAT[::-1])
    names = ["FGSM", "PGD", "RandomNoise"]
    assert [line["name"] for line in lines] == names * len(EVERY_THREAT)
    for line, threat in zip(lines, np.repeat(EVERY_THREAT[::-1], 3), strict=True):
        # of a single eps there is a point, and no line from the clean images
        eps = [0.3] if line["name"] == "RandomNoise" else [0.1, 0.3]
        rows = [found["CE", threat, line["name"], one] for one in eps]
        start = [] if len(eps) == 1 else [rows[0].clean_accuracy]
        assert line["x"] == ([] if len(eps) == 1 else [0.0]) + eps
        shown = [*start, *(row.strict for row in rows)]
        assert line["y"] == [round(100 * rate.value, 2) for rate in shown]
    assert len({line["line"]["color"] for line in lines}) == 3


def test_distance_curves_are_the_metrics(records: Records) -> None:
    by_attack, by_guard = distance_figures(records)
    assert set(by_attack.alternatives) == {"FGSM", "PGD", "RandomNoise", "DeepFool"}
    assert set(by_guard.alternatives) == {"CE", "bare"}
    # one guard's attack has two settings there, which are the threats' doing
    told = accuracy_against_distance(records, points=51, bounded=True)
    # what leaves least comes first
    least = min(told.items(), key=lambda one: one[1][-1].lenient.value)[0]
    assert next(iter(by_attack.alternatives)) == least[2].split(" ")[0]
    found = {(g, t, name.split(" ")[0]): points for (g, t, name), points in told.items()}
    for figure, choice in ((by_attack, "DeepFool"), (by_attack, "PGD"), (by_guard, "bare")):
        lines = _lines(figure, choice)
        titles = _titles(figure, choice)
        names = list(by_attack.alternatives) if figure is by_guard else ["CE", "bare"]
        assert [line["name"] for line in lines] == names * len(titles)
        for line, threat in zip(lines, np.repeat(titles, len(names)), strict=True):
            guard, attack = (choice, line["name"]) if figure is by_guard else (line["name"], choice)
            points = found[guard, threat, attack]
            assert line["y"] == [round(100 * point.lenient.value, 2) for point in points]
            assert line["x"] == pytest.approx([point.distance for point in points], rel=1e-5)


def test_queries_are_of_the_query_threats_alone(records: Records) -> None:
    figure = queries_figure(records)
    assert figure is not None
    assert {row["threat"] for row in figure.rows} == {"query-scores", "query-decisions"}
    choice = next(iter(figure.alternatives))
    assert _titles(figure, choice) == ["query-decisions", "query-scores"]
    assert queries_figure(made_up({"CE": []})) is None


def test_transfer_matrix_is_drawn_by_substitute(records: Records) -> None:
    figure = transfer_figure(records)
    assert figure is not None
    cells = {(c.attack, c.eps, c.substitute, c.guard): c for c in transfer_matrix(records)}
    choice = next(name for name in figure.alternatives if name.startswith("PGD, ℓ∞ 0.3"))  # noqa: RUF001
    fooled, flagged = figure.alternatives[choice]["data"]
    layout = figure.alternatives[choice]["wide"]
    down, across = layout["yaxis"]["ticktext"], layout["xaxis"]["ticktext"]
    assert set(down) == {"itself", "another seed", "distilled"}
    assert across == ["CE", "bare"]
    for i, substitute in enumerate(down):
        for j, guard in enumerate(across):
            cell = cells["PGD", 0.3, substitute, guard]
            assert fooled["z"][i][j] == round(100 * cell.success.value, 2)
            assert flagged["text"][i][j] == f"{100 * cell.flagged.value:.1f}"
    assert transfer_figure(made_up({"CE": []})) is None


def test_generalisation_is_a_matrix_of_attacks(records: Records) -> None:
    figure = generalisation_figure(records)
    assert figure is not None
    (drawn,) = figure.alternatives[""]["data"]
    # noise is not an attack to learn from
    assert drawn["text"] == [
        [f"{row['area'].value:.3f}" for row in figure.rows[start : start + 3]]
        for start in (0, 3, 6)
    ]
    assert figure.alternatives[""]["wide"]["xaxis"]["ticktext"] == ["FGSM", "PGD", "DeepFool"]
    assert generalisation_figure(made_up({"bare": []})) is None


def test_grid_of_two_parameters() -> None:
    values = [{"lambda": a, "width": b} for a in (10.0, 0.1) for b in (1.0, 2.0)][:3]
    records = grid_of(values)
    (figure,) = grid_figures(records, robustness_table(records))
    choice = next(
        name for name in figure.alternatives if name.startswith("robust accuracy, strict")
    )
    (drawn,) = figure.alternatives[choice]["data"]
    layout = figure.alternatives[choice]["wide"]
    assert layout["yaxis"]["ticktext"] == ["0.1", "10"]
    assert layout["xaxis"]["ticktext"] == ["1", "2"]
    # the fourth guard is missing
    assert drawn["z"][0][1] is None
    assert drawn["text"][0][1] == ""
    row = next(
        row
        for row in robustness(records)
        if (row.guard, row.threat, row.eps, row.attack)
        == ("lambda 10, width 2", "white-box", 0.3, WORST_CASE)
    )
    assert drawn["z"][1][1] == round(100 * row.strict.value, 2)


def test_grid_of_one_parameter_stands_against_eps() -> None:
    records = grid_of([{"lambda": value} for value in (10.0, 0.1)])
    (figure,) = grid_figures(records, robustness_table(records))
    layout = figure.alternatives["robust accuracy, lenient, white-box, ℓ∞"]["wide"]  # noqa: RUF001
    assert layout["yaxis"]["ticktext"] == ["0.1", "10"]
    assert layout["xaxis"]["ticktext"] == ["clean", "eps 0.1", "eps 0.3"]


@pytest.mark.parametrize("told", [{}, {"parameters": {"kind": "A"}}, {"parameters": {"a": 1.0}}])
def test_no_grid_without_numbers_that_differ(told: dict[str, Any]) -> None:
    records = made_up({"A": [], "B": []}, told={"A": told, "B": told})
    assert grid_figures(records, robustness_table(records)) == []


def test_missing_cells_stay_empty() -> None:
    cells = {("a", "b"): None, ("a", "c"): wilson(0, 0), ("d", "b"): area_under_roc([1], [2])}
    (drawn,) = heat_map({"": cells}, down="x", across="y")["data"]
    assert drawn["z"] == [[None, None], [100.0, None]]
    assert drawn["text"] == [["", ""], ["1.000", ""]]


def test_histograms_count_every_image(records: Records) -> None:
    lines, detections = robustness_table(records), detection_table(records)
    (figure,) = histogram_figures(records, lines, detections)
    rows = [
        row
        for row in figure.rows
        if (row["attack"], row["eps"], row["threat"]) == ("PGD", 0.3, "white-box")
    ]
    scores = records.where(guard="CE", threat="clean").column("score_KDensity")
    inside = (scores >= rows[0]["from"]) & (scores < rows[-1]["to"])
    assert sum(row["clean images"] for row in rows) == inside.sum()
    for row in rows:
        its = (scores.astype(float) >= row["from"]) & (scores.astype(float) < row["to"])
        assert row["clean images"] == its.sum()


def test_histograms_of_noise_show_every_noisy_image(records: Records) -> None:
    (figure,) = histogram_figures(records, robustness_table(records), detection_table(records))
    rows = [
        row for row in figure.rows if (row["attack"], row["threat"]) == ("RandomNoise", "oblivious")
    ]
    noisy = records.where(guard="CE", threat="oblivious", attack="RandomNoise")
    scores = noisy.column("score_KDensity").astype(float)
    inside = (scores >= rows[0]["from"]) & (scores < rows[-1]["to"])
    assert sum(row["adversarial images"] for row in rows) == inside.sum()
    right = noisy.column("clean_prediction") == noisy.column("y")
    wrong = noisy.column("prediction") != noisy.column("y")
    assert inside.sum() > (inside & right & wrong).sum()
    (row,) = {
        one.by_threat["oblivious"].everything
        for one in detection_table(records)
        if one.noise and not one.control
    }
    choice = next(name for name in figure.alternatives if name.startswith("RandomNoise"))
    assert any(f"{row.value:.3f}" in title for title in _titles(figure, choice))


def test_gaps_keep_the_columns_of_a_wide_page_alone() -> None:
    panels = [Panel(title=f"{i}", traces=[], x={}, y={}) for i in range(3)]
    drawn = arranged([panels[0], None, panels[1], panels[2]], columns=2, height=99, narrow_height=9)
    wide, narrow = drawn["wide"], drawn["narrow"]
    assert wide["xaxis"]["domain"] == wide["xaxis3"]["domain"]
    assert wide["xaxis4"]["domain"][0] > 0.5
    assert "xaxis2" not in wide
    assert [narrow[name]["domain"][1] for name in ("yaxis", "yaxis3", "yaxis4")] == pytest.approx(
        [1.0, 0.6, 0.2], abs=0.15
    )
    assert [one["text"] for one in wide["annotations"]] == ["0", "1", "2"]


def test_galleries_show_what_the_purifier_makes(records: Records) -> None:
    first, *_ = galleries(records, robustness_table(records))
    assert first.purified
    for one in first.examples:
        for answer in (one.clean, *one.by_threat.values()):
            assert answer is not None
            assert answer.purified
            assert answer.purified != answer.picture
    assert len(gallery_rows(first)) == 3 * (1 + len(EVERY_THREAT))
    plain, *_ = galleries(made_up(), robustness_table(made_up()))
    assert not plain.purified
    kept = records.where(guard="CE", threat="clean", index=0).table["image"].to_pylist()[0]
    pixels = np.round(255 * np.asarray(kept, float)).astype(np.uint8).reshape(4, 4)
    picture = next(one for one in first.examples if one.index == 0).clean.picture
    assert base64.b64decode(picture.partition(",")[2]) == png(pixels)


def test_labels_leave_out_what_the_threat_changes() -> None:
    records = synthetic(
        clean(y=[0, 1]),
        attacked("PGD", settings={"steps": 40, "early_stop": False}),
        attacked("PGD", threat="white-box", settings={"steps": 40, "gradient": {"name": "EOT"}}),
        attacked("FGSM", settings={"steps": 1}),
        attacked("FGSM", settings={"steps": 2}),
    )
    labels = attack_labels(records)
    assert sorted(label for key, label in labels.items() if key is not None) == [
        "FGSM (steps = 1)",
        "FGSM (steps = 2)",
        "PGD",
        "PGD",
    ]


def test_several_settings_of_minimum_norm_attacks_are_told_apart() -> None:
    attacks: list[Attack] = [("DDN", None, None, {"steps": n}) for n in (10, 20)]
    figure, _ = distance_figures(made_up({"CE": []}, attacks=attacks))
    assert set(figure.alternatives) == {"DDN (steps = 10)", "DDN (steps = 20)"}


def test_histograms_of_several_substitutes_show_what_their_area_is_of() -> None:
    y = [0, 0, 1, 1]
    records = synthetic(
        clean(y=y, score_A=[0.0, 0.1, 0.2, 0.3]),
        attacked("PGD", prediction=1, threat="transfer", substitute="a", score_A=[3.0, 3, 3, 3]),
        attacked(
            "PGD",
            prediction=[1, 0, 0, 0],
            threat="transfer",
            substitute="b",
            score_A=[1.0, 1.1, 1.2, 1.3],
        ),
    )
    detections = detection_table(records)
    (figure,) = histogram_figures(records, robustness_table(records), detections)
    # of the second image only the first substitute's version is misclassified
    low = [row["adversarial images"] for row in figure.rows if row["from"] < 2]
    assert sum(low) == 3
    assert sum(row["adversarial images"] for row in figure.rows) <= 4
    assert detections[0].by_threat["transfer"].successful.positives == 4
