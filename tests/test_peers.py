"""Ours against independent implementations on three networks: at least as strong.

Opt-in: it runs where the other libraries are installed, as `make bench` installs them, and is
skipped elsewhere: `.venv-bench/bin/python -m pytest tests/test_peers.py`.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn

import notsure as ns
from notsure.attacks import (
    APGD,
    BIM,
    DDN,
    DLR,
    FAB,
    MIM,
    PGD,
    CarliniWagner,
    CrossEntropy,
    DeepFool,
    HopSkipJump,
    NewtonFool,
    Objective,
)
from notsure.core.state import seeded
from tests.conftest import Digits

COUNT = 40


def library(name: str) -> Any:
    """The module of another library, or a skip."""
    pytest.importorskip(name.split(".")[0], reason="an opt-in comparison: see make bench")
    return importlib.import_module(name)


@pytest.fixture(scope="module", params=["linear", "perceptron", "convolutional"])
def case(request: Any, digits: Digits) -> tuple[ns.Classifier, torch.Tensor, torch.Tensor]:
    """A trained network on [0,1] images without preprocessing, and images that it gets right."""
    if request.param == "convolutional":
        inner = digits.guard.classifier
        classifier = ns.Classifier(nn.Sequential(_Shift(), inner.module)).eval()
    else:
        with seeded(1):
            layers = (
                [nn.Linear(64, 10)]
                if request.param == "linear"
                else [nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 10)]
            )
            classifier = ns.Classifier(nn.Sequential(nn.Flatten(), *layers))
        recipe = ns.training.Recipe(epochs=8, batch_size=64, optimizer="adamw", learning_rate=3e-3)
        ns.training.train(classifier, digits.split.train, recipe=recipe, progress=False)
    right = classifier.logits(digits.x).argmax(dim=1) == digits.y
    rows = right.nonzero().flatten()[:COUNT]
    return classifier, digits.x[rows], digits.y[rows]


class _Shift(nn.Module):
    """The digits' mean as a layer, so that peers see plain [0,1] images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - 0.5


def distances(
    classifier: ns.Classifier, x: torch.Tensor, y: torch.Tensor, moved: torch.Tensor, norm: str
) -> torch.Tensor:
    """How far a peer's images are, infinite where they do not fool."""
    moved = moved.detach().clamp(0, 1)
    order = torch.inf if norm == "linf" else 2
    length = torch.linalg.vector_norm((moved - x).flatten(1), ord=order, dim=1)
    fooled = classifier.logits(moved).argmax(dim=1) != y
    return torch.where(fooled, length, torch.inf)


def ours(attack: Any, case_: Any, norm: str) -> torch.Tensor:
    found = attack(*case_)
    return torch.where(found.success, found.distance[norm], torch.inf)


def at_least_as_near(mine: torch.Tensor, theirs: torch.Tensor, slack: float) -> None:
    assert torch.isfinite(mine).sum() >= torch.isfinite(theirs).sum()
    assert float(mine.median()) <= float(theirs.median()) * (1 + slack)


def test_carlini_wagner(case: Any) -> None:
    peer = library("adv_lib.attacks")
    classifier, x, y = case
    moved = peer.carlini_wagner_l2(
        classifier.module, x, y, binary_search_steps=9, max_iterations=300, initial_const=1e-3
    )
    mine = ours(CarliniWagner(steps=300), case, "l2")
    at_least_as_near(mine, distances(classifier, x, y, moved, "l2"), 0.01)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool(case: Any, norm: str) -> None:
    peer = library("adv_lib.attacks")
    classifier, x, y = case
    moved = peer.df(classifier.module, x, y, steps=50, norm=2 if norm == "l2" else float("inf"))
    at_least_as_near(
        ours(DeepFool(norm=norm), case, norm), distances(classifier, x, y, moved, norm), 0.02
    )


def test_ddn(case: Any) -> None:
    peer = library("adv_lib.attacks")
    classifier, x, y = case
    moved = peer.ddn(classifier.module, x, y, steps=100, levels=None)
    at_least_as_near(ours(DDN(), case, "l2"), distances(classifier, x, y, moved, "l2"), 0.01)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_fab(case: Any, norm: str) -> None:
    peer = library("adv_lib.attacks")
    classifier, x, y = case
    order = 2.0 if norm == "l2" else float("inf")
    moved = peer.fab(classifier.module, x, y, norm=order, n_iter=50)
    at_least_as_near(
        ours(FAB(norm=norm, steps=50), case, norm), distances(classifier, x, y, moved, norm), 0.01
    )


@pytest.mark.parametrize(("objective", "loss"), [(CrossEntropy(), "ce"), (DLR(), "dlr")])
@pytest.mark.parametrize("eps", [0.05, 0.1, 0.15])
def test_apgd(case: Any, eps: float, objective: Objective, loss: str) -> None:
    peer = library("adv_lib.attacks")
    classifier, x, y = case
    with seeded(0):
        moved = peer.apgd(
            classifier.module, x, y, eps=eps, norm=float("inf"), n_iter=50, loss_function=loss
        )
    theirs = torch.isfinite(distances(classifier, x, y, moved, "linf"))
    mine = APGD(eps=eps, steps=50, objective=objective)(classifier, x, y).success
    assert int(mine.sum()) >= int(theirs.sum()) - 1


@pytest.mark.parametrize("name", ["BIM", "PGD", "MIM"])
def test_the_bounded_family(case: Any, name: str) -> None:
    foolbox, attacks = library("foolbox"), library("foolbox.attacks")
    classifier, x, y = case
    model = foolbox.PyTorchModel(classifier.module, bounds=(0, 1))
    peers = {
        "BIM": (attacks.LinfBasicIterativeAttack, {"rel_stepsize": 0.1, "steps": 10}, BIM),
        "PGD": (attacks.LinfPGD, {"rel_stepsize": 2.5 / 40, "steps": 40}, PGD),
        "MIM": (
            attacks.LinfMomentumIterativeFastGradientMethod,
            {"momentum": 1.0, "rel_stepsize": 0.1, "steps": 10},
            MIM,
        ),
    }
    kind, settings, mine = peers[name]
    for eps in (0.05, 0.1, 0.15):
        with seeded(0):
            moved = kind(**settings)(model, x, foolbox.criteria.Misclassification(y), epsilons=eps)
        theirs = torch.isfinite(distances(classifier, x, y, moved[1], "linf"))
        found = mine(eps=eps)(classifier, x, y).success
        assert int(found.sum()) >= int(theirs.sum()) - 1


def test_hop_skip_jump(case: Any) -> None:
    foolbox, attacks = library("foolbox"), library("foolbox.attacks")
    classifier, x, y = case
    x, y = x[:15], y[:15]
    model = foolbox.PyTorchModel(classifier.module, bounds=(0, 1))
    with seeded(0):
        peer = attacks.HopSkipJumpAttack(
            init_attack=attacks.LinearSearchBlendedUniformNoiseAttack(directions=200, steps=50),
            steps=15,
            max_gradient_eval_steps=300,
        )
        moved = peer(model, x, foolbox.criteria.Misclassification(y), epsilons=None)
    attack = HopSkipJump(steps=15, queries=10_000, max_evaluations=300)
    mine = ours(attack, (classifier, x, y), "l2")
    at_least_as_near(mine, distances(classifier, x, y, moved[1], "l2"), 0.1)


def test_newtonfool(case: Any) -> None:
    evasion = library("art.attacks.evasion")
    estimators = library("art.estimators.classification")
    classifier, x, y = case
    estimator = estimators.PyTorchClassifier(
        # ART descends on whatever predict returns: probabilities are what the paper means
        model=nn.Sequential(classifier.module, nn.Softmax(dim=1)),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = evasion.NewtonFool(estimator, max_iter=100, eta=0.01, verbose=False)
    moved = torch.from_numpy(attack.generate(x=x.numpy(), y=y.numpy()))
    mine = ours(NewtonFool(), case, "l2")
    at_least_as_near(mine, distances(classifier, x, y, moved, "l2"), 0.01)
