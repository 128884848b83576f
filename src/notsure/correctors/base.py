"""What every corrector is: a second opinion on what the detectors flag."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from notsure.core.part import Part
from notsure.observation import Observation


class Corrector(Part):
    """Answers in the classifier's place where an image is flagged.

    A guard with a corrector never says NOT SURE: what its detectors flag gets the corrector's
    label.
    """

    needs_adversarial: ClassVar[bool] = True
    """Whether it learns from adversarial examples, which `Guard.fit(..., attack=...)` makes."""

    def begin(self) -> None:
        """Starts a fit; whatever one before has left behind is forgotten."""

    @abstractmethod
    def learn(
        self, clean: Observation, attacked: Observation, y: torch.Tensor, success: torch.Tensor
    ) -> None:
        """Takes in a batch of training images and what an attack made of them.

        Args:
            clean: the images as the guard sees them.
            attacked: the same after the attack.
            y: their true labels (B,).
            success: where the attack fooled the classifier, bool (B,).
        """

    @abstractmethod
    def finish_learning(self, num_classes: int) -> None:
        """Ends the fit."""

    @abstractmethod
    def correct(self, observation: Observation) -> torch.Tensor:
        """A score of each class, (B, K), the largest for the label to answer; differentiable."""
