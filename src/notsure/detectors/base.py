"""What every detector is: a score of an observation, higher where it looks more adversarial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from notsure.core.errors import NotFittedError
from notsure.observation import Observation


class Detector(nn.Module, ABC):
    """Maps an observation to a score; adversarial is the positive class, everywhere.

    A detector knows nothing of thresholds: these belong to the guard's calibration. Its score is
    differentiable down to the image. What it learnt is kept in buffers, so that it moves with
    `.to(device)` and is saved as safetensors.
    """

    needs_features: ClassVar[bool] = False
    """Whether it reads the features and not only the logits."""

    needs_fit: ClassVar[bool] = False
    """Whether it has to see training data."""

    _kinds: ClassVar[dict[str, type[Detector]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Every subclass can be found by its name when a saved guard is loaded."""
        super().__init_subclass__(**kwargs)
        Detector._kinds[cls.__name__] = cls

    @staticmethod
    def kinds() -> dict[str, type[Detector]]:
        """The detectors known here, by the names of their classes."""
        return dict(Detector._kinds)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON-ready values."""

    @abstractmethod
    def score(self, observation: Observation) -> torch.Tensor:
        """(B,), higher = more adversarial."""

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Takes in a batch of training data with its true labels (B,)."""

    def finish(self, num_classes: int) -> None:
        """Ends the fit: what was taken in becomes what scores are computed from."""

    def empty_state(self, shapes: dict[str, torch.Tensor]) -> None:
        """Makes room for a saved state whose buffers have these shapes and types."""
        for name, tensor in shapes.items():
            self.register_buffer(name, torch.empty_like(tensor))

    @property
    def fitted(self) -> bool:
        """Whether scores can be computed."""
        return True

    def require_fitted(self) -> None:
        """Raises NotFittedError unless scores can be computed."""
        if not self.fitted:
            raise NotFittedError(
                f"{type(self).__name__} was not fitted: call guard.fit(x_train, y_train) first."
            )
