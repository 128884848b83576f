"""What every detector is: a score of an observation, higher where it looks more adversarial."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from notsure.core.part import Part
from notsure.observation import Observation


class Detector(Part):
    """Maps an observation to a score; adversarial is the positive class, everywhere.

    A detector knows nothing of thresholds: these belong to the guard's calibration. Its score is
    differentiable down to the image. What it learnt is kept in buffers, so that it moves with
    `.to(device)` and is saved as safetensors.
    """

    needs_features: bool = False
    """Whether it reads the features and not only the logits."""

    needs_fit: bool = False
    """Whether it has to see training data."""

    needs_adversarial: ClassVar[bool] = False
    """Whether it learns from adversarial examples, which `Guard.fit(..., attack=...)` makes."""

    @abstractmethod
    def score(self, observation: Observation) -> torch.Tensor:
        """(B,), higher = more adversarial."""

    def begin(self) -> None:
        """Starts a fit; whatever one before has left behind is forgotten."""

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Takes in a batch of training data with its true labels (B,).

        Args:
            observation: of the images, (B, C, H, W).
            y: their classes, int64.
        """

    def finish(self, num_classes: int) -> None:
        """Ends the fit: what was taken in becomes what scores are computed from."""

    def learn(
        self, clean: Observation, attacked: Observation, y: torch.Tensor, success: torch.Tensor
    ) -> None:
        """Takes in a batch of training images and what an attack made of them, after the fit.

        Args:
            clean: the images as the guard sees them.
            attacked: the same after the attack.
            y: their true labels (B,).
            success: where the attack fooled the classifier, bool (B,).
        """

    def finish_learning(self, num_classes: int) -> None:
        """Ends the learning from adversarial examples."""
