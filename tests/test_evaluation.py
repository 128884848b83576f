"""Evaluation: the examiner, the records and the metrics, against independent computation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import notsure as ns
from notsure.attacks import BIM, FGSM, PGD, Attack, RandomNoise
from notsure.attacks.problem import Problem
from notsure.core.errors import CheckpointError, ConfigurationError, VerificationError
from notsure.evaluation import Records, detection, robustness
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
        probes=0,
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


def test_adaptive_attacks_take_what_oblivious_ones_leave(records: Records) -> None:
    found = {(r.threat, r.attack, r.eps): r.lenient.value for r in robustness(records)}
    assert found["white-box", "PGD", 0.25] < found["oblivious", "PGD", 0.25] - 0.1


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
        probes=0,
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
    with pytest.raises(ConfigurationError, match=r"oblivious, transfer, .*white-box"):
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
