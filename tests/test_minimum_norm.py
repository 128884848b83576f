"""Minimum-norm attacks against the exact nearest point of linear models, and their own rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import notsure as ns
from notsure.attacks import (
    DDN,
    FAB,
    PGD,
    CarliniWagner,
    DeepFool,
    Margin,
    Misclassified,
    Targeted,
    Undetected,
)
from notsure.attacks.geometry import NORMS, norm_named
from notsure.core.errors import ConfigurationError
from tests.toys import Fenced, LinearModel, images, optimal_distance, small_network

SHAPE = (2, 4, 4)
CASES = [
    (DeepFool(), 1.01),
    (DeepFool(norm="linf"), 1.01),
    (DeepFool(norm="l1", overshoot=1e-3), 1.01),
    (DDN(), 1.01),
    (FAB(norm="l2", steps=20), 1.01),
    (FAB(norm="linf", steps=20), 1.01),
    (FAB(norm="l1", steps=20), 1.05),
    (FAB(norm="l2", steps=20, targets=9), 1.01),
    (CarliniWagner(steps=400, binary_search_steps=7), 1.01),
]
few = settings(max_examples=6, deadline=None)


def named(value: Any) -> str:
    return f"{value.name}-{value.norm}" if hasattr(value, "norm") else str(value)


def ratios(
    attack: Any, num_logits: int, *, binary: bool, targeted: bool, seed: int = 3
) -> torch.Tensor:
    """The distances found over the least possible ones; infinite where it failed."""
    model = LinearModel(SHAPE, num_logits, seed=num_logits)
    classifier = ns.Classifier(model)
    x = images(6, SHAPE, seed=seed)
    x = x.round() if binary else x
    y = classifier.logits(x).argmax(dim=1)
    wanted = (y + 1) % max(num_logits, 2)
    found = attack(classifier, x, y, goal=Targeted(label=wanted) if targeted else None)
    least = torch.tensor(
        [
            optimal_distance(
                model, x[i], int(y[i]), attack.norm, int(wanted[i]) if targeted else None
            )
            for i in range(len(x))
        ]
    )
    ratio: torch.Tensor = found.distance[attack.norm] / least
    ratio[~found.success] = torch.inf
    return ratio[torch.isfinite(least)]


@pytest.mark.parametrize(("attack", "limit"), CASES, ids=named)
@pytest.mark.parametrize("num_logits", [1, 2])
@pytest.mark.parametrize("binary", [False, True])
def test_two_classes_reach_the_nearest_point(
    attack: Any, limit: float, num_logits: int, binary: bool
) -> None:
    for targeted in (False, True):
        ratio = ratios(attack, num_logits, binary=binary, targeted=targeted)
        assert len(ratio)
        assert float(ratio.min()) >= 1 - 1e-4
        assert float(ratio.max()) <= limit


@pytest.mark.parametrize(("attack", "limit"), CASES, ids=named)
@pytest.mark.parametrize("num_logits", [3, 10])
def test_more_classes_reach_the_nearest_point_untargeted(
    attack: Any, limit: float, num_logits: int
) -> None:
    ratio = ratios(attack, num_logits, binary=False, targeted=False)
    assert len(ratio) == 6
    assert float(ratio.median()) <= limit
    # two boundaries that are nearly as near cost the gradient searches a little more
    assert float(ratio.max()) <= max(limit, 1.1)


@pytest.mark.parametrize(
    ("attack", "limit"),
    [(DDN(), 1.1), (FAB(norm="l2", steps=50), 1.1), (CarliniWagner(steps=400), 1.1)],
    ids=named,
)
def test_targets_are_reached_from_nearby(attack: Any, limit: float) -> None:
    for num_logits in (3, 10):
        ratio = ratios(attack, num_logits, binary=False, targeted=True)
        assert float(ratio.median()) <= limit


@pytest.mark.parametrize("name", list(NORMS))
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 0.99))
def test_the_shortest_step_is_shortest(name: str, seed: int, share: float) -> None:
    norm = norm_named(name)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, *SHAPE, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.4, x.round(), x)
    gradient = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    gradient[torch.rand(x.shape, generator=generator) < 0.1] = 0
    low, high = -x, 1 - x
    most = torch.where(gradient > 0, gradient * high, gradient * low).flatten(1).sum(dim=1)
    rise = share * most
    step = norm.shortest_step(gradient, rise, low, high)
    assert bool(((step >= low - 1e-12) & (step <= high + 1e-12)).all())
    assert torch.allclose((gradient * step).flatten(1).sum(dim=1), rise, rtol=1e-6)
    # nothing in a slightly smaller ball rises as much: projected ascent finds the most there is
    radius = norm.distance(step)
    for row in range(len(x)):
        smaller = 0.99 * float(radius[row])
        one = slice(row, row + 1)
        best = torch.zeros_like(x[one])
        for length in (1.0, 10.0, 1e3, 1e5):
            along = best + length * gradient[one] / norm.dual(gradient[one])
            best = norm.project(along, smaller, low[one], high[one])
        assert float((gradient[one] * best).sum()) < float(rise[row])


def test_a_step_that_does_not_fit_goes_as_far_as_it_can() -> None:
    gradient = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    low, high = torch.zeros_like(gradient), torch.full_like(gradient, 0.5)
    for norm in NORMS.values():
        step = norm.shortest_step(gradient, torch.tensor([9.0]).double(), low, high)
        assert torch.allclose(step, high)
        none = norm.shortest_step(gradient, torch.tensor([-1.0]).double(), low, high)
        assert torch.equal(none, torch.zeros_like(none))


def network_case(seed: int) -> tuple[ns.Classifier, torch.Tensor, torch.Tensor]:
    classifier = ns.Classifier(small_network(seed))
    x = images(7, (1, 6, 6), seed=seed)
    y = classifier.logits(x).argmax(dim=1).detach()
    y[0] = (y[0] + 1) % 4
    return classifier, x, y


KINDS = [
    DeepFool(),
    DDN(steps=30),
    FAB(norm="l2", steps=8, restarts=2),
    CarliniWagner(steps=100, binary_search_steps=4, initial_constant=1.0),
]


@pytest.mark.parametrize("attack", KINDS, ids=named)
@few
@given(seed=st.integers(0, 999))
def test_the_rules_hold(attack: Any, seed: int) -> None:
    classifier, x, y = network_case(seed)
    random_state = torch.get_rng_state()
    together = attack(classifier, x, y, seed=seed)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in classifier.parameters())
    # what was wrong before is a success at distance 0, what failed comes back clean
    assert bool(together.success[0])
    assert float(together.distance["l2"][0]) == 0
    assert int(together.gradients[0]) == 0
    assert torch.equal(together.x[~together.success], x[~together.success])
    assert float(together.x.min()) >= 0
    assert float(together.x.max()) <= 1
    wrong = classifier.logits(together.x).argmax(dim=1) != y
    assert torch.equal(wrong, together.success)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    shuffled = attack(classifier, x[order], y[order], seed=seed, batch_size=3)
    assert torch.allclose(shuffled.x, together.x[order], atol=1e-6)
    assert torch.equal(shuffled.gradients, together.gradients[order])


@pytest.mark.parametrize("attack", KINDS, ids=named)
def test_it_is_nearer_than_a_ball_that_fails(attack: Any) -> None:
    """What PGD cannot do within a radius, nothing nearer than that does either (nearly)."""
    classifier, _, _ = network_case(1)
    x = images(30, (1, 6, 6), seed=11)
    y = classifier.logits(x).argmax(dim=1)
    found = attack(classifier, x, y)
    assert float(found.success.double().mean()) > 0.9
    for radius in (0.05, 0.2, 0.4):
        ball = PGD(norm="l2", eps=radius, objective=Margin(), steps=60)(classifier, x, y).success
        reached = found.success & (found.distance["l2"] <= 1.1 * radius)
        assert float((ball & ~reached).double().mean()) <= 0.1


@pytest.mark.parametrize(
    "kind", [DeepFool, DDN, FAB, CarliniWagner], ids=lambda kind: str(kind.__name__)
)
def test_confidence_is_kept_by_what_is_returned(kind: Any) -> None:
    classifier = ns.Classifier(LinearModel(SHAPE, 4, seed=2))
    x = images(12, SHAPE)
    y = classifier.logits(x).argmax(dim=1)
    settings_of: dict[str, Any] = {"norm": "l2"}
    if kind is CarliniWagner:
        settings_of |= {"steps": 200, "binary_search_steps": 6}
    plain = kind(**settings_of)(classifier, x, y)
    sure = kind(**settings_of, confidence=1.5)(classifier, x, y)
    by_goal = kind(**settings_of)(classifier, x, y, goal=Misclassified(confidence=1.5))
    for found in (sure, by_goal):
        logits = classifier.logits(found.x).detach()
        own = logits.gather(1, y[:, None])[:, 0]
        ahead = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - own
        assert float(found.success.double().mean()) > 0.9
        assert float(ahead[found.success].min()) >= 1.5 - 1e-9
        assert float(found.distance["l2"].median()) > float(plain.distance["l2"].median())


def test_one_run_yields_the_whole_curve() -> None:
    classifier = ns.Classifier(LinearModel(SHAPE, 3, seed=3))
    x = images(20, SHAPE)
    y = classifier.logits(x).argmax(dim=1)
    found = DeepFool()(classifier, x, y)
    least = np.array(
        [optimal_distance(classifier.module, x[i], int(y[i]), "l2", None) for i in range(20)]  # type: ignore[arg-type]
    )
    radii = [0.0, float(np.median(least)), float(least.max()) * 1.05]
    curve = found.robust_accuracy(radii)
    assert curve.tolist()[0] == 1.0
    assert curve.tolist()[2] == 0.0
    assert abs(curve.tolist()[1] - float((least > radii[1] * 0.999).mean())) <= 0.1


def test_easy_samples_cost_less() -> None:
    classifier = ns.Classifier(LinearModel(SHAPE, 3, seed=3))
    x = images(8, SHAPE)
    y = classifier.logits(x).argmax(dim=1)
    found = CarliniWagner(steps=1000)(classifier, x, y)
    assert int(found.gradients.max()) < 9 * 1000 / 3
    assert len(set(found.gradients.tolist())) > 1
    to_the_end = CarliniWagner(steps=60, abort_early=False)(classifier, x, y)
    assert bool((to_the_end.gradients == 9 * 60).all())


@pytest.mark.parametrize(
    "attack",
    [DeepFool(), DDN(steps=200), FAB(norm="l2"), CarliniWagner(rejection_slack=0.05)],
    ids=named,
)
def test_a_detector_is_evaded_on_the_way(attack: Any) -> None:
    target = Fenced()
    x = images(40, (1, 2, 2), seed=4)
    y = target.logits(x).argmax(dim=1)
    oblivious = attack(ns.Classifier(target.model), x, y)
    caught = target.rejection(oblivious.x) > 0
    assert float(caught.double().mean()) > 0.2
    aware = attack(target, x, y)
    assert float(aware.success.double().mean()) > 0.9
    assert bool((target.rejection(aware.x) <= 0)[aware.success].all())
    strict = attack(target, x, y, goal=Undetected(Misclassified(), slack=0.2))
    assert bool((target.rejection(strict.x) <= -0.2)[strict.success].all())


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: DeepFool(norm="l3"), "l2 and linf and l1"),
        (lambda: DDN(norm="linf"), "norm l2"),
        (lambda: DeepFool(steps=0), "at least 1"),
        (lambda: DeepFool(confidence=-1), "kappa"),
        (lambda: DeepFool(overshoot=0), "overshoot"),
        (lambda: DeepFool(candidates=0), "candidates"),
        (lambda: DDN(gamma=1.0), "gamma"),
        (lambda: CarliniWagner(confidence=-3), "kappa"),
        (lambda: CarliniWagner(binary_search_steps=0), "binary_search_steps"),
        (lambda: CarliniWagner(learning_rate=0), "learning_rate"),
        (lambda: FAB(beta=1.0), "beta"),
        (lambda: FAB(restarts=0), "restarts"),
        (lambda: Undetected(Misclassified(), slack=-1), "slack"),
    ],
)
def test_settings_are_checked(make: Any, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        make()
