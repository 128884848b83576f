"""The figures of a paper: what their lines and bars stand at, and that they can be told apart."""

from __future__ import annotations

import re
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from notsure.evaluation.intervals import area_under_roc
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import accuracy_against_eps
from notsure.report.contents import document_of
from notsure.report.document import Document
from notsure.report.plots import as_pdf as plot_as_pdf
from notsure.report.score_plots import roc_points
from tests.records import attacked, clean, random_records, synthetic


@pytest.fixture(scope="module")
def records() -> Records:
    return random_records({"CE": ["A", "B"], "RCE": ["A"]}, count=80)


@pytest.fixture(scope="module")
def document(records: Records) -> Document:
    return document_of(records)


def values(data: Any) -> list[float]:
    return [float(value) for value in np.asarray(data)]


def plot(document: Document, identifier: str) -> Drawing:
    [found] = [one for one in document.plots if one.identifier == identifier]
    return found.draw()


def test_accuracy_figure_shows_the_worst_case(records: Records, document: Document) -> None:
    drawing = plot(document, "accuracy-linf")
    curves = accuracy_against_eps(records)
    titles = [ax.get_title(loc="left") for ax in drawing.axes]
    assert titles == [
        f"{threat}, {kind}"
        for threat in ("oblivious", "white-box")
        for kind in ("lenient", "strict")
    ]
    for ax, title in zip(drawing.axes, titles, strict=True):
        threat, kind = title.split(", ")
        for guard, line in zip(records.guards, ax.lines, strict=True):
            rows = curves[guard, threat, "linf"]
            assert values(line.get_xdata()) == pytest.approx([row.eps for row in rows])
            expected = [100 * getattr(row, kind).value for row in rows]
            assert values(line.get_ydata()) == pytest.approx(expected)


def test_lines_differ_in_more_than_colour() -> None:
    guards = [f"guard {i}" for i in range(6)] + ["_hidden", "$a$b"]
    whole = document_of(random_records({name: [] for name in guards}, threats=("white-box",)))
    drawing = plot(whole, "accuracy-linf")
    [legend] = drawing.legends
    assert [text.get_text().strip().replace(r"\$", "$") for text in legend.get_texts()] == guards
    [ax] = drawing.axes
    assert len({(line.get_marker(), str(line.get_linestyle())) for line in ax.lines}) == 8
    assert len({line.get_color() for line in ax.lines[:7]}) == 7
    assert len(plot_as_pdf(whole.plots[0])) > 1000, "names are no formulas"


def test_roc_curve_has_the_area_that_the_table_says() -> None:
    chance = np.random.default_rng(0)
    negatives, positives = chance.integers(0, 9, 50) / 4, chance.integers(3, 12, 40) / 4
    false, true = roc_points(negatives, positives)
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    assert area == pytest.approx(area_under_roc(negatives, positives).value)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    negatives, positives = chance.normal(0, 1, 5000), chance.normal(1, 1, 5000)
    false, true = roc_points(negatives, positives)
    assert len(false) <= 501
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    assert area == pytest.approx(area_under_roc(negatives, positives).value, abs=1e-3)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_histograms_hold_all_images(records: Records, document: Document) -> None:
    drawing = plot(document, "scores-1")
    titles = [ax.get_title(loc="left") for ax in drawing.axes]
    assert titles == [
        f"{detector}\n{threat}, threshold 2"
        for detector in "AB"
        for threat in ("oblivious", "white-box")
    ]
    for ax in drawing.axes:
        for patch in ax.patches:
            values = patch.get_data().values  # type: ignore[attr-defined]
            assert float(np.sum(values)) == pytest.approx(100)
        [threshold] = ax.lines
        assert list(threshold.get_xdata()) == [2.0, 2.0]  # type: ignore[arg-type]


def test_coverage_figure_ends_at_the_accuracy_without_rejection(
    records: Records, document: Document
) -> None:
    drawing = plot(document, "coverage")
    own = records.where(guard="CE", threat="clean")
    right = 100 * np.mean(own.column("prediction") == own.column("y"))
    line = drawing.axes[0].lines[0]
    assert np.asarray(line.get_xdata())[-1] == 100
    assert np.asarray(line.get_ydata())[-1] == pytest.approx(right)


def test_figures_leave_no_settings_behind(document: Document) -> None:
    before = dict(mpl.rcParams)
    plot_as_pdf(document.plots[0])
    assert dict(mpl.rcParams) == before


def test_plots_are_named_for_files(document: Document) -> None:
    names = [one.identifier for one in document.plots]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


def test_curves_of_attacks_without_a_budget_and_of_queries() -> None:
    found = document_of(
        synthetic(
            clean(y=[0, 1, 0, 1]),
            attacked("DeepFool", norm=None, prediction=[1, 0, 1, 1], l2=[0.5, 1.0, 2.0, 0.0]),
            attacked(
                "Square", threat="query-scores", prediction=[1, 0, 0, 1], queries=[5, 50, 99, 99]
            ),
        )
    )
    distance = plot(found, "distance").axes[0].lines[0]
    assert values(distance.get_xdata()) == pytest.approx([0, 0.5, 1, 2])
    assert values(distance.get_ydata()) == pytest.approx([100, 75, 50, 25])
    success = plot(found, "queries").axes[0].lines[0]
    at, share = np.asarray(success.get_xdata()), np.asarray(success.get_ydata())
    assert share[at < 5].max() == 0
    assert set(share[(at >= 5) & (at < 50)]) == {25}
    assert set(share[at >= 50]) == {50}


def test_many_panels_are_set_on_several_figures() -> None:
    attacks = [(f"Attack{i}", None, None) for i in range(17)]
    many = random_records({"CE": []}, threats=("white-box",), attacks=attacks, count=10)
    parts = [one for one in document_of(many).plots if one.identifier.startswith("distance")]
    assert [one.identifier for one in parts] == ["distance", "distance-2"]
    assert [len(one.draw().axes) for one in parts] == [15, 2]
    assert parts[1].caption.endswith("(2 of 2)")
