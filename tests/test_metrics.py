"""Figures from records: rates, areas, robustness; and what must not change any figure."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import notsure as ns
from notsure.attacks import FGSM, PGD
from notsure.core.errors import ConfigurationError
from notsure.evaluation import (
    WORST_CASE,
    Records,
    RobustnessRow,
    accuracy_against_distance,
    accuracy_against_eps,
    area_under_roc,
    costs,
    coverage_accuracy,
    detection,
    false_positive_rate_at,
    generalisation,
    minimal_distortions,
    robustness,
    success_against_queries,
    transfer_matrix,
    wilson,
)
from tests.conftest import Digits
from tests.records import INCLUDES, Rows, attacked, clean, random_records, synthetic

EPS = (0.1, 0.25)
MIXED = (
    ("FGSM", "linf", 0.1),
    ("PGD", "linf", 0.1),
    ("PGD", "linf", 0.3),
    ("PGD", "l2", 0.5),
    ("PGD", "l1", 2.0),
    ("DeepFool", None, None),
)

Row = Mapping[str, Any]


def mixed(seed: int = 0, **settings: Any) -> Records:
    """Attacks with and without budgets, in three norms, under three threats, on two guards."""
    return random_records(
        {"one": ["A", "B"], "two": []},
        threats=("oblivious", "white-box", "query-scores"),
        attacks=MIXED,
        count=40,
        fooled=0.25,
        seed=seed,
        **settings,
    )


def fooled(row: Row) -> bool:
    return bool(row["accepted"] and row["prediction"] != row["y"])


def measured(records: Records) -> list[Any]:
    """All the figures there are."""
    return [
        robustness(records),
        accuracy_against_eps(records),
        detection(records),
        generalisation(records),
        coverage_accuracy(records),
        minimal_distortions(records),
        accuracy_against_distance(records),
        costs(records),
        success_against_queries(records),
        transfer_matrix(records),
    ]


def by_key(rows: Sequence[RobustnessRow]) -> dict[tuple[Any, ...], RobustnessRow]:
    """The rows by guard, threat, attack, norm and eps."""
    found = {(row.guard, row.threat, row.attack, row.norm, row.eps): row for row in rows}
    assert len(found) == len(rows)
    return found


# rates, areas


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_intervals(n: int, share: float) -> None:
    count = round(share * n)
    rate = wilson(count, n)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    # its ends are where a normal test of the rate just fails
    for end in (rate.low, rate.high):
        if 0 < end < 1:
            z = (rate.value - end) / math.sqrt(end * (1 - end) / n)
            assert abs(z) == pytest.approx(1.959964, abs=1e-4)


def test_rates_of_nothing_and_of_nonsense() -> None:
    assert math.isnan(wilson(0, 0).value)
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    with pytest.raises(ConfigurationError, match="of 3"):
        wilson(4, 3)


def test_areas() -> None:
    assert area_under_roc([0, 1, 2], [3, 4]).value == 1
    assert area_under_roc([3, 4], [0, 1, 2]).value == 0
    assert area_under_roc([1, 1], [1, 1]).value == 0.5
    assert math.isnan(area_under_roc([], [1.0]).value)
    generator = np.random.default_rng(0)
    area = area_under_roc(generator.normal(0, 1, 400), generator.normal(1, 1, 300))
    assert area.low < 0.760 < area.high  # Phi(1 / sqrt 2)
    assert area.high - area.low == pytest.approx(4 * 0.018, abs=0.01)
    # each end is an area from which the value is 1.96 of the end's own standard deviations away
    for end in (area.low, area.high):
        spread = 1 + 349 * ((1 - end) / (2 - end) + end / (1 + end))
        deviation = math.sqrt(end * (1 - end) * spread / (400 * 300))
        assert abs(area.value - end) == pytest.approx(1.959964 * deviation, rel=1e-5)
    with pytest.raises(ConfigurationError, match="1 of 2 scores are NaN"):
        area_under_roc([0.0, math.nan], [1.0])


scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (5, 40), (69, 69), (454, 454)])
def test_a_perfect_order_is_no_certainty(positives: int, negatives: int) -> None:
    """The interval ends where the observed area is 1.96 of its standard deviations away."""
    area = area_under_roc(np.zeros(negatives), np.ones(positives))
    assert (area.value, area.high) == (1.0, 1.0)
    mean = (positives + negatives) / 2 - 1
    low = area.low
    variance = low * (1 - low) * (1 + mean * ((1 - low) / (2 - low) + low / (1 + low)))
    deviation = math.sqrt(variance / (positives * negatives))
    assert 1 - low == pytest.approx(1.959964 * deviation, rel=1e-5)
    turned = area_under_roc(np.ones(negatives), np.zeros(positives))
    assert turned.low == 0.0
    assert turned.high == pytest.approx(1 - low)


@settings(max_examples=60, deadline=None)
@given(one=scores, other=scores)
def test_areas_of_swapped_sets_add_up_to_one(one: list[float], other: list[float]) -> None:
    area, swapped = area_under_roc(one, other), area_under_roc(other, one)
    assert area.value == pytest.approx(1 - swapped.value)
    # only the order of the scores counts
    assert area_under_roc(np.exp(one), np.exp(other)) == area


@settings(max_examples=60, deadline=None)
@given(normal=scores, attacked=scores, tpr=st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]))
def test_false_positives_at_a_rate_of_true_ones(
    normal: list[float], attacked: list[float], tpr: float
) -> None:
    rate = false_positive_rate_at(normal, attacked, tpr)
    enough = [t for t in attacked if sum(s >= t for s in attacked) >= tpr * len(attacked)]
    assert rate.count == sum(score >= max(enough) for score in normal)
    assert rate.n == len(normal)


def test_false_positives_of_nothing_and_of_nonsense() -> None:
    assert false_positive_rate_at([0.0], []).n == 0
    # 19 of 20 lie above 0, so that 0.5 is let through
    assert false_positive_rate_at([0.0, 0.5, 2.0], [-1.0, *[1.0] * 19]).count == 1
    with pytest.raises(ConfigurationError, match="share in"):
        false_positive_rate_at([0.0], [1.0], tpr=95)


# robustness


def test_right_wrong_and_flagged() -> None:
    records = synthetic(
        clean(y=[0, 0, 0, 0], prediction=[0, 0, 0, 1], accepted=[1, 1, 0, 1], score_A=0.0),
        attacked("PGD", prediction=[1, 1, 0, 1], accepted=[1, 0, 1, 1], score_A=0.0),
        attacked("FGSM", prediction=[0, 1, 0, 1], accepted=[0, 1, 1, 0], score_A=0.0),
    )
    found = by_key(robustness(records))
    pgd = found["guard", "oblivious", "PGD", "linf", 0.1]
    assert (pgd.right.count, pgd.wrong.count, pgd.flagged.count) == (1, 2, 1)
    assert (pgd.lenient.count, pgd.strict.count) == (2, 1)
    # an image that was rejected or wrong when clean is no success
    assert (pgd.success.count, pgd.success.n) == (1, 2)
    assert (pgd.clean_accuracy.count, pgd.clean_rejection.count) == (2, 1)
    worst = found["guard", "oblivious", WORST_CASE, "linf", 0.1]
    # 0 by PGD, 1 by FGSM, 3 as it is; 2 is rejected when clean
    assert (worst.right.count, worst.wrong.count, worst.flagged.count) == (0, 3, 1)
    assert {rate.n for rate in (worst.right, worst.wrong, worst.flagged)} == {4}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_robustness_against_a_slow_reference(seed: int) -> None:
    records = mixed(seed)
    rows = records.table.to_pylist()
    found = robustness(records)
    assert len(found) == 2 * 3 * (len(MIXED) + 4)
    for row in found:
        own = [r for r in rows if r["guard"] == row.guard]
        able = {row.threat, *INCLUDES[row.threat]}
        limit = (row.eps or 0.0) * (1 + 1e-5) + 1e-6
        right = wrong = success = 0
        before = 0
        for i in range(40):
            of_image = [r for r in own if r["index"] == i]
            first = next(r for r in of_image if r["threat"] == "clean")
            if row.attack == WORST_CASE:
                of_image = [
                    r
                    for r in of_image
                    if r["threat"] == "clean" or (r["threat"] in able and r[row.norm] <= limit)
                ]
            else:
                of_image = [
                    r
                    for r in of_image
                    if (r["threat"], r["attack_id"]) == (row.threat, row.attack_id)
                ]
                assert len(of_image) == 1
            fell = any(map(fooled, of_image))
            wrong += fell
            right += all(r["accepted"] and not fooled(r) for r in of_image)
            stood = first["accepted"] and not fooled(first)
            before += stood
            success += stood and fell
        assert (row.wrong.count, row.right.count) == (wrong, right)
        assert (row.lenient.count, row.strict.count) == (40 - wrong, right)
        assert row.flagged.count == 40 - wrong - right
        assert (row.success.count, row.success.n) == (success, before)
        assert row.clean_accuracy.count == before


def test_worst_cases_are_never_above_their_parts_and_fall_with_eps() -> None:
    records = random_records(
        threats=("oblivious", "transfer", "query-decisions", "query-scores", "white-box"),
        attacks=[(name, "linf", eps) for name in ("A", "B") for eps in (0.1, 0.2, 0.3)],
        fooled=0.1,
    )
    found = by_key(robustness(records))
    for (_, threat, attack, _, eps), row in found.items():
        for other, smaller in found.items():
            if attack != WORST_CASE or other[4] > eps:
                continue
            if other[1] == threat or other[1] in INCLUDES[threat]:
                assert row.lenient.count <= smaller.lenient.count
                assert row.strict.count <= smaller.strict.count
                assert row.success.count >= smaller.success.count
    worst = {key[1]: row.lenient.count for key, row in found.items() if key[2] == WORST_CASE}
    assert worst["white-box"] < worst["query-scores"] < worst["query-decisions"]


def test_another_attack_never_raises_the_worst_case() -> None:
    fewer, more = mixed(), mixed()
    fewer = Records(fewer.table.filter(pc.not_equal(fewer.table["attack"], "FGSM")), fewer.meta)
    before, after = by_key(robustness(fewer)), by_key(robustness(more))
    worst = [key for key in before if key[2] == WORST_CASE]
    assert len(worst) == 2 * 3 * 4
    assert all(after[key].lenient.count <= before[key].lenient.count for key in worst)
    assert any(after[key].lenient.count < before[key].lenient.count for key in worst)


def test_an_image_counts_in_every_ball_that_it_lies_in() -> None:
    y = [0] * 4
    records = synthetic(
        clean(y=y),
        attacked("BIM", eps=0.1, prediction=[0, 0, 0, 0]),
        attacked("BIM", eps=0.2, prediction=[0, 0, 0, 1], linf=[0, 0, 0, 0.2]),
        # a larger budget of which little was used, and one of another norm
        attacked("BIM", eps=0.3, prediction=[1, 0, 0, 0], linf=[0.1, 0, 0, 0]),
        attacked("PGD", norm="l2", eps=1.0, prediction=[0, 1, 1, 0], linf=[0, 0.1, 0.11, 0], l2=1),
        attacked("DeepFool", norm=None, prediction=[0, 0, 1, 0], linf=[0, 0, 0.25, 0], l2=0.5),
    )
    found = by_key(robustness(records))

    def left(norm: str, eps: float) -> int:
        return found["guard", "oblivious", WORST_CASE, norm, eps].lenient.count

    assert [left("linf", eps) for eps in (0.1, 0.2, 0.3)] == [2, 0, 0]
    # of the linf images at 0.2 and 0.3 the l2 distance is beyond 1 or within it
    rows = records.table.to_pylist()
    lost = {r["index"] for r in rows if fooled(r) and r["l2"] <= 1 + 1e-5}
    assert left("l2", 1.0) == 4 - len(lost)
    assert ("guard", "oblivious", WORST_CASE, None, None) not in found


@pytest.mark.parametrize(
    ("norm", "eps", "size", "counts"),
    [
        ("l1", 30.0, 30.0002, True),
        ("l1", 30.0, 30.001, False),
        # nothing is summed up
        ("linf", 0.3, 0.3, True),
        ("linf", 0.3, 0.300002, False),
    ],
)
def test_rounding_in_single_precision_is_no_matter(
    norm: str, eps: float, size: float, counts: bool
) -> None:
    distance: dict[str, Any] = {norm: size}
    records = synthetic(
        clean(y=[0]),
        attacked("PGD", norm=norm, eps=eps, prediction=[0]),
        attacked("DeepFool", norm=None, prediction=[1], **distance),
    )
    worst = [row for row in robustness(records) if row.attack == WORST_CASE]
    assert [row.lenient.count for row in worst] == [0 if counts else 1]


def test_what_nobody_has_tried_has_no_worst_case() -> None:
    def budgets(*more: Rows) -> dict[str, list[float | None]]:
        records = synthetic(
            clean(y=[0, 0]),
            attacked("PGD", eps=0.1),
            attacked("PGD", eps=0.3),
            attacked("Square", threat="query-scores", eps=0.3),
            attacked("PGD", threat="white-box", eps=0.2),
            *more,
        )
        found: dict[str, list[float | None]] = {}
        for row in robustness(records):
            if row.attack == WORST_CASE:
                found.setdefault(row.threat, []).append(row.eps)
        return found

    assert budgets() == {
        "oblivious": [0.1, 0.3],
        "query-scores": [0.3],
        # who sees everything can do what was done at 0.1 and at 0.3
        "white-box": [0.1, 0.2, 0.3],
    }
    # who sees scores can ask for decisions, and that attack looks for the nearest image
    nearest = attacked("HopSkipJump", threat="query-decisions", norm=None)
    assert budgets(nearest)["query-scores"] == [0.1, 0.2, 0.3]


def test_worst_cases_come_by_rising_eps_whatever_was_run_first() -> None:
    records = synthetic(
        clean(y=[0]),
        attacked("PGD", eps=0.3),
        attacked("PGD", norm="l2", eps=2.0),
        attacked("PGD", eps=0.1),
        attacked("FGSM", eps=0.2),
        attacked("PGD", norm="l2", eps=0.5),
    )
    worst = [(row.norm, row.eps) for row in robustness(records) if row.attack == WORST_CASE]
    assert worst == [("linf", 0.1), ("linf", 0.2), ("linf", 0.3), ("l2", 0.5), ("l2", 2.0)]


def test_threats_with_minimum_norm_attacks_alone() -> None:
    records = synthetic(
        clean(y=[0, 0, 0]),
        attacked("BIM", eps=0.3, prediction=[1, 0, 0], linf=[0.3, 0, 0]),
        attacked(
            "HopSkipJump",
            threat="query-decisions",
            norm=None,
            prediction=[0, 1, 1],
            linf=[0, 0.2, 0.9],
        ),
    )
    found = by_key(robustness(records))
    assert found["guard", "query-decisions", WORST_CASE, "linf", 0.3].lenient.count == 2
    assert found["guard", "query-decisions", WORST_CASE, None, None].lenient.count == 1
    assert ("guard", "oblivious", WORST_CASE, None, None) not in found


def test_several_substitutes_are_tried_in_turn() -> None:
    records = synthetic(
        clean(y=[0, 0, 0]),
        attacked("PGD", threat="transfer", substitute="twin", prediction=[1, 0, 0]),
        attacked("PGD", threat="transfer", substitute="other", prediction=[0, 1, 0]),
    )
    rows = robustness(records)
    assert [(row.attack, row.lenient.count) for row in rows] == [("PGD", 1), (WORST_CASE, 1)]


def test_curves_start_at_the_clean_images() -> None:
    records = mixed()
    curves = accuracy_against_eps(records)
    threats = ("oblivious", "white-box", "query-scores")
    budgets = {"linf": (0.1, 0.3), "l2": (0.5,), "l1": (2.0,)}
    assert set(curves) == {(g, t, n) for g in ("one", "two") for t in threats for n in budgets}
    clean_of = {row.guard: row.clean_accuracy for row in robustness(records)}
    for (guard, _, norm), rows in curves.items():
        assert [row.eps for row in rows] == [0.0, *budgets[norm]]
        assert rows[0].strict == clean_of[guard]
        values = [row.lenient.value for row in rows]
        assert values == sorted(values, reverse=True)
    pgd = accuracy_against_eps(records, attack="PGD")["one", "oblivious", "linf"]
    assert [(row.attack, row.eps) for row in pgd] == [("PGD", 0.0), ("PGD", 0.1), ("PGD", 0.3)]


# what must not change a figure, and what must be refused


def with_everything() -> Records:
    """Random rows, transfers, controls and an infinite score."""
    chance = np.random.default_rng(5)
    parts: list[Rows] = []
    for guard in ("one", "two"):
        y = chance.integers(0, 3, 30)

        def columns(y: Any = y) -> Rows:
            return {
                "prediction": chance.integers(0, 3, 30),
                "accepted": chance.random(30) < 0.8,
                "rejection": chance.normal(size=30),
                "score_A": chance.normal(size=30),
                "score_B": np.where(chance.random(30) < 0.1, np.inf, chance.normal(size=30)),
                "control_untrained-detector": chance.normal(size=30),
            }

        parts.append(clean(guard, y=y, **columns()))
        for threat in ("oblivious", "transfer", "white-box", "query-scores", "query-decisions"):
            for substitute in ("twin", "other") if threat == "transfer" else (None,):
                run: dict[str, Any] = {"guard": guard, "threat": threat, "substitute": substitute}
                parts.append(attacked("FGSM", eps=0.2, **{**run, **columns()}))
                parts.append(attacked("DeepFool", norm=None, l2=0.3, **{**run, **columns()}))
    return synthetic(*parts)


def test_the_order_of_the_rows_is_no_matter() -> None:
    records = with_everything()
    order = np.random.default_rng(0).permutation(len(records))
    shuffled = Records(records.table.take(pa.array(order)), records.meta)
    assert repr(measured(shuffled)) == repr(measured(records))


def test_probes_are_no_figures() -> None:
    parts = [
        clean(y=[0, 0, 0], score_A=0.0, rejection=-1.0),
        attacked("PGD", prediction=[0, 0, 1], score_A=1.0, rejection=-1.0),
        attacked("PGD", threat="query-scores", prediction=[0, 0, 1], score_A=1.0, rejection=-1.0),
    ]
    without = synthetic(*parts)
    probes = [
        attacked("PGD", eps=1.0, probe="unbounded", index=[0, 1], prediction=[1, 1], score_A=9.0),
        attacked("RandomNoise", probe="noise", index=[0, 1], prediction=[1, 1], linf=0.0),
    ]
    with_probes = synthetic(*parts, *probes)
    assert len(with_probes) == len(without) + 4
    assert repr(measured(with_probes)) == repr(measured(without))


def test_several_seeds_and_missing_images_are_refused() -> None:
    records = random_records()
    again = Records(
        records.table.set_column(
            records.table.column_names.index("seed"), "seed", pa.array([1] * len(records))
        ),
        records.meta,
    )
    both = Records(pa.concat_tables([records.table, again.table]), records.meta)
    with pytest.raises(ConfigurationError, match="Select one seed first"):
        robustness(both)
    assert robustness(both.where(seed=0)) == robustness(records)
    for function in (robustness, detection, costs, minimal_distortions):
        with pytest.raises(ConfigurationError, match="do not cover"):
            function(Records(records.table.slice(0, 150), records.meta))
    del records.meta["includes"]
    with pytest.raises(ConfigurationError, match="'includes'"):
        robustness(records)


# at scale, and on what was really attacked


def test_ten_thousand_images_take_seconds() -> None:
    records = random_records(
        {name: ["A", "B"] for name in ("one", "two", "three")},
        attacks=[*((name, "linf", 0.1) for name in ("FGSM", "BIM", "PGD")), ("C&W", None, None)],
        count=10_000,
    )
    assert len(records) == 270_000
    began = time.process_time()
    measured(records)
    assert time.process_time() - began < 10


@pytest.fixture(scope="module")
def records(digits: Digits) -> Records:
    return ns.evaluate(
        digits.guard,
        digits.x[:90],
        digits.y[:90],
        attacks=[FGSM(), PGD(steps=15)],
        eps=EPS,
        seed=3,
        batch_size=40,
        data="digits",
    )


def test_figures_are_recomputed_from_the_file(
    records: Records, digits: Digits, tmp_path: Path
) -> None:
    path = records.write(tmp_path / "records.parquet")
    rows = [row for row in pq.read_table(path).to_pylist() if row["probe"] is None]
    for row in robustness(Records.read(path)):
        if row.attack == WORST_CASE:
            continue
        mine = [
            r
            for r in rows
            if (r["threat"], r["attack"], r["eps"]) == (row.threat, row.attack, row.eps)
        ]
        clean = {r["index"]: r for r in rows if r["threat"] == "clean"}
        assert len(mine) == row.lenient.n == 90
        fell = [fooled(r) for r in mine]
        held = [r["accepted"] and r["prediction"] == r["y"] for r in mine]
        right = [
            clean[r["index"]]["accepted"] and clean[r["index"]]["prediction"] == r["y"]
            for r in mine
        ]
        assert row.lenient.count == 90 - sum(fell)
        assert row.strict.count == sum(held)
        assert row.success.n == sum(right)
        assert row.success.count == sum(f for f, r in zip(fell, right, strict=True) if r)
        assert row.clean_accuracy.count == sum(right)
        assert row.clean_rejection.count == sum(not r["accepted"] for r in clean.values())
    by_index = {r["index"]: r["y"] for r in rows if r["threat"] == "clean"}
    assert [by_index[i] for i in range(90)] == digits.y[:90].tolist()


def test_worst_cases_of_a_real_guard(records: Records) -> None:
    found = {(r.threat, r.attack, r.eps): r for r in robustness(records)}
    for eps in EPS:
        for threat in ("oblivious", "white-box"):
            worst = found[threat, WORST_CASE, eps]
            for attack in ("FGSM", "PGD"):
                assert worst.lenient.count <= found[threat, attack, eps].lenient.count
                assert worst.strict.count <= found[threat, attack, eps].strict.count
        aware, blind = found["white-box", WORST_CASE, eps], found["oblivious", WORST_CASE, eps]
        assert aware.lenient.count <= blind.lenient.count
        assert aware.strict.count <= blind.strict.count
        lost = np.zeros(90, bool)
        ordinary = records.ordinary()
        wrong = ordinary.column("accepted") & (
            ordinary.column("prediction") != ordinary.column("y")
        )
        wrong &= ordinary.column("linf").astype(float) <= eps + 1e-6
        np.logical_or.at(lost, ordinary.column("index"), wrong)
        assert aware.lenient.count == 90 - lost.sum()


def test_detection_counts_as_pang_does(records: Records, digits: Digits) -> None:
    rows = {(d.threat, d.attack, d.eps): d for d in detection(records) if not d.control}
    one = rows["oblivious", "PGD", 0.25]
    assert one.detector == "KDensity"
    ordinary = records.ordinary()
    attacked = ordinary.where(threat="oblivious", attack="PGD", eps=0.25)
    clean = ordinary.where(threat="clean")
    y = attacked.column("y")
    chosen = (clean.column("prediction") == y) & (attacked.column("prediction") != y)
    positive = attacked.column("score_KDensity")[chosen]
    negative = clean.column("score_KDensity")[chosen]
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    assert one.successful.positives == one.successful.negatives == chosen.sum() > 20
    assert one.successful.value == pytest.approx(pairs.mean())
    assert digits.guard.calibration is not None
    threshold = digits.guard.calibration.thresholds["KDensity"]
    assert one.flagged.count == (positive > threshold).sum()
    assert one.flagged.n == chosen.sum()
    assert one.everything.positives == 90
    # who evades the detector is not flagged by it
    adaptive = rows["white-box", "PGD", 0.25]
    assert adaptive.flagged.count == 0
    assert one.adaptive == adaptive.everything
    assert one.adaptive_flagged == adaptive.flagged_everything


def test_records_without_images_say_the_same(records: Records, tmp_path: Path) -> None:
    light = Records.read(records.without_images().write(tmp_path / "light.parquet"))
    assert repr(measured(light)) == repr(measured(records))
    assert light.table["image"].null_count == light.table["features"].null_count == len(records)
    assert records.table["image"].null_count < len(records)
