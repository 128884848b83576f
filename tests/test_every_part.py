"""A guard with a part of every kind and every detector, before every gradient attack there is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import notsure as ns
from notsure import attacks
from notsure.attacks import BPDA, FGSM, Attack
from notsure.attacks.base import public_attacks
from notsure.core.target import Access
from notsure.correctors import LogitSVM
from notsure.detectors import (
    LID,
    Confidence,
    DeepKNN,
    FeatureSqueezing,
    KDensity,
    LearnedCombination,
    LogOdds,
    Mahalanobis,
    NonMaximalEntropy,
    ProbabilityDivergence,
    ReconstructionError,
)
from notsure.purifiers import DenoisingAutoencoder
from notsure.training import Recipe
from tests.conftest import Digits

COUNT = 8
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "CarliniWagner": {"steps": 20, "binary_search_steps": 3},
    "DDN": {"steps": 20},
    "DeepFool": {"steps": 10},
    "FAB": {"steps": 10, "candidates": 3},
    "NewtonFool": {"steps": 20, "eta": 0.05},
    "JSMA": {"gamma": 0.4},
    "AutoAttack": {"steps": 5, "queries": 50},
    "APGD": {"steps": 10},
    "OrthogonalPGD": {"steps": 10},
    "SelectivePGD": {"steps": 10},
}
NOT_BY_ITSELF = {"FittedAdvGAN", "Transfer"}
KINDS = [
    kind
    for kind in public_attacks()
    if kind.needs == Access.GRADIENTS and kind.__name__ not in NOT_BY_ITSELF
]


def made(kind: type[Attack]) -> Attack:
    settings: dict[str, Any] = {**SETTINGS.get(kind.__name__, {}), "gradient": BPDA()}
    if "eps" in kind.__dataclass_fields__ and kind.__name__ != "FAB":
        settings["eps"] = 0.4
    return kind(**settings)


@pytest.fixture(scope="module")
def guards(digits: Digits) -> dict[str, ns.Guard]:
    """The same parts: one that says NOT SURE, and one with a corrector that never does."""
    train = digits.split.train
    purifier = DenoisingAutoencoder(noise=0.2, width=16)
    recipe = Recipe(epochs=6, batch_size=32, optimizer="adamw", learning_rate=5e-3, weight_decay=0)
    purifier.fit(train, recipe=recipe, progress=False)
    found = {}
    for name in ("rejecting", "correcting"):
        detectors = [
            Confidence(),
            NonMaximalEntropy(),
            KDensity(),
            Mahalanobis(),
            LID(),
            DeepKNN(),
            FeatureSqueezing(),
            LogOdds(draws=4),
            ReconstructionError(),
            ReconstructionError(of=purifier, p=1),
            ProbabilityDivergence(),
            LearnedCombination({"a": Confidence(), "b": KDensity()}),
        ]
        corrector = LogitSVM() if name == "correcting" else None
        guard = ns.Guard(digits.guard.classifier, detectors, purifier=purifier, corrector=corrector)
        guard.fit(train, attack=FGSM(eps=0.3)).calibrate(digits.split.calibration, fpr=0.1)
        found[name] = guard
    return found


def test_every_detector_of_the_library_is_in_it(guards: dict[str, ns.Guard]) -> None:
    inside = {type(part).__name__ for _, part in guards["rejecting"].named_detectors()}
    assert inside == set(ns.detectors.__all__) - {"Detector"}


@pytest.mark.parametrize("name", ["rejecting", "correcting"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_gradient_attack_goes_through_the_whole(
    guards: dict[str, ns.Guard], digits: Digits, kind: type[Attack], name: str
) -> None:
    guard, attack = guards[name], made(kind)
    x, y = digits.x[:COUNT], digits.y[:COUNT]
    if not guard.rejects and kind.goals == "any that has to be accepted":
        with pytest.raises(ns.NotSureError, match="rejects nothing"):
            attack(guard, x, y)
        return
    found = attack(guard, x, y)
    verdict = guard.judge(found.x)
    assert torch.equal(found.success, verdict.accepted & (verdict.prediction != y))
    assert bool((found.gradients[~found.success] > 0).all())
    assert bool((found.dead_gradients < found.gradients.clamp_min(1)).all())


@pytest.mark.parametrize("name", ["rejecting", "correcting"])
def test_some_attack_gets_through(guards: dict[str, ns.Guard], digits: Digits, name: str) -> None:
    guard, x, y = guards[name], digits.x[:COUNT], digits.y[:COUNT]
    clean = guard.judge(x)
    assert float((clean.label == y).double().mean()) >= 0.5
    attack = attacks.PGD(eps=0.4, steps=40, restarts=3, gradient=BPDA())
    assert float(attack(guard, x, y).success.double().mean()) > 0.5


@pytest.mark.parametrize("name", ["rejecting", "correcting"])
def test_saved_and_loaded_the_whole_judges_the_same(
    guards: dict[str, ns.Guard], digits: Digits, tmp_path: Path, name: str
) -> None:
    guard = guards[name]
    again = ns.Guard.load(guard.save(tmp_path))
    x = torch.cat([digits.x[:60], torch.rand(20, 1, 8, 8)])
    ours, theirs = guard.judge(x), again.judge(x)
    assert torch.equal(ours.label, theirs.label)
    assert torch.equal(ours.rejection, theirs.rejection)
    assert torch.equal(ours.corrected, theirs.corrected)
    for part, score in ours.scores.items():
        assert torch.equal(score, theirs.scores[part])
