"""The entropy among the classes that were not predicted (non-ME)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure.core.errors import UnsupportedError
from notsure.detectors.base import Detector
from notsure.observation import Observation


def non_maximal_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Pang et al. 2018, equation 1: the entropy of the renormalised non-maximal probabilities.

    Args:
        logits: (B, K).

    Returns:
        (B,), between 0 and log(K-1); in nats.
    """
    top = logits.argmax(dim=1, keepdim=True)
    kept = torch.ones_like(logits, dtype=torch.bool).scatter_(1, top, False)
    rest = logits[kept].view(len(logits), -1)
    log_probabilities = F.log_softmax(rest, dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


class NonMaximalEntropy(Detector):
    """log(K-1) minus the non-maximal entropy (Pang et al. 2018, equation 1 and Lemma 1).

    Clean inputs of a network trained by reverse cross-entropy have nearly equal non-maximal
    probabilities, so a non-ME near its largest value log(K-1); the score is what is missing to it.
    """

    paper = "pang eq. 1"

    def settings(self) -> dict[str, Any]:
        """None to set."""
        return {}

    def score(self, observation: Observation) -> torch.Tensor:
        """log(K-1) - non-ME, (B,), between 0 and log(K-1).

        Raises:
            UnsupportedError: there are two classes only, where non-ME is 0 for every input.
        """
        num_classes = observation.logits.shape[1]
        if num_classes < 3:
            raise UnsupportedError(
                "NonMaximalEntropy tells nothing about two classes (it is 0 for every input): use "
                "Confidence or KDensity."
            )
        return math.log(num_classes - 1) - non_maximal_entropy(observation.logits)
