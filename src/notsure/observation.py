"""What one forward pass of a guard yields, computed once and only as far as it is asked for."""

from __future__ import annotations

from collections.abc import Callable
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
        classifier: the classifier that looks at them, purified.
        purifier: what cleans images (B, C, H, W) beforehand; None where nothing does.
        features: whether features will be asked for; known beforehand, one pass serves both.
    """

    def __init__(
        self,
        x: torch.Tensor,
        classifier: Classifier,
        *,
        purifier: Callable[[torch.Tensor], torch.Tensor] | None = None,
        features: bool = True,
    ) -> None:
        self.x = x
        self.classifier = classifier
        self._purifier = purifier
        self._with_features = features

    @property
    def purifies(self) -> bool:
        """Whether anything cleans the images beforehand."""
        return self._purifier is not None

    @cached_property
    def purified(self) -> torch.Tensor:
        """What the classifier sees, (B, C, H, W) in [0,1]: `x` itself where nothing purifies."""
        return self.x if self._purifier is None else self._purifier(self.x)

    @cached_property
    def _pass(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._with_features:
            return self.classifier.logits_and_features(self.purified)
        return self.classifier.logits(self.purified), None

    @cached_property
    def logits(self) -> torch.Tensor:
        """Of the purified images, (B, K)."""
        return self._pass[0]

    @cached_property
    def features(self) -> torch.Tensor:
        """What enters the last linear layer (or was named), (B, D)."""
        features = self._pass[1]
        if features is None:
            features = self.classifier.logits_and_features(self.purified)[1]
        return features

    @cached_property
    def bare_logits(self) -> torch.Tensor:
        """Of the images as they came, (B, K): one more pass where a purifier stands before."""
        return self.logits if self._purifier is None else self.classifier.logits(self.x)

    @cached_property
    def log_probabilities(self) -> torch.Tensor:
        """(B, K)."""
        return F.log_softmax(self.logits, dim=1)

    @cached_property
    def prediction(self) -> torch.Tensor:
        """The largest logit's class, int64 (B,)."""
        return self.logits.argmax(dim=1)

    def select(self, rows: torch.Tensor) -> Observation:
        """The same pass as it concerns some of the images, int64 (R,)."""
        part = Observation(
            self.x[rows],
            self.classifier,
            purifier=self._purifier,
            features=self._with_features,
        )
        logits, features = self._pass
        part.__dict__["_pass"] = (logits[rows], None if features is None else features[rows])
        for name in ("purified", "features", "bare_logits"):
            if name in self.__dict__:
                part.__dict__[name] = self.__dict__[name][rows]
        return part

    def logits_of(self, images: torch.Tensor) -> torch.Tensor:
        """What the guard would say of other images (B, C, H, W), purified as these, (B, K)."""
        if self._purifier is not None:
            images = self._purifier(images)
        return self.classifier.logits(images)
