"""Every detector of the library on a small trained network: what it sees, and what sees through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import notsure as ns
from notsure import detectors
from notsure.attacks import BPDA, FGSM, PGD
from notsure.core.errors import UnsupportedError
from notsure.detectors import (
    LID,
    Confidence,
    DeepKNN,
    Detector,
    FeatureSqueezing,
    KDensity,
    LearnedCombination,
    LogOdds,
    Mahalanobis,
    NonMaximalEntropy,
    ProbabilityDivergence,
    ReconstructionError,
)
from notsure.evaluation.intervals import area_under_roc
from tests.conftest import Digits
from tests.toy_detectors import PrincipalComponents

COUNT = 150


@dataclass(frozen=True)
class Scene:
    """A guard with every detector, and what attacks made of test images without knowing it."""

    guard: ns.Guard
    clean: torch.Tensor
    y: torch.Tensor
    attacked: dict[str, torch.Tensor]
    success: dict[str, torch.Tensor]

    def verdicts(self, attack: str) -> tuple[ns.Verdict, ns.Verdict]:
        """Of the images that the attack succeeded on: before and after."""
        fooled = self.success[attack]
        return self.guard.judge(self.clean[fooled]), self.guard.judge(self.attacked[attack][fooled])


def library(purifier: PrincipalComponents) -> dict[str, Detector]:
    """One of each detector."""
    return {
        "Confidence": Confidence(),
        "NonMaximalEntropy": NonMaximalEntropy(),
        "KDensity": KDensity(),
        "Mahalanobis": Mahalanobis(),
        "Relative": Mahalanobis(relative=True),
        "LID": LID(),
        "DeepKNN": DeepKNN(),
        "LogOdds": LogOdds(),
        # a median of neighbours takes too much of an image of 8x8 pixels
        "FeatureSqueezing": FeatureSqueezing(median=None),
        "ReconstructionError": ReconstructionError(of=purifier),
        "ProbabilityDivergence": ProbabilityDivergence(of=purifier),
        "LearnedCombination": LearnedCombination(
            {
                "neighbours": DeepKNN(),
                "density": KDensity(),
                "error": ReconstructionError(of=purifier),
            }
        ),
    }


@pytest.fixture(scope="module")
def purifier(digits: Digits) -> PrincipalComponents:
    """Fitted on the training images."""
    purifier = PrincipalComponents(components=24)
    purifier.fit(digits.split.train)
    return purifier


@pytest.fixture(scope="module")
def scene(digits: Digits, purifier: PrincipalComponents) -> Scene:
    """Fitted and calibrated; the attacks see the bare classifier."""
    guard = ns.Guard(digits.guard.classifier, library(purifier), rule="any")
    guard.fit(digits.split.train, attack=FGSM(eps=0.15)).calibrate(
        digits.split.calibration, fpr=0.05
    )
    x, y = digits.x[:COUNT], digits.y[:COUNT]
    right = guard.judge(x).prediction == y
    x, y = x[right], y[right]
    attacks = {
        "near": PGD(eps=0.12, steps=20),
        "far": PGD(eps=0.3, steps=20, early_stop=False),
    }
    found = {name: attack(guard.classifier, x, y) for name, attack in attacks.items()}
    return Scene(
        guard,
        x,
        y,
        {name: adversarial.x for name, adversarial in found.items()},
        {name: adversarial.success for name, adversarial in found.items()},
    )


def test_the_guard_has_every_detector_of_the_library(scene: Scene) -> None:
    here = {type(detector).__name__ for _, detector in scene.guard.named_detectors()}
    assert here == set(detectors.__all__) - {"Detector"}


@pytest.fixture(scope="module")
def areas(scene: Scene) -> dict[str, dict[str, float]]:
    """Under the ROC of each score, over the images that each attack succeeded on."""
    found = {}
    for attack in scene.attacked:
        clean, adversarial = (verdict.scores for verdict in scene.verdicts(attack))
        assert len(clean["LID"]) > 60
        found[attack] = {
            name: area_under_roc(clean[name].numpy(), adversarial[name].numpy()).value
            for name in clean
        }
    return found


@pytest.mark.parametrize(
    ("name", "near", "far"),
    [
        ("Mahalanobis", 0.7, 0.7),
        ("Relative", 0.8, 0.75),
        ("LID", 0.75, 0.8),
        ("DeepKNN", 0.9, 0.65),
        ("FeatureSqueezing", 0.85, 0.8),
        ("ReconstructionError", 0.7, 0.9),
        ("ProbabilityDivergence", 0.75, 0.9),
        ("LearnedCombination", 0.9, 0.9),
    ],
)
def test_it_sees_examples_of_an_attack_that_ignores_it(
    areas: dict[str, dict[str, float]], name: str, near: float, far: float
) -> None:
    assert areas["near"][name] > near
    assert areas["far"][name] > far


def test_log_odds_see_confident_examples_and_not_those_on_the_boundary(
    areas: dict[str, dict[str, float]],
) -> None:
    """Martin et al. 2019: detection fails at small distances and grows with them."""
    near, far = areas["near"]["LogOdds"], areas["far"]["LogOdds"]
    assert far > 0.65
    assert far > near + 0.15


def test_a_combination_is_no_worse_than_what_it_is_made_of(
    areas: dict[str, dict[str, float]],
) -> None:
    for found in areas.values():
        parts = (found["DeepKNN"], found["KDensity"], found["ReconstructionError"])
        assert found["LearnedCombination"] > max(parts) - 0.03


def test_nothing_is_seen_in_clean_images_beyond_the_rate(scene: Scene, digits: Digits) -> None:
    assert scene.guard.calibration is not None
    assert 0.01 < scene.guard.calibration.measured_fpr <= 0.05
    flagged = ~scene.guard.judge(digits.x).accepted
    assert float(flagged.double().mean()) < 0.12


def test_saved_and_loaded_it_judges_the_same(scene: Scene, tmp_path: Path) -> None:
    again = ns.Guard.load(scene.guard.save(tmp_path / "guard"))
    images = torch.cat([scene.clean[:20], scene.attacked["near"][:20]])
    ours, theirs = scene.guard.judge(images), again.judge(images)
    assert torch.equal(ours.label, theirs.label)
    assert torch.equal(ours.rejection, theirs.rejection)
    for name, score in ours.scores.items():
        assert torch.equal(score, theirs.scores[name]), name


def test_the_whole_library_is_attacked_at_once(scene: Scene) -> None:
    guard, x, y = scene.guard, scene.clean[:30], scene.y[:30]
    assert not guard.differentiable
    with pytest.raises(UnsupportedError, match=r"gradient=BPDA\(\)"):
        PGD(eps=0.3)(guard, x, y)
    # who does not know the detectors is caught by one or another of them ...
    blind = guard.judge(scene.attacked["far"][:30])
    assert int((blind.accepted & (blind.prediction != y)).sum()) <= 5
    # ... and who does gets past all of them at once
    found = PGD(eps=0.3, steps=40, gradient=BPDA())(guard, x, y)
    assert int(found.success.sum()) >= 20
    aware = guard.judge(found.x)
    assert torch.equal(found.success, aware.accepted & (aware.prediction != y))
    assert float(found.dead_gradients.sum() / found.gradients.sum()) < 0.02
