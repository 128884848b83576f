"""Detection, coverage, distances, costs, transfers and grids: closed forms and slow references."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from notsure.core.errors import ConfigurationError
from notsure.evaluation import (
    Detection,
    Records,
    accuracy_against_distance,
    costs,
    coverage_accuracy,
    detection,
    generalisation,
    grid,
    minimal_distortions,
    robustness,
    success_against_queries,
    transfer_matrix,
)
from tests.records import SHAPE, Rows, attacked, clean, random_records, synthetic


def fooled(row: Mapping[str, Any]) -> bool:
    return bool(row["accepted"] and row["prediction"] != row["y"])


# detection


def one_detector(**columns: Any) -> list[Detection]:
    """Detection of an attack by A, whose clean scores are 0 to 3, the last image wrong at that."""
    return detection(
        synthetic(
            clean(y=[0] * 4, prediction=[0, 0, 0, 1], score_A=[0.0, 1.0, 2.0, 3.0]),
            attacked("PGD", **{"prediction": [1, 1, 0, 1], "score_A": [0.5, 2.5, 9, 9], **columns}),
        )
    )


def test_detection_counts_what_fell() -> None:
    (row,) = one_detector()
    # images 0 and 1 fell: 0.5 and 2.5 against 0 and 1
    assert row.successful.value == 3 / 4
    assert (row.successful.positives, row.successful.negatives) == (2, 2)
    assert row.everything.value == pytest.approx((1 + 3 + 4 + 4) / 16)
    assert (row.flagged.count, row.flagged.n) == (1, 2)
    assert (row.flagged_everything.count, row.flagged_everything.n) == (3, 4)
    # to flag both the threshold has to come down to 0.5, which flags the clean 1
    assert (row.false_positives.count, row.false_positives.n) == (1, 2)
    # all four attacked images are flagged from 0.5 on, as are the clean 1, 2 and 3
    every = row.false_positives_everything
    assert (every.count, every.n) == (3, 4)
    # of the two that fell only 0.5 is below the threshold of 2
    assert (row.evaded.count, row.evaded.n) == (1, 4)
    assert not row.control
    assert not row.noise
    assert row.held_out is None
    assert row.adaptive is None
    (none,) = one_detector(prediction=[0, 0, 0, 1])
    assert math.isnan(none.successful.value)
    assert none.flagged.n == none.false_positives.n == 0


def test_scores_that_are_nan_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="NaN"):
        one_detector(score_A=[0, 0, 0, math.nan])


def test_oblivious_rows_stand_beside_adaptive_ones() -> None:
    def run(threat: str, score: float, eps: float = 0.1, **columns: Any) -> Rows:
        given = {"prediction": [1, 1], "score_A": [score, score], "score_B": 0.0, **columns}
        return attacked("PGD", threat=threat, eps=eps, **given)

    records = synthetic(
        clean(y=[0, 0], score_A=[0.0, 1.0], score_B=0.0),
        run("oblivious", 5.0),
        run("oblivious", 5.0, eps=0.2),
        run("white-box", 3.0, settings={"steps": 10}),
        run("white-box", 0.5, settings={"steps": 40}),
        attacked("FGSM", threat="white-box", score_A=-1.0, score_B=0.0),
    )
    found = {(row.threat, row.eps, row.detector): row for row in detection(records)}
    row = found["oblivious", 0.1, "A"]
    assert row.everything.value == 1
    # of two white-box runs the one that the detector fares worse at
    assert row.adaptive is not None
    assert row.adaptive_flagged is not None
    assert row.adaptive.value == 0.5
    assert (row.adaptive_flagged.count, row.adaptive_flagged.n) == (0, 2)
    assert found["oblivious", 0.2, "A"].adaptive is None
    assert found["white-box", 0.1, "A"].adaptive is None


def test_the_adaptive_attack_that_counts_is_the_one_that_evades() -> None:
    """One that always fails leaves clean images, whose area is 0.5: it must not stand for all."""
    scores = [0.0, 0.5, 1.0, 1.5]
    records = synthetic(
        clean(y=[0] * 4, score_A=scores),
        attacked("PGD", prediction=1, score_A=5.0),
        attacked("PGD", threat="white-box", settings={"steps": 1}, score_A=scores),
        attacked(
            "PGD", threat="white-box", settings={"steps": 40}, prediction=[1, 1, 1, 0], score_A=1.9
        ),
    )
    rows = detection(records)
    failing, evading = (row for row in rows if row.threat == "white-box")
    assert failing.everything.value == 0.5
    assert failing.evaded.count == 0
    assert (evading.evaded.count, evading.evaded.n) == (3, 4)
    oblivious = rows[0]
    assert oblivious.adaptive == evading.everything
    assert oblivious.adaptive_flagged == evading.flagged_everything
    assert oblivious.adaptive_evaded == evading.evaded
    assert evading.everything.value == 1


def test_controls_noise_and_held_out_attacks() -> None:
    records = synthetic(
        clean("one", y=[0] * 3, score_A=0.0, control_x=[0.0, 1.0, None], control_y=None),
        attacked("PGD", guard="one", prediction=[1, 1, 1], score_A=5.0, control_x=[2.0, 0.5, None]),
        attacked("RandomNoise", guard="one", score_A=0.0, control_x=[0.0, 1.0, None]),
        clean("two", y=[0] * 3),
        attacked("PGD", guard="two"),
        guards={"one": {"fitted_on": {"name": "PGD", "eps": 0.1}}},
    )
    found = {(row.attack, row.detector): row for row in detection(records)}
    assert set(found) == {(a, d) for a in ("PGD", "RandomNoise") for d in ("A", "x")}
    assert [found["PGD", "A"].held_out, found["RandomNoise", "A"].held_out] == [False, True]
    assert [found["PGD", "A"].noise, found["RandomNoise", "A"].noise] == [False, True]
    control = found["PGD", "x"]
    assert control.control
    assert control.held_out is None
    # over the two images that there is a score of
    assert (control.everything.value, control.everything.positives) == (3 / 4, 2)
    assert control.flagged.n == control.flagged_everything.n == control.evaded.n == 0
    assert found["PGD", "A"].flagged.count == 3


def test_of_several_substitutes_an_image_counts_once() -> None:
    def sent(substitute: str, prediction: list[int], score: list[float]) -> Rows:
        return attacked(
            "PGD", threat="transfer", substitute=substitute, prediction=prediction, score_A=score
        )

    records = synthetic(
        clean(y=[0, 0, 0], score_A=0.0),
        sent("twin", [1, 0, 0], [5.0, -math.inf, 1.0]),
        sent("other", [1, 1, 0], [4.0, math.inf, 2.0]),
    )
    (row,) = detection(records)
    # misclassified first, then the lower score: 4, infinity, and 1 of an image that stands
    assert (row.flagged.count, row.flagged.n) == (2, 2)
    assert (row.flagged_everything.count, row.flagged_everything.n) == (2, 3)


def planted(count: int, seen_by: Mapping[str, Sequence[str]]) -> list[Rows]:
    """A guard whose detectors A and B each see some of the attacks, by a shift of 3."""
    chance = np.random.default_rng(0)

    def scores(attack: str | None = None) -> Rows:
        return {
            f"score_{name}": chance.normal(3.0 * (attack in seen), 1.0, count)
            for name, seen in seen_by.items()
        }

    return [
        clean(y=np.zeros(count, int), **scores()),
        *(
            attacked(name, eps=eps, prediction=np.ones(count, int), **scores(name))
            for name in ("L", "M", "R")
            for eps in (0.1, 0.3)
        ),
        attacked("L", threat="white-box", eps=0.5, prediction=np.ones(count, int), **scores()),
    ]


def test_what_one_attack_teaches_of_another() -> None:
    records = synthetic(*planted(400, {"A": ["L", "M"], "B": ["R"]}))
    found = {(one.trained_on, one.tested_on): one.area for one in generalisation(records)}
    assert set(found) == {(a, b) for a in "LMR" for b in "LMR"}
    for (trained, tested), area in found.items():
        # what was seen in the same detector is found: Phi(3 / sqrt 2); the other is not
        same = (trained == "R") == (tested == "R")
        assert area.value == pytest.approx(0.983 if same else 0.5, abs=0.02 if same else 0.12)
        assert area.positives == area.negatives == 200
    assert found["L", "M"].value > found["L", "R"].value + 0.3


def test_generalisation_does_not_learn_from_what_it_is_tested_on() -> None:
    records = synthetic(*planted(400, {"A": [], "B": []}))
    areas = [one.area.value for one in generalisation(records)]
    assert max(areas) < 0.6
    # scores in other units, and one that is always the same, change nothing
    table = records.table
    for name, scale in (("score_A", 1000.0), ("score_B", 0.001)):
        position = table.column_names.index(name)
        scaled = pc.add(pc.multiply(pc.cast(table[name], pa.float64()), scale), 7.0)
        table = table.set_column(position, name, scaled)
    table = table.append_column("score_C", pa.array([4.0] * len(table), pa.float32()))
    meta = {**records.meta, "guards": {"guard": {"detectors": {"A": {}, "B": {}, "C": {}}}}}
    again = [one.area.value for one in generalisation(Records(table, meta))]
    assert again == pytest.approx(areas, abs=1e-3)


def test_generalisation_of_attacks_that_fail() -> None:
    records = synthetic(
        clean(y=[0] * 4, score_A=[0.0, 1.0, 2.0, 3.0]),
        attacked("PGD", settings={"steps": 5}, prediction=[1] * 4, score_A=[5, 6, math.inf, 7]),
        attacked("PGD", settings={"steps": 9}, score_A=0.0),
        attacked("RandomNoise", prediction=[1] * 4, score_A=9.0),
    )
    found = generalisation(records)
    assert all(one.trained_on == f"PGD #{one.trained_on_id}" for one in found)
    assert [one.area.positives for one in found] == [2, 0, 0, 0]
    assert found[0].area.value == 1


# coverage


def test_coverage_against_a_slow_reference() -> None:
    chance = np.random.default_rng(0)
    y, wrong = np.zeros(150, int), chance.random((2, 150)) < [[0.1], [0.6]]
    rejection = chance.normal(size=(2, 150)) + wrong
    records = synthetic(
        clean(y=y, prediction=wrong[0], rejection=rejection[0], accepted=rejection[0] <= 0),
        attacked("PGD", prediction=wrong[1], rejection=rejection[1], accepted=rejection[1] <= 0),
        clean("bare", y=y),
        attacked("PGD", guard="bare"),
        guards={"guard": {"rejects": True}},
    )
    curves = coverage_accuracy(records)
    assert [(c.guard, c.threat, c.attack) for c in curves] == [
        ("guard", "clean", "none"),
        ("guard", "oblivious", "PGD"),
    ]
    for curve, its, mistaken in zip(curves, rejection.astype(np.float32), wrong, strict=True):
        assert len(curve.points) <= 101
        assert [p.coverage.count for p in curve.points] == sorted(
            p.coverage.count for p in curve.points
        )
        for point in curve.points:
            answered = its <= point.threshold
            assert (point.coverage.count, point.coverage.n) == (answered.sum(), 150)
            assert point.accuracy.n == answered.sum()
            assert point.accuracy.count == (answered & ~mistaken).sum()
        last = curve.points[-1]
        assert last.coverage.value == 1
        assert last.accuracy.value == pytest.approx(1 - mistaken.mean())
    # at the calibrated threshold stand the figures of the guard as it is
    (deployed,) = (point for point in curves[0].points if point.threshold == 0)
    row = robustness(records)[0]
    assert deployed.coverage.count == 150 - row.clean_rejection.count
    assert deployed.accuracy.count == row.clean_accuracy.count


def test_coverage_of_few_infinite_and_missing_rejections() -> None:
    def curve(rejection: list[float | None]) -> list[tuple[float, int]]:
        records = synthetic(
            clean(y=[0] * len(rejection), rejection=rejection), guards={"guard": {"rejects": True}}
        )
        return [(p.threshold, p.coverage.count) for p in coverage_accuracy(records)[0].points]

    assert curve([-math.inf, 2.0, -1.0, 2.0]) == [(-math.inf, 1), (-1.0, 2), (0.0, 2), (2.0, 4)]
    assert curve([-2.0]) == [(-2.0, 1), (0.0, 1)]
    with pytest.raises(ConfigurationError, match="1 images of guard, clean"):
        curve([0.0, None])


# distances


def test_distortion_from_the_pixels_themselves() -> None:
    chance = np.random.default_rng(0)
    x = chance.random((5, *SHAPE))
    moved = np.clip(x + chance.normal(0, 0.1, x.shape), 0, 1)
    delta = (moved - x).reshape(5, -1)
    prediction, accepted = [1, 1, 1, 1, 0], [1, 1, 0, 1, 1]
    records = synthetic(
        clean(y=[0] * 5, prediction=[0, 0, 0, 1, 0]),
        attacked(
            "DeepFool",
            norm=None,
            prediction=prediction,
            accepted=accepted,
            l0=(delta != 0).sum(axis=1),
            l1=np.abs(delta).sum(axis=1),
            l2=np.linalg.norm(delta, axis=1),
            linf=np.abs(delta).max(axis=1),
        ),
        attacked("FGSM", l2=1.0),
    )
    row, nothing = minimal_distortions(records)
    # the third is rejected, the fourth was wrong before, the fifth stands
    new, size = [0, 1], np.linalg.norm(delta, axis=1)
    assert row.count == 2
    assert row.median == pytest.approx(np.median(size[new]))
    assert row.mean == pytest.approx(size[new].mean())
    on_255 = np.sqrt(((255 * delta[new]) ** 2).mean(axis=1)).mean()
    assert row.root_mean_square == pytest.approx(on_255)
    assert row.l0 == np.median((delta != 0).sum(axis=1)[new])
    assert row.l1 == pytest.approx(np.median(np.abs(delta).sum(axis=1)[new]))
    assert row.linf == pytest.approx(np.median(np.abs(delta).max(axis=1)[new]))
    assert nothing.count == 0
    assert math.isnan(nothing.median)
    assert math.isnan(nothing.root_mean_square)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_accuracy_against_distance_against_a_slow_reference(norm: str) -> None:
    chance = np.random.default_rng(3)
    records = synthetic(
        clean(y=np.zeros(80, int), prediction=chance.random(80) < 0.1, score_A=0.0),
        attacked(
            "DeepFool",
            norm=None,
            prediction=chance.random(80) < 0.8,
            accepted=chance.random(80) < 0.9,
            l2=chance.gamma(2.0, 1.0, 80),
            linf=chance.gamma(2.0, 0.1, 80),
            score_A=0.0,
        ),
        attacked("PGD", prediction=1, score_A=0.0),
    )
    curves = accuracy_against_distance(records, norm, points=21)
    ((key, curve),) = curves.items()
    assert key == ("guard", "oblivious", "DeepFool")
    assert len(curve) == 21
    assert curve[0].distance == 0
    rows = records.table.to_pylist()
    broken = [{r["index"]: r for r in rows if r["attack"] == a} for a in ("none", "DeepFool")]
    for point in curve:
        reach = point.distance * (1 + 1e-5) + 1e-6 if point.distance else -1
        lost = [
            fooled(broken[0][i]) or (fooled(broken[1][i]) and broken[1][i][norm] <= reach)
            for i in range(80)
        ]
        assert point.lenient.count == 80 - sum(lost)
    assert [p.distance for p in curve] == sorted({p.distance for p in curve})
    # half-way up the images, half of the fall
    falls = [point.lenient.count for point in curve]
    assert falls[10] == pytest.approx((falls[0] + falls[-1]) / 2, abs=2)
    assert falls[-1] == robustness(records)[0].lenient.count - sum(
        fooled(broken[0][i]) and not fooled(broken[1][i]) for i in range(80)
    )


def test_all_eps_of_an_attack_are_one_search_for_the_nearest() -> None:
    def pgd(eps: float, prediction: list[int], l2: list[float], **settings: Any) -> Rows:
        return attacked("PGD", eps=eps, prediction=prediction, l2=l2, settings=settings)

    records = synthetic(
        clean(y=[0, 0, 0]),
        pgd(0.3, [1, 1, 0], [3.0, 3.5, 0.0], steps=10, step_size=0.03),
        pgd(0.1, [1, 0, 0], [1.0, 0.0, 0.0], steps=10, step_size=0.01),
        pgd(0.1, [1, 1, 1], [2.0, 2.0, 2.0], steps=20),
        attacked("DeepFool", norm=None, prediction=[1, 1, 1], l2=[0.5, 0.5, 0.5]),
    )
    curves = accuracy_against_distance(records, bounded=True)
    assert {name.split(" ")[0] for _, _, name in curves} == {"PGD", "DeepFool"}
    found = sorted(
        [(point.distance, point.lenient.count) for point in curve] for curve in curves.values()
    )
    assert found == [
        [(0, 3), (0.5, 0)],
        [(0, 3), (1.0, 2), (3.5, 1)],
        [(0, 3), (2.0, 0)],
    ]
    assert set(accuracy_against_distance(records)) == {("guard", "oblivious", "DeepFool")}


def test_what_a_curve_of_distances_cannot_be() -> None:
    records = random_records(attacks=[("C&W", None, None)])
    with pytest.raises(ConfigurationError, match="linf"):
        accuracy_against_distance(records, "l3")
    with pytest.raises(ConfigurationError, match="at least 2"):
        accuracy_against_distance(records, points=1)
    assert accuracy_against_distance(random_records()) == {}
    nothing = synthetic(clean(y=[0, 0]), attacked("C&W", norm=None))
    (curve,) = accuracy_against_distance(nothing).values()
    assert [(p.distance, p.lenient.value) for p in curve] == [(0.0, 1.0)]


# costs


def test_costs() -> None:
    records = synthetic(
        clean(y=[0] * 4),
        attacked(
            "PGD",
            queries=[10, 20, 30, 40],
            gradients=[10, 10, 0, 0],
            dead_gradients=[3, 2, 0, 0],
            non_finite_gradients=[0, 1, 0, 0],
            seconds=[0.1, 0.2, 0.4, 9.0],
        ),
        attacked("Square", threat="query-scores", gradients=0),
    )
    pgd, square = costs(records)
    assert (pgd.n, pgd.forward, pgd.backward) == (4, 25, 5)
    assert pgd.seconds == pytest.approx(0.3)
    assert (pgd.dead, pgd.non_finite) == (5 / 20, 1 / 20)
    assert square.backward == 0
    assert math.isnan(square.dead)
    assert math.isnan(square.non_finite)


def test_success_against_queries() -> None:
    records = synthetic(
        clean(y=[0] * 6, prediction=[0, 0, 0, 0, 0, 1], accepted=[1, 1, 1, 1, 0, 1]),
        attacked(
            "Square",
            threat="query-scores",
            prediction=[1, 1, 1, 0, 1, 1],
            accepted=[1, 1, 0, 1, 1, 1],
            queries=[3, 70, 2, 100, 1, 1],
        ),
        attacked("PGD", prediction=1),
    )
    (curve,) = success_against_queries(records)
    assert curve.attack == "Square"
    assert len(curve.points) <= 51
    assert (curve.points[0].queries, curve.points[-1].queries) == (0, 100)
    assert [p.queries for p in curve.points] == sorted({p.queries for p in curve.points})
    for point in curve.points:
        # of the four that were accepted and right, two fall
        assert point.success.n == 4
        assert point.success.count == (point.queries >= 3) + (point.queries >= 70)
    row = next(r for r in robustness(records) if r.attack == "Square")
    assert curve.points[-1].success == row.success
    with pytest.raises(ConfigurationError, match="at least 2"):
        success_against_queries(records, points=1)


# transfers and grids


def test_the_transfer_matrix() -> None:
    def guarded(guard: str) -> list[Rows]:
        other = "two" if guard == "one" else "one"
        return [
            clean(guard, y=[0] * 4, prediction=[0, 0, 0, 1], score_A=0.0),
            attacked("PGD", guard=guard, prediction=[1] * 4, score_A=0.0),
            attacked("FGSM", guard=guard, prediction=[1] * 4, score_A=0.0),
            attacked(
                "PGD",
                guard=guard,
                threat="transfer",
                substitute=other,
                prediction=[1, 1, 0, 1],
                accepted=[1, 0, 0, 1],
                score_A=0.0,
            ),
            attacked("PGD", guard=guard, threat="transfer", substitute="third", score_A=0.0),
        ]

    cells = transfer_matrix(synthetic(*guarded("one"), *guarded("two")))
    found = {(cell.substitute, cell.guard): cell for cell in cells}
    assert len(found) == len(cells) == 6
    assert {cell.attack for cell in cells} == {"PGD"}
    for guard, other in (("one", "two"), ("two", "one")):
        # over the three that were right and accepted
        assert {cell.success.n for cell in cells} == {3}
        assert found["itself", guard].success.count == 3
        assert found[other, guard].success.count == 1
        assert found[other, guard].flagged.count == 2
        assert found["third", guard].success.count == 0
    assert transfer_matrix(random_records()) == []


def grid_of(places: Mapping[str, Mapping[str, Any]], **meta: Any) -> Records:
    """Guards with parameters; of ten images of the i-th, i fall at eps 0.1, and i + 1 at 0.2."""
    parts: list[Rows] = []
    for i, guard in enumerate(places):
        parts.append(clean(guard, y=[0] * 10))
        for more, eps in enumerate((0.1, 0.2)):
            wrong = np.arange(10) < i + more
            parts.append(
                attacked("PGD", guard=guard, eps=eps, prediction=wrong, threat="white-box")
            )
    told = {guard: {"parameters": dict(its)} for guard, its in places.items()}
    return synthetic(*parts, guards=told, **meta)


def test_grids() -> None:
    records = grid_of(
        {
            "a": {"lambda": 0.1, "mode": "sum"},
            "b": {"lambda": 0.1, "mode": "max"},
            "c": {"lambda": 0.02, "mode": "sum"},
        }
    )
    one = grid(records, rows="lambda", columns="mode", threat="white-box", eps=0.1)
    assert one.rows == (0.02, 0.1)
    assert one.columns == ("max", "sum")
    counts = [[None if rate is None else rate.count for rate in row] for row in one.values]
    assert counts == [[None, 8], [9, 10]]
    assert one.cells[1].row == {"lambda": 0.1}
    assert one.cells[1].column == {"mode": "max"}
    assert one.cells[1].value.count == 9
    # by default at the largest eps, and of any figure
    largest = grid(records, rows="lambda", columns="mode", threat="white-box", figure="success")
    assert (largest.norm, largest.eps) == ("linf", 0.2)
    assert [cell.value.count for cell in largest.cells] == [1, 2, 3]


def test_grids_that_cannot_be_drawn() -> None:
    records = grid_of({"a": {"p": 1, "q": 1}, "b": {"p": 1}, "c": {}})
    with pytest.raises(ConfigurationError, match=r"b lacks q; c lacks p, q\.$"):
        grid(records, rows="p", columns="q", threat="white-box")
    records = grid_of({"a": {"p": 1, "q": 1}, "b": {"p": 1, "q": 1}})
    with pytest.raises(ConfigurationError, match="a and b have the same p and q"):
        grid(records, rows="p", columns="q", threat="white-box")
    records = grid_of({"a": {"p": 1, "q": 1}, "b": {"p": 1, "q": 2}})
    with pytest.raises(ConfigurationError, match="no figure 'leniency'"):
        grid(records, rows="p", columns="q", threat="white-box", figure="leniency")
    with pytest.raises(ConfigurationError, match="under 'transfer'"):
        grid(records, rows="p", columns="q", threat="transfer")
    with pytest.raises(ConfigurationError, match=r"figure for linf 0\.5.*linf 0\.2"):
        grid(records, rows="p", columns="q", threat="white-box", eps=0.5)
    several = random_records(
        attacks=[("PGD", "linf", 0.1), ("PGD", "l2", 0.5)],
        guards={"a": []},
    )
    several.meta["guards"]["a"]["parameters"] = {"p": 1, "q": 2}
    with pytest.raises(ConfigurationError, match="several norms, l2, linf"):
        grid(several, rows="p", columns="q", threat="white-box")
