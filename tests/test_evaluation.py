"""Evaluation: the examiner, the records and the metrics, against independent computation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import notsure as ns
from notsure.attacks import BIM, FGSM, PGD, Attack, RandomNoise
from notsure.attacks.problem import Problem
from notsure.core.errors import CheckpointError, ConfigurationError, VerificationError
from notsure.evaluation import Records, accuracy_against_eps, detection, robustness, wilson
from notsure.evaluation.metrics import area_under_roc
from tests.conftest import Digits
from tests.toys import images, small_network

EPS = (0.1, 0.25)


def evaluated(digits: Digits, *, batch_size: int) -> Records:
    return ns.evaluate(
        digits.guard,
        digits.x[:90],
        digits.y[:90],
        attacks=[FGSM(), PGD(steps=15)],
        eps=EPS,
        seed=3,
        batch_size=batch_size,
        data="digits",
    )


@pytest.fixture(scope="module")
def records(digits: Digits) -> Records:
    return evaluated(digits, batch_size=40)


def test_every_image_has_a_row_of_everything(records: Records) -> None:
    assert len(records) == 90 * (1 + 2 * 2 * 2)
    keys = list(
        zip(*(records.column(c) for c in ("threat", "attack", "eps", "index")), strict=True)
    )
    assert len(set(keys)) == len(keys)
    assert set(records.column("index")) == set(range(90))
    assert records.meta["threats"] == ["oblivious", "white-box"]
    settings_of = records.meta["attacks"]
    for (attack_id,) in records.distinct("attack_id"):
        if attack_id is not None:
            assert settings_of[attack_id]["name"] in {"FGSM", "PGD"}
    # an oblivious attacker does not stop at the boundary
    for attack_id, threat in records.distinct("attack_id", "threat"):
        if attack_id is not None:
            assert settings_of[attack_id]["early_stop"] == (threat == "white-box")


def test_figures_are_recomputed_from_the_file(
    records: Records, digits: Digits, tmp_path: Path
) -> None:
    path = records.write(tmp_path / "records.parquet")
    rows = pq.read_table(path).to_pylist()
    for row in robustness(Records.read(path)):
        if row.attack == "worst case":
            continue
        mine = [
            r
            for r in rows
            if (r["threat"], r["attack"], r["eps"]) == (row.threat, row.attack, row.eps)
        ]
        clean = {r["index"]: r for r in rows if r["threat"] == "clean"}
        assert len(mine) == row.lenient.n == 90
        fooled = [r["accepted"] and r["prediction"] != r["y"] for r in mine]
        held = [r["accepted"] and r["prediction"] == r["y"] for r in mine]
        right = [
            clean[r["index"]]["accepted"] and clean[r["index"]]["prediction"] == r["y"]
            for r in mine
        ]
        assert row.lenient.count == 90 - sum(fooled)
        assert row.strict.count == sum(held)
        assert row.success.n == sum(right)
        assert row.success.count == sum(f for f, r in zip(fooled, right, strict=True) if r)
        assert row.clean_accuracy.count == sum(right)
        assert row.clean_rejection.count == sum(not r["accepted"] for r in clean.values())
    by_index = {r["index"]: r["y"] for r in rows if r["threat"] == "clean"}
    assert [by_index[i] for i in range(90)] == digits.y[:90].tolist()


def test_worst_cases_are_per_sample_and_include_weaker_attackers(records: Records) -> None:
    found = {(r.threat, r.attack, r.eps): r for r in robustness(records)}
    for eps in EPS:
        for threat in ("oblivious", "white-box"):
            worst = found[threat, "worst case", eps]
            for attack in ("FGSM", "PGD"):
                assert worst.lenient.count <= found[threat, attack, eps].lenient.count
                assert worst.strict.count <= found[threat, attack, eps].strict.count
        aware, blind = found["white-box", "worst case", eps], found["oblivious", "worst case", eps]
        assert aware.lenient.count <= blind.lenient.count
        assert aware.strict.count <= blind.strict.count
        lost = np.zeros(90, bool)
        at_eps = [records.where(eps=eps), records.where(threat="clean")]
        for part in at_eps:
            wrong = part.column("accepted") & (part.column("prediction") != part.column("y"))
            np.logical_or.at(lost, part.column("index"), wrong)
        assert aware.lenient.count == 90 - lost.sum()


def test_adaptive_attacks_take_what_oblivious_ones_leave(records: Records) -> None:
    found = {(r.threat, r.attack, r.eps): r.lenient.value for r in robustness(records)}
    assert found["white-box", "PGD", 0.25] < found["oblivious", "PGD", 0.25] - 0.1


def test_curves_start_at_the_clean_images(records: Records) -> None:
    curves = accuracy_against_eps(records)
    assert set(curves) == {("guard", "oblivious", "linf"), ("guard", "white-box", "linf")}
    for rows in curves.values():
        assert [row.eps for row in rows] == [0.0, *EPS]
        assert rows[0].strict == rows[0].clean_accuracy
        values = [row.lenient.value for row in rows]
        assert values == sorted(values, reverse=True)


def test_detection_counts_as_pang_does(records: Records, digits: Digits) -> None:
    rows = {(d.threat, d.attack, d.eps): d for d in detection(records)}
    one = rows["oblivious", "PGD", 0.25]
    assert one.detector == "KDensity"
    attacked = records.where(threat="oblivious", attack="PGD", eps=0.25)
    clean = records.where(threat="clean")
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
    assert rows["white-box", "PGD", 0.25].flagged.count == 0


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


def test_oblivious_results_are_shared_among_guards(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = digits.guard.classifier
    confidence = ns.Guard(classifier, [ns.detectors.Confidence()])
    confidence.calibrate(digits.split.calibration.x, fpr=0.05)
    calls: list[object] = []
    original = PGD.search

    def counted(self: PGD, problem: Problem) -> torch.Tensor:
        calls.append(problem.target)
        return original(self, problem)

    monkeypatch.setattr(PGD, "search", counted)
    records = ns.evaluate(
        {"K-density": digits.guard, "confidence": confidence},
        digits.x[:30],
        digits.y[:30],
        attacks=[PGD(steps=5)],
    )
    assert sum(target is classifier for target in calls) == 1
    assert len(calls) == 3
    a, b = (
        records.where(guard=name, threat="oblivious").column("l2")
        for name in ("K-density", "confidence")
    )
    assert np.array_equal(a, b)
    assert records.detectors == ["KDensity", "Confidence"]
    assert np.isnan(records.where(guard="confidence").column("score_KDensity")).all()


def test_records_do_not_depend_on_the_batch_size(records: Records, digits: Digits) -> None:
    again = evaluated(digits, batch_size=17)
    order = [("threat", "ascending"), ("attack", "ascending"), ("eps", "ascending")]
    order.append(("index", "ascending"))
    first, second = records.table.sort_by(order), again.table.sort_by(order)
    for name in ("prediction", "accepted", "success", "queries", "gradients"):
        same = np.asarray(first[name]) == np.asarray(second[name])
        assert same.mean() > 0.995, name  # rounding may move a sample that is on the edge
    assert again.meta == records.meta


def test_a_bare_classifier_can_be_evaluated() -> None:
    x = images(20, (1, 6, 6)).float()
    network = small_network(0).float()
    y = ns.Classifier(network).logits(x).argmax(dim=1)
    records = ns.evaluate(network, x, y, attacks=[PGD(eps=0.2)], threats=["white-box"])
    assert records.guards == ["classifier"]
    assert np.isnan(records.column("rejection")).all()
    row = robustness(records)[0]
    assert row.clean_accuracy.value == 1
    assert row.lenient == row.strict
    assert detection(records) == []


class _BatchDependent(nn.Module):
    """Answers differently in batches of different sizes, as BatchNorm in training mode does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.flatten(1)[:, :3]
        return z if len(x) % 2 else -z


def test_what_does_not_hold_at_another_batch_size_is_an_error() -> None:
    x = images(8, (1, 6, 6)).float()
    y = torch.zeros(8, dtype=torch.int64)
    with pytest.raises(VerificationError, match="another batch size"):
        ns.evaluate(_BatchDependent(), x, y, attacks=[RandomNoise(eps=0.1)], batch_size=8)


@dataclass(frozen=True, kw_only=True)
class _Liar(Attack):
    """Overrides the judge and claims what is not so."""

    def __call__(self, target: Any, x: Any, y: Any, **settings: Any) -> ns.Adversarial:
        honest = PGD(eps=0.0)(target, x, y, **settings)
        return ns.Adversarial(**{**vars(honest), "success": torch.ones_like(honest.success)})

    def search(self, problem: Problem) -> torch.Tensor:
        return problem.x


def test_false_claims_are_an_error(digits: Digits) -> None:
    with pytest.raises(VerificationError, match="do not fool"):
        ns.evaluate(
            digits.guard, digits.x[:20], digits.y[:20], attacks=[_Liar()], threats=["white-box"]
        )


def test_what_cannot_be_evaluated_says_why(digits: Digits, tmp_path: Path) -> None:
    guard, x, y = digits.guard, digits.x[:10], digits.y[:10]
    with pytest.raises(ConfigurationError, match="at least one"):
        ns.evaluate(guard, x, y, attacks=[])
    with pytest.raises(ConfigurationError, match="no threat"):
        ns.evaluate(guard, x, y, attacks=[FGSM()], threats=[])
    with pytest.raises(ConfigurationError, match="oblivious, white-box"):
        ns.evaluate(guard, x, y, attacks=[FGSM()], threats=["grey-box"])
    with pytest.raises(ConfigurationError, match="threat is given twice"):
        ns.evaluate(guard, x, y, attacks=[FGSM()], threats=["oblivious", "oblivious"])
    with pytest.raises(ConfigurationError, match="same settings"):
        ns.evaluate(guard, x, y, attacks=[BIM(), BIM()])
    with pytest.raises(ConfigurationError, match="give instances"):
        ns.evaluate(guard, x, y, attacks=[FGSM])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="no guard"):
        ns.evaluate({}, x, y, attacks=[FGSM()])


def test_files_that_hold_no_records(records: Records, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no records at"):
        Records.read(tmp_path / "records.parquet")
    path = records.write(tmp_path / "records.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        Records.read(path)
    pq.write_table(records.table.select(["y"]), path)
    with pytest.raises(CheckpointError, match="no records of notsure"):
        Records.read(path)
    with pytest.raises(CheckpointError, match="columns guard"):
        Records(records.table.select(["y"]), {})


def test_metrics_of_incomplete_records(records: Records) -> None:
    with pytest.raises(ConfigurationError, match="do not cover"):
        robustness(Records(records.table.slice(0, 150), records.meta))


def test_records_without_images_say_the_same(records: Records, tmp_path: Path) -> None:
    light = Records.read(records.without_images().write(tmp_path / "light.parquet"))
    assert robustness(light) == robustness(records)
    assert light.table["image"].null_count == light.table["features"].null_count == len(records)
    assert records.table["image"].null_count < len(records)
