"""What the tests of the playground share: a guard whose answers can be computed by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import notsure as ns
from notsure.calibration import Calibration
from notsure.data import Images
from notsure.detectors import Detector
from notsure.models import register
from notsure.observation import Observation
from notsure.playground.panels import Frame

SHAPE = (1, 4, 4)
NAMES = ("dark", "bright")


@register("halves_of_the_playground")
class Halves(nn.Module):
    """Class 1 where the upper half is brighter than the lower one; eight pixels each."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1)
        lead = rows[:, :8].sum(dim=1) - rows[:, 8:].sum(dim=1)
        return torch.stack([-lead, lead], dim=1)


class Brightness(Detector):
    """The mean pixel."""

    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, observation: Observation) -> torch.Tensor:
        return observation.x.flatten(1).mean(dim=1)


def guard_of(threshold: float = 0.6, *, rule: Any = "any") -> ns.Guard:
    """Rejects images whose mean is above the threshold; the median clean image has half of it."""
    guard = ns.Guard(ns.Classifier(Halves()), {"brightness": Brightness()}, rule=rule)
    guard.calibration = Calibration(
        fpr=0.01,
        count=100,
        measured_fpr=0.01,
        thresholds={"brightness": threshold},
        scales={"brightness": threshold / 2},
        rule=rule,
    )
    return guard.eval()


def image(upper: float, lower: float) -> torch.Tensor:
    """An image (1, 1, 4, 4) of two flat halves."""
    x = torch.full((1, *SHAPE), lower)
    x[:, :, :2] = upper
    return x


def pictures() -> Images:
    """Four images to pick from, two of each class."""
    x = torch.cat([image(0.6, 0.4), image(0.2, 0.4), image(0.4, 0.2), image(0.0, 1.0)])
    return Images((x * 255).round().to(torch.uint8), torch.tensor([1, 0, 1, 0]), NAMES)


FRAME = Frame(shape=SHAPE, names=NAMES, rule="any", corrects=False)
