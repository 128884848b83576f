"""Ours against published figures: verdicts by exact arithmetic, answers by closed forms."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notsure.core.errors import ConfigurationError
from notsure.evaluation import Area, area_under_roc, detection, minimal_distortions, robustness
from notsure.evaluation.intervals import wilson
from notsure.studies.cells import Cell, published
from notsure.studies.verdicts import (
    BETTER,
    NOT_COMPARABLE,
    WITHIN,
    WORSE,
    Answer,
    answer_area,
    answer_mean,
    answer_rate,
    compare,
    only,
)
from tests.records import attacked, clean, random_records, synthetic

ERROR = "pang.t1.mnist.resnet32.ce.clean.error_rate"
CAUGHT = "pang.t2.mnist.resnet32.ce.cw.kdensity.auc"
FAR = "pang.t3.mnist.resnet32.ce.cw_wb.kdensity.distortion"
WESTER = "wester.t3.mnist.puvae_detector.fgsm.accuracy"


def cell(**columns: Any) -> Cell:
    """A figure of 50 percent, printed as 50.0."""
    given = {"metric": "accuracy", "unit": "percent", "printed": "50.0", "note": "", **columns}
    rest = dict.fromkeys(field.name for field in dataclasses.fields(Cell))
    plain = {"cell_id": "made.up", "paper": "pang", "table": "t1", "threat": "clean"}
    return Cell(**{**rest, **plain, **given, "value": float(given["printed"])})


def answer(value: float, half: float = 0.0, **settings: Any) -> Answer:
    given = {"value": value, "low": value - half, "high": value + half, "n": 100, "scale": "cpu"}
    return Answer(**{**given, **settings})


def verdict(of: Cell, value: float, half: float = 0.0, **settings: Any) -> str:
    return compare(of, answer(value, half, **settings))[0]


# verdicts


def test_verdicts_at_the_edge() -> None:
    # 50.0 +- 0.05 of rounding and 1 point
    for metric, above, below in (("accuracy", BETTER, WORSE), ("error_rate", WORSE, BETTER)):
        of = cell(metric=metric)
        assert verdict(of, 51.05) == verdict(of, 48.95) == WITHIN
        assert verdict(of, 51.06) == above
        assert verdict(of, 48.94) == below
        assert verdict(of, 53.0, half=1.95) == WITHIN
        assert verdict(of, 53.0, half=1.94) == above
    area = cell(metric="auc", unit="auc_1e-2")
    assert verdict(area, 52.05) == WITHIN
    assert verdict(area, 52.06) == BETTER
    far = cell(metric="mean_min_distortion", unit="l2_rms_255")
    assert verdict(far, 50.06) == BETTER
    assert verdict(far, 49.94) == WORSE
    assert compare(cell(), answer(53.0)) == (
        BETTER,
        "above it by more than 1.05 beyond our interval; higher is better",
    )


def test_rounding_does_not_decide_at_the_edge() -> None:
    for tenths in range(0, 1000, 7):
        of = cell(printed=f"{tenths / 10:.1f}")
        assert verdict(of, (10 * tenths + 105) / 100) == WITHIN
        assert verdict(of, (10 * tenths - 105) / 100) == WITHIN


def test_settings_have_no_better_side() -> None:
    params = cell(metric="parameter_count", unit="params", printed="62006")
    assert verdict(params, 62006) == WITHIN
    assert verdict(params, 62007) == verdict(params, 62005) == WORSE


def test_reconstructions_of_adversarial_images_are_better_if_bad() -> None:
    error = {"metric": "mean_rmse_best_reconstruction", "unit": "rmse", "printed": "0.10"}
    assert verdict(cell(**error), 0.2) == WORSE
    assert verdict(cell(**error, threat="white-box"), 0.2) == BETTER


def test_a_bound_is_reached_anywhere_within() -> None:
    most = published()["pang.text.mnist.resnet56.cw_wb_from_resnet32.misclassified.max"]
    assert verdict(most, 3.0) == verdict(most, 51.5) == WITHIN
    assert verdict(most, 51.6) == WORSE
    least = published()["pang.text.mnist.resnet56.cw_wb_from_resnet32.kdensity.auc.min"]
    assert verdict(least, 99.0) == verdict(least, 92.5) == WITHIN
    assert verdict(least, 92.4) == WORSE


def test_what_is_of_another_kind_is_not_compared() -> None:
    of = cell()
    assert compare(of, answer(50, scale="smoke")) == (NOT_COMPARABLE, "measured at smoke scale")
    assert compare(of, answer(50, differs="another data set")) == (
        NOT_COMPARABLE,
        "another data set",
    )
    nothing = Answer(value=math.nan, low=math.nan, high=math.nan, n=0, scale="cpu")
    found = "nothing to measure on, n = 0"
    assert compare(of, nothing) == (NOT_COMPARABLE, f"{found}, waits for paper scale")
    assert compare(of, dataclasses.replace(nothing, scale="paper")) == (NOT_COMPARABLE, found)
    both = compare(cell(note="eps not printed"), answer(50, scale="smoke"))
    assert both == (NOT_COMPARABLE, "the report prints no eps; measured at smoke scale")


hundredths = st.integers(0, 10_000)
shares = st.sampled_from([("accuracy", "percent"), ("error_rate", "percent"), ("auc", "auc_1e-2")])


@settings(max_examples=200, deadline=None)
@given(hundredths, st.integers(0, 2), hundredths, hundredths, hundredths, shares)
def test_verdicts_by_exact_arithmetic(
    figure: int, digits: int, a: int, b: int, c: int, share: tuple[str, str]
) -> None:
    """The interval is covered or not by fractions, without any rounding."""
    metric, unit = share
    printed = f"{figure / 100:.{digits}f}"
    of = cell(metric=metric, unit=unit, printed=printed)
    low, value, high = sorted([a, b, c])
    ours = Answer(value=value / 100, low=low / 100, high=high / 100, n=9, scale="paper")
    margin = Fraction(1, 2 * 10**digits) + (2 if metric == "auc" else 1)
    published_value = Fraction(printed)
    if published_value < Fraction(low, 100) - margin:
        expected = WORSE if metric == "error_rate" else BETTER
    elif published_value > Fraction(high, 100) + margin:
        expected = BETTER if metric == "error_rate" else WORSE
    else:
        expected = WITHIN
    assert compare(of, ours)[0] == expected


finite = st.floats(0, 100, allow_nan=False)
comparable = st.sampled_from([c for c in published() if not c.obstacles])


@settings(max_examples=200, deadline=None)
@given(comparable, finite, finite, finite)
def test_what_a_verdict_cannot_do(of: Cell, value: float, half: float, more: float) -> None:
    narrow, wide = verdict(of, value, half), verdict(of, value, half + more)
    # a wider interval may come to cover the figure, and never turns one side into the other
    assert wide in {narrow, WITHIN}
    assert verdict(of, value, half, scale="paper") == narrow
    assert verdict(of, value, half, scale="smoke") == NOT_COMPARABLE
    # the published figure itself is always within
    assert verdict(of, of.value, half) == WITHIN
    mirrored = {"higher": "lower", "lower": "higher"}.get(of.better)
    if mirrored and of.whole and of.range == (of.value, of.value):
        name = "accuracy" if mirrored == "higher" else "error_rate"
        if of.metric != "auc":
            opposite = {BETTER: WORSE, WORSE: BETTER, WITHIN: WITHIN}[narrow]
            assert verdict(dataclasses.replace(of, metric=name), value, half) == opposite


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(1, 300))
def test_an_error_rate_is_judged_as_the_accuracy_it_comes_from(wrong: int, n: int) -> None:
    error, right = cell(metric="error_rate", printed="30.0"), cell(printed="70.0")
    rate = wilson(n - min(wrong, n), n)
    from_rate = answer_rate(error, rate, scale="cpu", complement=True)
    direct = answer_rate(error, wilson(min(wrong, n), n), scale="cpu")
    assert (from_rate.value, from_rate.low, from_rate.high) == pytest.approx(
        (direct.value, direct.low, direct.high), abs=1e-9
    )
    expected = compare(right, answer_rate(right, rate, scale="cpu"))[0]
    assert compare(error, from_rate)[0] == expected


# answers


def test_a_rate_answers_in_the_cells_unit() -> None:
    rate = wilson(9, 10)
    percent = answer_rate(published()[WESTER], rate, scale="cpu", why="seed 0")
    assert (percent.value, percent.low, percent.high) == pytest.approx((90, 59.58, 98.21), abs=0.01)
    assert (percent.n, percent.scale, percent.why) == (10, "cpu", "seed 0")
    ratio = published()["pang.t3.mnist.resnet32.ce.cw_wb.kdensity.f2_ratio"]
    assert answer_rate(ratio, rate, scale="cpu").value == 0.9
    assert answer_rate(published()[ERROR], wilson(0, 0), scale="cpu", complement=True).n == 0


def test_answers_of_the_wrong_kind() -> None:
    rate, area = wilson(9, 10), area_under_roc([0, 1], [2, 3])
    for cell_id in (CAUGHT, FAR):
        with pytest.raises(ConfigurationError, match="not a share of images"):
            answer_rate(published()[cell_id], rate, scale="cpu")
    for cell_id in (WESTER, FAR):
        with pytest.raises(ConfigurationError, match="not an area under the ROC curve"):
            answer_area(published()[cell_id], area, scale="cpu")
    with pytest.raises(ConfigurationError, match="smoke, cpu, paper"):
        answer_area(published()[CAUGHT], area, scale="gpu")
    with pytest.raises(ConfigurationError, match="lies within its interval"):
        answer(0.98, low=97, high=99)
    with pytest.raises(ConfigurationError, match="finite interval"):
        answer(math.nan)
    with pytest.raises(ConfigurationError, match="finite interval"):
        answer(1, high=math.inf)
    with pytest.raises(ConfigurationError, match="cannot be negative"):
        answer(1, n=-1)


def test_an_area_answers_with_the_adversarial_images_as_n() -> None:
    area = Area(value=0.75, low=0.5, high=0.875, positives=3, negatives=2)
    found = answer_area(published()[CAUGHT], area, scale="paper")
    assert (found.value, found.low, found.high, found.n) == (75, 50, 87.5, 3)
    nothing = area_under_roc([], [1, 2])
    assert answer_area(published()[CAUGHT], nothing, scale="paper").n == 0


def test_a_mean_has_students_interval() -> None:
    found = answer_mean(published()[FAR], [1.0, 2.0, 3.0, 6.0], scale="cpu")
    # 3 degrees of freedom: 3.18245; the standard deviation is the root of 14 / 3
    half = 3.182446305 * math.sqrt(14 / 3) / 2
    assert (found.value, found.n) == (3.0, 4)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-8)
    many = np.random.default_rng(0).normal(size=10_000)
    wide = answer_mean(published()[FAR], many, scale="cpu")
    assert (wide.high - wide.low) / 2 == pytest.approx(1.96 * many.std() / 100, rel=1e-3)
    assert answer_mean(published()[FAR], [], scale="cpu").n == 0
    for values, message in (
        ([1.0], "has no interval"),
        ([1.0, math.nan], "1 of 2 values"),
        ([[1.0, 2.0]], r"\(n,\)"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            answer_mean(published()[FAR], values, scale="cpu")


def test_answers_from_records() -> None:
    near = [0.5, 1.5, 0, 0]
    records = synthetic(
        clean(y=[0] * 4, prediction=[0, 0, 0, 1], score_A=[0.0, 1.0, 2.0, 3.0]),
        attacked("PGD", prediction=[1, 1, 0, 1], score_A=[0.5, 2.5, 9, 9]),
        attacked("CarliniWagner", norm=None, prediction=[1, 1, 0, 1], l2=near, score_A=0.0),
    )
    row = only(robustness(records), attack="PGD", threat="oblivious", eps=0.1)
    assert answer_rate(cell(), row.strict, scale="cpu").value == 25
    error = cell(metric="error_rate")
    assert answer_rate(error, row.clean_accuracy, scale="cpu", complement=True).value == 25
    seen = only(detection(records), attack="PGD", detector="A")
    assert answer_area(published()[CAUGHT], seen.successful, scale="cpu").value == 75
    far = records.where(attack="CarliniWagner", clean_accepted=True)
    fooled = (far.column("prediction") != far.column("y")) & (
        far.column("clean_prediction") == far.column("y")
    )
    values = far.column("l2")[fooled].astype(float) * 255 / math.sqrt(16)
    expected = only(minimal_distortions(records), attack="CarliniWagner").root_mean_square
    found = answer_mean(published()[FAR], values, scale="cpu")
    assert found.value == pytest.approx(expected)
    assert found.value == pytest.approx(63.75)
    assert found.n == 2


def test_one_row_is_looked_for() -> None:
    rows = robustness(random_records(count=20))
    with pytest.raises(ConfigurationError, match=r"0 of .* attack='BIM'.*'FGSM', 'PGD'"):
        only(rows, attack="BIM")
    with pytest.raises(ConfigurationError, match=r"4 of .* rows have attack='PGD'"):
        only(rows, attack="PGD")
