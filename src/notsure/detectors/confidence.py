"""The confidence of the prediction, the simplest detector there is."""

from __future__ import annotations

from typing import Any

import torch

from notsure.detectors.base import Detector
from notsure.observation import Observation


class Confidence(Detector):
    """Minus the log of the predicted class's probability (Pang et al. 2018, section 3.1).

    Pang thresholds the probability itself, from above; the logarithm orders inputs in the same way
    and keeps its gradient where the softmax is saturated.
    """

    paper = "pang 3.1"

    def settings(self) -> dict[str, Any]:
        """None to set."""
        return {}

    def score(self, observation: Observation) -> torch.Tensor:
        """-log max_i F(x)_i, (B,), at least 0."""
        return -observation.log_probabilities.amax(dim=1)
