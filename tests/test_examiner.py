"""The examiner: threats, suites, probes, controls, and runs that are interrupted."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import notsure as ns
from notsure.attacks import (
    BPDA,
    EOT,
    FGSM,
    NES,
    PGD,
    AutoAttack,
    DeepFool,
    HopSkipJump,
    SelectivePGD,
    Square,
)
from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    InputError,
    UnsupportedError,
    VerificationError,
)
from notsure.core.target import Access, access_of
from notsure.detectors import Detector
from notsure.evaluation import (
    THREATS,
    QueryDecisions,
    QueryScores,
    Records,
    TransferFrom,
    robustness,
    suite_plan,
)
from notsure.evaluation.run_folder import PARTS, RECORDS
from notsure.evaluation.suites import VERSION, taught_by
from notsure.models import Randomized
from notsure.observation import Observation
from tests.conftest import Digits
from tests.toys import images, small_network


def small_guard(seed: int = 0) -> ns.Guard:
    return ns.Guard(ns.Classifier(small_network(seed)))


def labelled(count: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    x = images(count, (1, 6, 6))
    with torch.no_grad():
        return x, small_network(0)(x).argmax(dim=1)


def values(records: Records, without: tuple[str, ...] = ("seconds",)) -> dict[str, list[Any]]:
    order = ["guard", "threat", "probe", "attack_id", "eps", "index"]
    table = records.table.sort_by([(name, "ascending") for name in order])
    return {name: table[name].to_pylist() for name in table.column_names if name not in without}


# threats


def test_each_threat_shows_what_it_says(digits: Digits) -> None:
    guard = digits.guard
    shown = {name: access_of(threat.target(guard)) for name, threat in THREATS.items()}
    assert shown == {
        "oblivious": Access.GRADIENTS,
        "white-box": Access.GRADIENTS,
        "query-scores": Access.SCORES,
        "query-decisions": Access.DECISIONS,
    }
    assert not THREATS["oblivious"].target(guard).rejects
    assert all(
        THREATS[name].target(guard).rejects
        for name in ("white-box", "query-scores", "query-decisions")
    )


def test_threats_are_a_partial_order() -> None:
    known = {name: set(threat.includes) for name, threat in THREATS.items()}
    known["transfer"] = set(TransferFrom.includes)
    for name, included in known.items():
        assert name not in included
        for other in included:
            assert known[other] <= included, "who includes another includes all that it includes"
    assert known["white-box"] == set(known) - {"white-box"}
    assert "transfer" not in known["query-scores"], "queries teach nothing of a substitute"


def test_budgets_of_queries_hold() -> None:
    guard = small_guard()
    x, y = labelled()
    records = ns.evaluate(
        guard,
        x,
        y,
        attacks={"query-scores": [Square(eps=0.3)], "query-decisions": [HopSkipJump(queries=900)]},
        threats=[QueryScores(budget=30), QueryDecisions(budget=50)],
    )
    for threat, budget in (("query-scores", 30), ("query-decisions", 50)):
        spent = records.where(threat=threat).column("queries")
        assert 1 <= spent.max() <= budget
    with pytest.raises(ConfigurationError, match="no budget of queries"):
        ns.evaluate(guard, x, y, attacks=[ns.attacks.RandomNoise()], threats=[QueryScores(30)])
    with pytest.raises(ConfigurationError, match="at least 2"):
        QueryScores(1)


def test_transfer_is_an_attack_on_the_substitute() -> None:
    guard, other = small_guard(0), ns.Classifier(small_network(1))
    x, y = labelled()
    attack = PGD(eps=0.2, steps=5)
    records = ns.evaluate(
        guard, x, y, attacks=[attack], threats=["transfer"], substitutes={"other": other}
    )
    carried = records.where(threat="transfer")
    assert carried.distinct("substitute") == [("other",)]
    expected = dataclasses.replace(attack, early_stop=False)(other, x, y)
    with torch.no_grad():
        answers = guard.logits(expected.x).argmax(dim=1)
    assert carried.column("prediction").tolist() == answers.tolist()
    assert carried.column("success").tolist() == expected.success.tolist()
    with pytest.raises(ConfigurationError, match="needs a substitute"):
        ns.evaluate(guard, x, y, attacks=[attack], threats=["transfer"])


def test_attacks_that_see_the_same_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # a bare module becomes one target, whoever is sent what is made on it
    classifier, other = ns.Classifier(small_network(0)), small_network(1)
    x, y = labelled()
    calls: list[int] = []
    search = PGD.search

    def counted(self: PGD, problem: Any) -> torch.Tensor:
        calls.append(len(problem.x))
        return search(self, problem)

    monkeypatch.setattr(PGD, "search", counted)
    ns.evaluate(
        {"one": ns.Guard(classifier), "two": ns.Guard(classifier)},
        x,
        y,
        attacks=[PGD(eps=0.2, steps=3)],
        threats=["oblivious", "white-box", "transfer"],
        substitutes={"other": other},
        probes=0,
    )
    # oblivious and transfer once for both guards, white-box once for each
    assert calls == [len(x)] * 4


# suites


def stochastic_guard() -> ns.Guard:
    return ns.Guard(ns.Classifier(Randomized(small_network(0), sigma=0.1)))


def rejecting_guard(digits: Digits) -> ns.Guard:
    return digits.guard


@pytest.mark.parametrize("suite", ["quick", "standard", "full"])
def test_suites_suit_the_guard(suite: Any, digits: Digits) -> None:
    substitutes = {"other": digits.guard.classifier}
    plan = {
        name: suite_plan(guard, suite, [0.1, 0.2], substitutes=substitutes)
        for name, guard in (("bare", small_guard()), ("rejecting", digits.guard))
    }
    for own in plan.values():
        assert {threat.name for threat, _ in own} == {*THREATS, "transfer"}
        pairs = [(threat.name, attack.identity) for threat, attack in own]
        assert len(set(pairs)) == len(pairs)
    adaptive = [a for threat, a in plan["rejecting"] if threat.name == "white-box"]
    assert any(isinstance(attack, SelectivePGD) for attack in adaptive)
    strongest = [a for threat, a in plan["bare"] if threat.name == "white-box"]
    assert not any(isinstance(attack, SelectivePGD) for attack in strongest)
    assert suite == "quick" or any(isinstance(attack, AutoAttack) for attack in strongest)


def test_the_larger_suite_is_no_weaker(digits: Digits) -> None:
    for guard in (small_guard(), digits.guard):
        names = [
            {(threat.name, a.name) for threat, a in suite_plan(guard, suite, [0.2])}
            for suite in ("quick", "standard", "full")
        ]
        assert names[0] <= names[1] <= names[2]


def test_a_suite_meets_chance_with_averages() -> None:
    guard = stochastic_guard()
    for threat, attack in suite_plan(guard, "standard", [0.2], threats=["white-box"]):
        adapted = threat.adapt(attack, guard)
        assert isinstance(getattr(adapted, "gradient"), EOT), adapted  # noqa: B009
    ensembles = [
        attack.version
        for _, attack in suite_plan(guard, "standard", [0.2])
        if isinstance(attack, AutoAttack)
    ]
    assert ensembles == ["rand"]


def test_hard_parts_are_met_with_bpda() -> None:
    class Hard(nn.Module):
        differentiable = False

        def __init__(self) -> None:
            super().__init__()
            self.network = small_network(0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.network((x * 32).round() / 32)
            return answer

    guard = ns.Guard(ns.Classifier(Hard()))
    assert not guard.differentiable
    for threat, attack in suite_plan(guard, "quick", [0.2], threats=["white-box"]):
        adapted = threat.adapt(attack, guard)
        assert isinstance(getattr(adapted, "gradient"), BPDA)  # noqa: B009


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"suite": "hasty", "eps": [0.1]}, "no suite 'hasty'"),
        ({"suite": "quick"}, "takes budgets"),
        ({"suite": "quick", "eps": [0.1], "norm": "l1"}, "linf and l2"),
        ({"suite": "quick", "eps": [0.1], "threats": ["insider"]}, "no threat 'insider'"),
        ({"suite": "quick", "eps": [0.1], "attacks": [FGSM()]}, "leave attacks out"),
        ({"threats": "all", "attacks": [FGSM()]}, "leave attacks out"),
        ({"threats": "oblivious", "attacks": [FGSM()]}, "a list"),
        ({"attacks": []}, "no attack"),
        ({"attacks": FGSM()}, "attacks is a list"),
        ({"attacks": [FGSM()], "eps": 0.1}, "eps is a list"),
        ({"suite": "quick", "eps": "8/255"}, "eps is a list"),
        ({"suite": "quick", "eps": [0.1], "threats": []}, "each once"),
        ({"suite": "quick", "eps": [0.1], "threats": ["oblivious"] * 2}, "each once"),
        ({"attacks": [FGSM()], "batch_size": 0}, "batch_size has to be at least 1"),
        ({"attacks": [FGSM()], "probes": -1}, "probes and controlled at least 0"),
        (
            {"attacks": [FGSM()], "substitutes": {"other": nn.Flatten()}},
            "tells 36 classes apart, and the guard 'classifier' 4",
        ),
        (
            {"attacks": [FGSM()], "substitutes": {"other": nn.Sequential(nn.Linear(7, 3))}},
            r"'other' does not take images of shape \(1, 6, 6\)",
        ),
        ({"attacks": {"oblivious": [FGSM()]}}, "no attack"),
        ({"attacks": {"insider": [FGSM()]}, "threats": ["oblivious"]}, "not among those"),
        ({"attacks": [FGSM()], "threats": []}, "no threat"),
        ({"attacks": [FGSM(), FGSM()]}, "given twice"),
        ({"attacks": [FGSM()], "threats": ["oblivious", "oblivious"]}, "given twice"),
        ({"attacks": [FGSM()], "parameters": {"nobody": {}}}, "none of the guards"),
        (
            {"suite": "quick", "eps": [0.1], "substitutes": {"distilled": small_network(1)}},
            "'distilled' is what a suite calls",
        ),
    ],
)
def test_what_makes_no_run_says_why(settings: dict[str, Any], message: str) -> None:
    x, y = labelled()
    with pytest.raises(ConfigurationError, match=message):
        ns.evaluate(small_guard(), x, y, **settings)


def test_an_attack_that_does_not_apply_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = labelled()

    def never(*_: Any) -> None:
        raise AssertionError("an attack was run")

    monkeypatch.setattr(Square, "search", never)
    with pytest.raises(UnsupportedError, match="needs gradients"):
        ns.evaluate(small_guard(), x, y, attacks=[Square(eps=0.1), PGD()], threats=["query-scores"])


def test_the_quick_suite_on_a_real_guard(digits: Digits) -> None:
    records = ns.evaluate(
        {"guard": digits.guard},
        digits.x[:60],
        digits.y[:60],
        suite="quick",
        eps=[0.1, 0.2],
        substitutes={"itself": digits.guard.classifier},
    )
    assert records.meta["suite"] == {"name": "quick", "version": VERSION}
    told = records.where(threat="transfer").distinct("substitute")
    assert told == [("itself",), ("distilled",)]
    assert 0.3 < records.meta["substitutes"]["distilled from guard"]["agreement"] <= 1
    worst = {
        (row.threat, row.eps): row.lenient.value
        for row in robustness(records)
        if row.attack == "worst case" and row.eps
    }
    assert all(worst["white-box", eps] <= left for (_, eps), left in worst.items())
    assert {threat for threat, _ in worst} == set(records.meta["threats"])
    # transfers are made at the largest eps alone, and claim nothing of a smaller one
    assert ("transfer", 0.1) not in worst
    assert worst["white-box", 0.2] < 0.3


# probes, controls, rounding


def test_probes_are_of_the_first_images_and_count_in_no_figure(digits: Digits) -> None:
    settings: dict[str, Any] = {"attacks": [FGSM(), PGD(steps=5)], "eps": [0.1, 0.2]}
    x, y = digits.x[:50], digits.y[:50]
    without = ns.evaluate(digits.guard, x, y, probes=0, **settings)
    with_probes = ns.evaluate(digits.guard, x, y, probes=20, **settings)
    assert values(with_probes.ordinary()) == values(without)
    for kind in ("unbounded", "longer", "noise"):
        rows = with_probes.where(probe=kind)
        assert sorted(set(rows.column("index").tolist())) == list(range(20)), kind
        assert set(rows.column("threat")) == {"white-box"}, kind
    assert robustness(with_probes) == robustness(without)
    (longer,) = (a for (a,) in with_probes.where(probe="longer").distinct("attack_id"))
    told = with_probes.meta["attacks"][longer]
    base = with_probes.meta["attacks"][told["probe_of"]]
    assert (base["name"], base["eps"], base["steps"]) == ("PGD", 0.2, 5)
    assert told["steps"] == 20
    (unbounded,) = (a for (a,) in with_probes.where(probe="unbounded").distinct("attack_id"))
    assert with_probes.meta["attacks"][unbounded]["eps"] == 1.0
    assert sorted(with_probes.where(probe="noise").distinct("eps")) == [(0.1,), (0.2,)]


def test_controls_know_nothing_and_do_not_move(digits: Digits) -> None:
    settings: dict[str, Any] = {"attacks": [FGSM()], "eps": [0.3], "controlled": 30}
    x, y = digits.x[:50], digits.y[:50]
    state = {k: v.clone() for k, v in digits.guard.classifier.module.state_dict().items()}
    records = ns.evaluate(digits.guard, x, y, batch_size=17, **settings)
    again = ns.evaluate(digits.guard, x, y, batch_size=50, **settings)
    assert records.controls == ["untrained-detector", "untrained-network"]
    for name in records.controls:
        column = records.where(threat="clean").column(f"control_{name}")
        assert np.isfinite(column[:30]).all()
        assert np.isnan(column[30:]).all()
        assert column[:30].std() > 0
        other = again.where(threat="clean").column(f"control_{name}")
        np.testing.assert_allclose(column, other, rtol=1e-4, atol=1e-5)
    for name, value in digits.guard.classifier.module.state_dict().items():
        assert torch.equal(value, state[name]), "the untrained network is another one"
    # a bare classifier has no detector to stand beside
    assert ns.evaluate(small_guard(), *labelled(), attacks=[FGSM()]).controls == []


def test_rounded_images_are_judged_where_they_fooled(digits: Digits) -> None:
    x, y = digits.x[:40], digits.y[:40]
    attack = PGD(eps=0.3, steps=5)
    records = ns.evaluate(digits.guard, x, y, attacks=[attack], threats=["white-box"], probes=0)
    rows = records.where(threat="white-box")
    accepted = rows.column("accepted").astype(bool)
    fooled = accepted & (rows.column("prediction") != rows.column("y"))
    looked = ~np.isnan(rows.column("rounded_prediction").astype(float))
    changed = rows.column("linf") > 0
    assert looked.any()
    assert (looked == (fooled & changed)).all()
    found = attack(digits.guard, x, y)
    verdict = digits.guard.judge((found.x * 255).round() / 255)
    for row in np.flatnonzero(looked):
        assert rows.column("rounded_prediction")[row] == int(verdict.prediction[row])
        assert rows.column("rounded_accepted")[row] == bool(verdict.accepted[row])


def test_non_finite_gradients_are_told_from_zeros() -> None:
    class Poisoned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_network(0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # the square root of zero has an infinite slope, and zero times that is NaN
            answer: torch.Tensor = self.network(x) + (x * 0).abs().sum((1, 2, 3)).sqrt()[:, None]
            return answer

    x, y = labelled()
    records = ns.evaluate(Poisoned(), x, y, attacks=[PGD(eps=0.1, steps=3)], threats=["white-box"])
    rows = records.ordinary().where(threat="white-box", attack="PGD")
    assert (rows.column("non_finite_gradients") == rows.column("gradients")).all()
    assert (rows.column("dead_gradients") == rows.column("gradients")).all()
    sound = ns.evaluate(small_guard(), x, y, attacks=[PGD(eps=0.1, steps=3)])
    assert not sound.column("non_finite_gradients").any()


def test_scores_that_are_nan_are_an_error() -> None:
    class Undefined(Detector):
        needs_fit = False

        def score(self, observation: Observation) -> torch.Tensor:
            score = observation.logits.amax(dim=1)
            return torch.where(observation.x.flatten(1).mean(dim=1) > 0.9, torch.nan, score)

        def settings(self) -> dict[str, Any]:
            return {}

    x, y = labelled(200)
    guard = ns.Guard(ns.Classifier(small_network(0)), [Undefined()])
    guard.fit(x, y).calibrate(images(200, (1, 6, 6), seed=1), fpr=0.05)
    bright = torch.ones_like(x[:4]) * torch.linspace(0.95, 1, 4).view(-1, 1, 1, 1)
    with pytest.raises(VerificationError, match="gives NaN for 4 of 4"):
        ns.evaluate(guard, bright, y[:4], attacks=[FGSM()])


def test_images_that_were_seen_are_refused(digits: Digits) -> None:
    calibration = digits.split.calibration
    with pytest.raises(InputError, match="calibration already"):
        ns.evaluate(digits.guard, calibration.x[:50], calibration.labels[:50], attacks=[FGSM()])
    x = torch.cat([digits.x[:150], calibration.x[:1]])
    y = torch.cat([digits.y[:150], calibration.labels[:1]])
    with pytest.warns(UserWarning, match="1 of 151"):
        records = ns.evaluate(digits.guard, x, y, attacks=[FGSM()], threats=["oblivious"])
    assert records.meta["guards"]["guard"]["leaked"] == {"fit": 0, "calibration": 1}


# runs in a folder


class StopError(Exception):
    pass


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets so many batches be attacked, and stops the run at the next."""
    search = PGD.search

    def stop_after(count: int) -> None:
        left = [count]

        def counted(self: PGD, problem: Any) -> torch.Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise StopError
            return search(self, problem)

        monkeypatch.setattr(PGD, "search", counted)

    return stop_after


RUN: dict[str, Any] = {"attacks": [PGD(steps=4)], "eps": [0.1, 0.2], "batch_size": 16, "seed": 2}


@pytest.mark.parametrize("done", [0, 1, 5, 9])
def test_an_interrupted_run_gives_the_same_records(
    digits: Digits, tmp_path: Path, stopping: Callable[[int], None], done: int
) -> None:
    x, y = digits.x[:40], digits.y[:40]
    whole = ns.evaluate(digits.guard, x, y, **RUN)
    stopping(done)
    with pytest.raises(StopError):
        ns.evaluate(digits.guard, x, y, out=tmp_path / "run", **RUN)
    assert len(list((tmp_path / "run" / PARTS).glob("*.parquet"))) == done
    stopping(10**6)
    resumed = ns.evaluate(digits.guard, x, y, out=tmp_path / "run", **RUN)
    assert values(resumed) == values(whole)
    assert resumed.meta == whole.meta
    assert not (tmp_path / "run" / PARTS).exists()
    read = Records.read(tmp_path / "run" / RECORDS)
    assert values(read, without=()) == values(resumed, without=())
    # a run that is over is read, not run again
    stopping(0)
    again = ns.evaluate(digits.guard, x, y, out=tmp_path / "run", **RUN)
    assert values(again, without=()) == values(resumed, without=())


def test_another_run_does_not_go_on_in_the_folder(digits: Digits, tmp_path: Path) -> None:
    x, y = digits.x[:20], digits.y[:20]
    ns.evaluate(digits.guard, x, y, out=tmp_path, **RUN)
    others: list[tuple[Any, torch.Tensor, dict[str, Any], str]] = [
        (digits.guard, x, {**RUN, "seed": 3}, "its seed is 2, that of this run 3"),
        (digits.guard, x, {**RUN, "eps": [0.1]}, "attacks"),
        (digits.guard, x.flip(0), RUN, "images"),
    ]
    for guard, given, settings, message in others:
        with pytest.raises(CheckpointError, match=message):
            ns.evaluate(guard, given, y, out=tmp_path, **settings)
    twin = ns.Guard(digits.guard.classifier, [ns.detectors.KDensity()])
    twin.fit(digits.split.train).calibrate(digits.split.calibration, fpr=0.05)
    with pytest.raises(CheckpointError, match="guards"):
        ns.evaluate(twin, x, y, out=tmp_path, **RUN)


def test_another_suite_or_network_is_named_with_ours(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = labelled()
    suite: dict[str, Any] = {"suite": "quick", "eps": [0.1], "threats": ["oblivious"]}
    ns.evaluate(small_guard(0), x, y, out=tmp_path, **suite)
    with pytest.raises(CheckpointError) as caught:
        ns.evaluate(small_guard(1), x, y, out=tmp_path, **suite)
    for seed in (0, 1):
        weights = ns.core.state.weights_hash(small_network(seed))
        assert weights in str(caught.value)
    monkeypatch.setattr("notsure.evaluation.examiner.VERSION", "9")
    with pytest.raises(CheckpointError, match=rf"'{VERSION}' \(version\).*'9' \(version\)"):
        ns.evaluate(small_guard(0), x, y, out=tmp_path, **suite)


def test_damaged_parts_are_told(
    digits: Digits, tmp_path: Path, stopping: Callable[[int], None]
) -> None:
    x, y = digits.x[:40], digits.y[:40]
    stopping(3)
    with pytest.raises(StopError):
        ns.evaluate(digits.guard, x, y, out=tmp_path, **RUN)
    part = sorted((tmp_path / PARTS).glob("*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="truncated"):
        ns.evaluate(digits.guard, x, y, out=tmp_path, **RUN)
    part.unlink()
    stopping(10**6)
    records = ns.evaluate(digits.guard, x, y, out=tmp_path, **RUN)
    assert values(records) == values(ns.evaluate(digits.guard, x, y, **RUN))


def test_a_part_of_another_run_is_not_mixed_in(
    tmp_path: Path, stopping: Callable[[int], None]
) -> None:
    """Whatever its folder says: a part says itself of which run it is."""
    x, y = labelled(40)
    for seed in (0, 1):
        stopping(3)
        with pytest.raises(StopError):
            ns.evaluate(small_guard(seed), x, y, out=tmp_path / str(seed), **RUN)
    name = "000002.parquet"
    (tmp_path / "1" / PARTS / name).replace(tmp_path / "0" / PARTS / name)
    stopping(10**6)
    with pytest.raises(CheckpointError, match="is of another run: its guards") as caught:
        ns.evaluate(small_guard(0), x, y, out=tmp_path / "0", **RUN)
    for seed in (0, 1):
        assert ns.core.state.weights_hash(small_network(seed)) in str(caught.value)
    (tmp_path / "0" / PARTS / name).unlink()
    again = ns.evaluate(small_guard(0), x, y, out=tmp_path / "0", **RUN)
    assert values(again) == values(ns.evaluate(small_guard(0), x, y, **RUN))


def test_a_guard_whose_parts_learnt_something_else_is_another_guard(
    digits: Digits, tmp_path: Path
) -> None:
    """Same network, same settings, same thresholds: what the detector learnt tells them apart."""
    train = digits.split.train
    twins = []
    for count in (600, 500):
        guard = ns.Guard(digits.guard.classifier, [ns.detectors.KDensity()])
        guard.fit(train.x[:count], train.y[:count]).calibrate(digits.split.calibration, fpr=0.05)
        twins.append(guard)
    twins[1].calibration = twins[0].calibration
    x, y = digits.x[:10], digits.y[:10]
    attacks = [FGSM(eps=0.1)]
    records = ns.evaluate(twins[0], x, y, attacks=attacks, out=tmp_path)
    with pytest.raises(CheckpointError, match=r"\(learnt\)") as caught:
        ns.evaluate(twins[1], x, y, attacks=attacks, out=tmp_path)
    assert records.meta["guards"]["guard"]["learnt"] in str(caught.value)
    bare = ns.evaluate(digits.guard.classifier, x, y, attacks=attacks)
    assert bare.meta["guards"]["classifier"]["learnt"] is None


def test_a_substitute_is_taught_once_and_not_for_a_run_that_is_over(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons: list[int] = []

    def teach(guard: ns.Guard, x: torch.Tensor, suite: Any, seed: int) -> Any:
        lessons.append(len(x))
        return taught_by(guard, x, suite, seed)

    monkeypatch.setattr("notsure.evaluation.wanted.taught_by", teach)
    told: dict[str, Any] = {
        "suite": "quick",
        "threats": ["oblivious", "transfer"],
        "eps": [0.1],
        "batch_size": 10,
        "probes": 0,
        "out": tmp_path,
    }
    x, y = digits.x[:20], digits.y[:20]
    whole = ns.evaluate(digits.guard, x, y, **told)
    assert lessons == [20]
    again = ns.evaluate(digits.guard, x, y, **told)
    assert lessons == [20]
    assert values(again, without=()) == values(whole, without=())
    assert again.meta == whole.meta
    assert again.meta["substitutes"]["distilled from guard"]["queries"] >= 20


def test_guards_and_classifiers_are_examined_side_by_side() -> None:
    x, y = labelled()
    network = small_network(1)
    records = ns.evaluate({"guard": small_guard(), "bare": network}, x, y, attacks=[FGSM(eps=0.1)])
    assert records.guards == ["guard", "bare"]


def test_progress_tells_what_is_left_within_the_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    remarks: list[str] = []

    @contextmanager
    def told(*_: Any, **__: Any) -> Iterator[Callable[[int, str], None]]:
        yield lambda _, remark: remarks.append(remark)

    monkeypatch.setattr("notsure.evaluation.examiner.progress_bar", told)
    x, y = labelled()
    attacks = [DeepFool(), PGD(eps=0.02, steps=3)]
    records = ns.evaluate(small_guard(), x, y, attacks=attacks, threats=["white-box"], probes=0)
    left = [float(one.split("left so far ")[1].rstrip("%")) for one in remarks]
    rows = {row.attack: row for row in robustness(records)}
    assert rows["DeepFool"].lenient.value < 0.2
    # images from any distance do not count as soon as there is a budget
    assert left[-1] == pytest.approx(100 * rows["worst case"].lenient.value, abs=0.06)
    assert left[0] > 50


def test_the_time_left_is_judged_by_what_this_process_does(
    tmp_path: Path, stopping: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = labelled(40)
    stopping(3)
    with pytest.raises(StopError):
        ns.evaluate(small_guard(), x, y, out=tmp_path, **RUN)
    stopping(10**6)
    moved: list[int] = []

    @contextmanager
    def told(_: str, total: int, *, start: int, **__: Any) -> Iterator[Callable[[int, str], None]]:
        moved.extend([-total, start])
        yield lambda units, _: moved.append(units)

    monkeypatch.setattr("notsure.evaluation.examiner.progress_bar", told)
    ns.evaluate(small_guard(), x, y, out=tmp_path, **RUN)
    assert moved[1] == 16 + 16 + 8
    assert moved[2:5] == [0, 0, 0]
    assert sum(moved) == 0


def test_a_label_only_attack_under_scores() -> None:
    x, y = labelled()
    attack = NES(eps=0.3, queries=60)
    records = ns.evaluate(small_guard(), x, y, attacks=[attack], threats=["query-scores"])
    assert records.where(threat="query-scores").column("queries").max() <= 60
    curve = ns.evaluate(small_guard(), x, y, attacks=[DeepFool()], threats=["white-box"])
    assert curve.meta["probed"] == len(x)
    assert set(curve.column("probe")) == {None}, "there is no bounded attack to probe with"


KILLED = """
import sys
import notsure as ns
from tests.test_examiner import killed_run
killed_run(sys.argv[1])
"""


def killed_run(out: str | None) -> Records:
    """A run of many small parts, the same in every process."""
    x, y = labelled(48)
    attack = PGD(eps=0.01, steps=60)
    return ns.evaluate(small_guard(), x, y, attacks=[attack], batch_size=4, out=out, probes=0)


def test_a_run_that_is_killed_loses_nothing_it_has_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], cwd=root)
    parts: list[Path] = []
    until = time.monotonic() + 120
    while len(parts) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
        parts = list((folder / PARTS).glob("[0-9]*.parquet"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(parts) >= 3
    assert not (folder / RECORDS).exists(), "the run was over before it could be killed"
    written = {path.name: path.read_bytes() for path in (folder / PARTS).glob("[0-9]*.parquet")}
    resumed = killed_run(str(folder))
    assert values(resumed) == values(killed_run(None))
    # what was there was taken, not made again: its seconds are the first process's
    seconds = resumed.column("seconds")
    for content in written.values():
        (folder / "part.parquet").write_bytes(content)
        assert np.isin(Records.read(folder / "part.parquet").column("seconds"), seconds).all()
