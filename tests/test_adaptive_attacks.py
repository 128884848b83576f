"""Who sees the detector beats one that can be beaten, and not one that cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import notsure as ns
from notsure.attacks import (
    APGD,
    DDN,
    DLR,
    FAB,
    PGD,
    AutoAttack,
    CarliniWagner,
    CrossEntropy,
    DeepFool,
    Margin,
    Misclassified,
    OrthogonalPGD,
    SelectivePGD,
    Square,
    Targeted,
)
from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.target import Response
from tests.conftest import Digits
from tests.test_attacks_closed_form import conforms
from tests.toys import Fenced, LinearModel, images, small_network

SHAPE = (1, 2, 2)
ADAPTIVE = [
    PGD(eps=0.45, steps=60),
    OrthogonalPGD(eps=0.45),
    SelectivePGD(eps=0.45),
    APGD(eps=0.45),
    Square(eps=0.45, queries=2000),
    AutoAttack(eps=0.45, queries=500),
    OrthogonalPGD(eps=0.7, norm="l2"),
    SelectivePGD(eps=1.4, norm="l1"),
]


def named(attack: Any) -> str:
    return f"{attack.name}-{attack.norm}"


def case() -> tuple[torch.Tensor, torch.Tensor]:
    x = images(40, SHAPE, seed=4)
    return x, Fenced().logits(x).argmax(dim=1).detach()


@pytest.mark.parametrize("attack", ADAPTIVE, ids=named)
def test_a_detector_that_can_be_beaten_is(attack: Any) -> None:
    target = Fenced()
    x, y = case()
    oblivious = PGD(norm=attack.norm, eps=attack.eps, early_stop=False)(
        ns.Classifier(target.model), x, y
    )
    passed = oblivious.success & (target.rejection(oblivious.x) <= 0)
    found = attack(target, x, y)
    assert bool(((target.rejection(found.x) <= 0) | ~found.success).all())
    wrong = target.logits(found.x).argmax(dim=1) != y
    assert bool((wrong | ~found.success).all())
    assert float(found.success.double().mean()) > float(passed.double().mean()) + 0.2


@pytest.mark.parametrize("attack", ADAPTIVE, ids=named)
def test_a_detector_that_rejects_everything_is_not_beaten(attack: Any) -> None:
    target = Fenced(everything=True)
    x, y = case()
    found = attack(target, x, y)
    assert not bool(found.success.any())
    assert torch.equal(found.x, x)


GUARD_BREAKERS = [
    (CarliniWagner(steps=300, binary_search_steps=6, initial_constant=0.1), 0.8),
    (CarliniWagner(steps=300, binary_search_steps=6, initial_constant=0.1, confidence=2.0), 0.6),
    (DDN(), 0.8),
    (DeepFool(), 0.5),
    (FAB(norm="l2", steps=30), 0.5),
    (OrthogonalPGD(eps=0.4, restarts=4), 0.6),
    (SelectivePGD(eps=0.4, restarts=4), 0.6),
    (APGD(eps=0.4, restarts=4), 0.6),
]


@pytest.mark.parametrize(
    ("attack", "least"), GUARD_BREAKERS, ids=lambda value: getattr(value, "name", "")
)
def test_a_real_guard_is_broken_by_who_sees_it(attack: Any, least: float, digits: Digits) -> None:
    guard, x, y = digits.guard, digits.x[:24], digits.y[:24]
    clean = guard.judge(x)
    rows = (clean.label == y).nonzero().flatten()
    x, y = x[rows], y[rows]
    found = attack(guard, x, y)
    verdict = guard.judge(found.x)
    assert bool(((verdict.prediction != y) & verdict.accepted)[found.success].all())
    assert float(found.success.double().mean()) >= least
    if attack.confidence:
        logits = guard.logits(found.x).detach()
        own = logits.gather(1, y[:, None])[:, 0]
        ahead = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - own
        assert float(ahead[found.success].min()) >= attack.confidence - 1e-4


class _Blind(torch.nn.Module):
    """Rejects by the first pixel alone: the class does not need it."""

    stochastic = False
    differentiable = True
    rejects = True

    def respond(self, x: torch.Tensor) -> Response:
        return Response(self.logits(x), self.rejection(x))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        value = x[:, 0, 0, 0] + x[:, 0, 0, 1] - 1
        return torch.stack([-value, value], dim=1)

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0, 0] - 0.35


def test_an_orthogonal_step_leaves_the_detector_alone() -> None:
    target = _Blind()
    x = torch.full((1, 1, 1, 2), 0.3, dtype=torch.float64)
    y = torch.tensor([0])
    # the class takes x1 + x2 > 1; plain steps move both pixels and are rejected at once
    plain = PGD(norm="l2", eps=0.42, steps=1, step_size=0.42, random_start=False)
    assert float(target.rejection(plain(ns.Classifier(_Logits()), x, y).x)[0]) > 0
    found = OrthogonalPGD(norm="l2", eps=0.42, steps=8, random_start=False)(target, x, y)
    assert bool(found.success[0])
    assert float(found.x[0, 0, 0, 0]) == pytest.approx(0.3, abs=1e-6)


class _Logits(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Blind().logits(x)


def test_a_target_that_rejects_nothing_is_refused() -> None:
    classifier = ns.Classifier(small_network(0))
    x = images(2, (1, 6, 6))
    for kind in (OrthogonalPGD, SelectivePGD):
        with pytest.raises(UnsupportedError, match="use PGD"):
            kind(eps=0.1)(classifier, x, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("num_logits", [1, 2])
def test_apgd_solves_two_classes(norm: str, num_logits: int) -> None:
    conforms(
        APGD,
        norm=norm,
        num_logits=num_logits,
        count=3,
        shape=(1, 3, 4),
        targeted=False,
        ratio=1.02,
    )


@pytest.mark.parametrize("objective", [CrossEntropy(), DLR(), Margin()])
@pytest.mark.parametrize("num_logits", [3, 4, 10])
def test_apgd_solves_more_classes_nearly(objective: Any, num_logits: int) -> None:
    conforms(
        APGD,
        norm="linf",
        num_logits=num_logits,
        count=3,
        shape=(3, 4, 5),
        targeted=False,
        ratio=1.6 if isinstance(objective, CrossEntropy) else 1.05,
        objective=objective,
        targets=0 if isinstance(objective, CrossEntropy) else num_logits - 1,
    )


def test_the_checkpoints_are_the_published_ones() -> None:
    assert APGD(steps=100).checkpoints == {22, 41, 57, 70, 80, 87, 93, 99}


def test_a_step_size_that_is_too_long_is_halved() -> None:
    """On a narrow valley the fixed step of 2 eps / steps overshoots; APGD settles."""
    classifier = ns.Classifier(small_network(5))
    x = images(60, (1, 6, 6), seed=2)
    y = classifier.logits(x).argmax(dim=1)
    adaptive = APGD(eps=0.06, steps=50, early_stop=False, random_start=False)(classifier, x, y)
    fixed = PGD(eps=0.06, steps=50, step_size=0.12, early_stop=False, random_start=False)(
        classifier, x, y
    )

    def loss(images_: torch.Tensor) -> torch.Tensor:
        logits = classifier.logits(images_).detach()
        return torch.nn.functional.cross_entropy(logits, y, reduction="none")

    both = adaptive.success & fixed.success
    assert int(both.sum()) > 5
    assert float((loss(adaptive.x) - loss(fixed.x))[both].min()) >= -1e-3
    assert int(adaptive.success.sum()) >= int(fixed.success.sum())


def test_the_dlr_does_not_feel_the_scale_and_falls_back() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0]])
    y, goal = torch.tensor([0]), Misclassified()
    value = DLR()(Response(logits), y, goal)
    # -(3 - 2) / (3 - 1)
    assert float(value[0]) == pytest.approx(-0.5)
    assert torch.allclose(DLR()(Response(100 * logits), y, goal), value)
    towards = DLR()(Response(logits), torch.tensor([1]), Targeted(label=1))
    # (1 - 3) / (3 - (1 + 0) / 2)
    assert float(towards[0]) == pytest.approx(-0.8)
    for few in (2, 3):
        short = Response(logits[:, :few])
        assert torch.equal(DLR()(short, y, goal), Margin()(short, y, goal))


def test_autoattack_is_at_least_as_strong_as_each_of_its_parts() -> None:
    classifier = ns.Classifier(small_network(5))
    x = images(40, (1, 6, 6), seed=2)
    y = classifier.logits(x).argmax(dim=1)
    ensemble = AutoAttack(eps=0.04, steps=20, queries=200)
    whole = ensemble(classifier, x, y)
    successes = []
    for part in ensemble.parts:
        alone = part(classifier, x, y)
        inside = alone.success & (alone.distance["linf"] <= 0.04 + 1e-6)
        assert not bool((inside & ~whole.success).any())
        successes.append(int(inside.sum()))
    assert 0 < max(successes) <= int(whole.success.sum()) < 40
    # only who still stands goes on
    fallen = APGD(eps=0.04, steps=20)(classifier, x, y).success
    assert int(whole.gradients[fallen].max()) <= 21
    assert int(whole.gradients[~whole.success].min()) > 100
    assert float(whole.distance["linf"].max()) <= 0.04 + 1e-6


@pytest.mark.parametrize("num_logits", [1, 2, 3, 4, 10])
def test_autoattack_knows_any_number_of_classes(num_logits: int) -> None:
    classifier = ns.Classifier(LinearModel((1, 3, 3), num_logits, seed=3))
    x = images(10, (1, 3, 3))
    y = classifier.logits(x).argmax(dim=1)
    for norm, eps in (("linf", 0.9), ("l2", 2.5)):
        found = AutoAttack(norm=norm, eps=eps, steps=10, queries=50)(classifier, x, y)
        assert bool(found.success.any())


def test_the_rand_version_averages_gradients() -> None:
    parts = AutoAttack(version="rand").parts
    assert [part.name for part in parts] == ["APGD", "APGD"]
    assert all(part.source.n == 20 for part in parts)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: AutoAttack(norm="l1"), "linf and l2"),
        (lambda: AutoAttack(version="plus"), "standard or rand"),  # type: ignore[arg-type]
        (lambda: AutoAttack(eps=8), "8/255"),
        (lambda: APGD(rho=1.0), "rho"),
        (lambda: APGD(targets=-1), "targets"),
        (lambda: OrthogonalPGD(slack=-1), "slack"),
    ],
)
def test_settings_are_checked(make: Any, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        make()
