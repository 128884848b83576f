"""Every attack against the exact optimum on linear models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import notsure as ns
from notsure.attacks import (
    BIM,
    FGSM,
    ILCM,
    MIM,
    PGD,
    Attack,
    CrossEntropy,
    Margin,
    Misclassified,
    Targeted,
)
from notsure.attacks.base import Budget
from notsure.attacks.geometry import norm_named
from notsure.attacks.problem import Problem
from tests.toys import LinearModel, images, optimal_distance

NORMS = ["linf", "l2", "l1"]


@dataclass(frozen=True, kw_only=True)
class Identity(Attack):
    """Does nothing, as an attack with a silent bug would."""

    norm: str = "linf"
    eps: float | str = 0.1

    @property
    def budget(self) -> Budget:
        return Budget(norm_named(self.norm), float(self.eps))

    def search(self, problem: Problem) -> torch.Tensor:
        return problem.x


def conforms(
    kind: Any,
    *,
    norm: str,
    num_logits: int,
    count: int,
    shape: tuple[int, int, int],
    targeted: bool,
    ratio: float,
    binary: bool = False,
    **settings: Any,
) -> None:
    """Each sample falls at `ratio` times its optimum, and none just below the optimum."""
    model = LinearModel(shape, num_logits, seed=num_logits + count)
    classifier = ns.Classifier(model)
    x = images(count, shape, seed=count)
    if binary:
        x = x.round()
    y = classifier.logits(x).argmax(dim=1)
    num_classes = max(2, num_logits)
    wanted = (y + 1) % num_classes
    reachable = 0
    for row in range(count):
        target = int(wanted[row]) if targeted else None
        optimum = optimal_distance(model, x[row], int(y[row]), norm, target)
        if not np.isfinite(optimum):
            continue
        reachable += 1
        goal = Targeted(label=wanted[row : row + 1]) if targeted else Misclassified()
        one, label = x[row : row + 1], y[row : row + 1]
        largest = norm_named(norm).largest_radius(one[0].numel())
        above = kind(norm=norm, eps=min(ratio * optimum, largest), **settings)
        found = above(classifier, one, label, goal=goal, seed=1)
        assert bool(found.success.all()), f"sample {row}: not fooled at {ratio} x {optimum}"
        assert float(found.distance[norm].max()) <= above.eps * (1 + 1e-6) + 1e-6
        assert not torch.equal(found.x, one)
        below = kind(norm=norm, eps=0.98 * optimum, **settings)
        found = below(classifier, one, label, goal=goal, seed=1)
        assert not bool(found.success.any()), "an image closer than the nearest adversarial one"
        assert torch.equal(found.x, one)
    assert reachable > 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_logits", [1, 2])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("kind", [FGSM, BIM, PGD, MIM, ILCM])
def test_two_classes_are_solved_exactly(
    kind: Any, norm: str, num_logits: int, targeted: bool
) -> None:
    # one step of steepest ascent solves a linear problem: so do all that are made of such steps;
    # a random start spends some of the steps on coming back
    ratio = 1.03 if kind is PGD else 1.001
    conforms(
        kind,
        norm=norm,
        num_logits=num_logits,
        count=3,
        shape=(1, 3, 4),
        targeted=targeted,
        ratio=ratio,
    )


@pytest.mark.parametrize(
    ("norm", "objective", "ratio"),
    [
        *((norm, Margin(), 1.25) for norm in NORMS),
        # cross-entropy mixes the classes: its optimum is elsewhere, in l1 even at another pixel
        *((norm, CrossEntropy(), 2.0) for norm in ("linf", "l2")),
    ],
)
@pytest.mark.parametrize("num_logits", [3, 4, 10])
@pytest.mark.parametrize("targeted", [False, True])
def test_more_classes_are_solved_nearly(
    norm: str, num_logits: int, targeted: bool, objective: Any, ratio: float
) -> None:
    conforms(
        PGD,
        norm=norm,
        num_logits=num_logits,
        count=4,
        shape=(3, 4, 5),
        targeted=targeted,
        ratio=ratio,
        objective=objective,
        steps=60,
        restarts=2,
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 5, 3)])
def test_images_at_the_corners_of_the_box(
    norm: str, count: int, shape: tuple[int, int, int]
) -> None:
    conforms(
        PGD,
        norm=norm,
        num_logits=2,
        count=count,
        shape=shape,
        targeted=False,
        ratio=1.03,
        binary=True,
        steps=60,
    )


def test_the_identity_attack_fails_this_suite() -> None:
    with pytest.raises(AssertionError, match="not fooled"):
        conforms(
            Identity,
            norm="linf",
            num_logits=3,
            count=3,
            shape=(1, 3, 3),
            targeted=False,
            ratio=1.5,
        )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", [FGSM, BIM, PGD, MIM])
def test_success_grows_with_eps(kind: Any, norm: str) -> None:
    shape = (1, 4, 4)
    classifier = ns.Classifier(LinearModel(shape, 2, seed=5))
    x = images(40, shape, seed=9)
    y = classifier.logits(x).argmax(dim=1)
    largest = norm_named(norm).largest_radius(16)
    previous = torch.zeros(40, dtype=torch.bool)
    shares = []
    for eps in np.linspace(0.02, 0.6, 8) * largest:
        success = kind(norm=norm, eps=float(eps))(classifier, x, y).success
        assert not bool((previous & ~success).any())
        previous = success
        shares.append(float(success.double().mean()))
    assert shares[0] < shares[-1] == 1.0


def test_one_step_moves() -> None:
    classifier = ns.Classifier(LinearModel((1, 3, 3), 3))
    x = images(4, (1, 3, 3))
    y = classifier.logits(x).argmax(dim=1)
    for kind in (FGSM, BIM, PGD, MIM, ILCM):
        found = kind(eps=0.5, steps=1)(classifier, x, y)
        assert bool(found.success.any()), kind.__name__


def test_least_likely_goes_to_the_least_likely_class() -> None:
    classifier = ns.Classifier(LinearModel((1, 4, 4), 5, seed=3))
    x = images(20, (1, 4, 4))
    logits = classifier.logits(x)
    y = logits.argmax(dim=1)
    found = ILCM(eps=0.9, steps=50, early_stop=False)(classifier, x, y)
    reached = classifier.logits(found.x).argmax(dim=1)
    share = (reached[found.success] == logits.argmin(dim=1)[found.success]).double().mean()
    assert bool(found.success.all())
    assert float(share) > 0.9


def test_confidence_is_kept_by_what_is_returned() -> None:
    classifier = ns.Classifier(LinearModel((1, 5, 5), 4, seed=2))
    x = images(30, (1, 5, 5))
    y = classifier.logits(x).argmax(dim=1)
    for kappa in (0.0, 1.0, 3.0):
        found = PGD(eps=0.25, confidence=kappa, objective=Margin())(classifier, x, y)
        logits = classifier.logits(found.x)[found.success].detach()
        true = y[found.success]
        own = logits.gather(1, true[:, None])[:, 0]
        other = logits.scatter(1, true[:, None], -torch.inf).amax(dim=1)
        assert bool(found.success.any())
        assert float((other - own).min()) >= kappa - 1e-9
