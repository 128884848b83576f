"""What several test files share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import notsure as ns
from notsure.core.state import seeded


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; without it a test is skipped, and fails in CI."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("NOTSURE_DATA", default))
    if not folder.is_dir():
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain(f"there is no {folder}: set NOTSURE_DATA to the folder of data sets")
    return folder


@dataclass(frozen=True)
class Digits:
    """A guard trained on scikit-learn's digits, and test images that it has not seen."""

    split: ns.data.Split
    guard: ns.Guard
    x: torch.Tensor
    y: torch.Tensor


@pytest.fixture(scope="session")
def digits() -> Digits:
    """A small but real guarded classifier."""
    split = ns.data.load("digits")
    with seeded(0):
        module = ns.models.build("digits_cnn")
    classifier = ns.Classifier(module, mean=0.5, std=1.0)
    recipe = ns.training.Recipe(
        epochs=12, batch_size=64, optimizer="adamw", learning_rate=3e-3, schedule="one-cycle"
    )
    ns.training.train(classifier, split.train, recipe=recipe, progress=False)
    guard = ns.Guard(classifier, [ns.detectors.KDensity()])
    guard.fit(split.train.x, split.train.y).calibrate(split.calibration.x, fpr=0.02)
    return Digits(split, guard, split.test.x, split.test.y)
