"""What one forward pass of a guard yields, computed once and only as far as it is asked for."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure.classifier import Classifier


class Observation:
    """A batch as a guard sees it; every detector reads from the same pass.

    All of it keeps its graph down to `x`, so that whatever is computed from an observation can be
    differentiated by an attacker who knows the guard.

    Args:
        x: images (B, C, H, W) in [0,1].
        classifier: the classifier that looks at them.
        features: whether features will be asked for; known beforehand, one pass serves both.
    """

    def __init__(self, x: torch.Tensor, classifier: Classifier, *, features: bool = True) -> None:
        self.x = x
        self.classifier = classifier
        self._with_features = features

    @cached_property
    def _pass(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._with_features:
            return self.classifier.logits_and_features(self.x)
        return self.classifier.logits(self.x), None

    @cached_property
    def logits(self) -> torch.Tensor:
        """(B, K)."""
        return self._pass[0]

    @cached_property
    def features(self) -> torch.Tensor:
        """What enters the last linear layer (or was named), (B, D)."""
        features = self._pass[1]
        if features is None:
            features = self.classifier.logits_and_features(self.x)[1]
        return features

    @cached_property
    def log_probabilities(self) -> torch.Tensor:
        """(B, K)."""
        return F.log_softmax(self.logits, dim=1)

    @cached_property
    def prediction(self) -> torch.Tensor:
        """The largest logit's class, int64 (B,)."""
        return self.logits.argmax(dim=1)
