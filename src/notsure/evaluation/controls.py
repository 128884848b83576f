"""Controls: scores that know nothing, and noise, beside which a detector's figures are read."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from notsure.attacks import Attack, RandomNoise
from notsure.classifier import Classifier
from notsure.core.errors import UnsupportedError
from notsure.core.state import derived_seed, seeded, undisturbed
from notsure.core.target import Adversarial, distances

DETECTOR, NETWORK = "untrained-detector", "untrained-network"
"""The controls' names."""


class Controls:
    """What scores can tell that were never taught anything.

    "untrained-detector" is the classifier's features along a random direction; "untrained-network"
    is the confidence (one minus the largest probability) of the same architecture with fresh
    weights. If these find an attack, it is a coarse one, and any detector would.

    Args:
        classifier: the classifier of the guard beside which they stand.
        seed: of the direction and the weights.
    """

    def __init__(self, classifier: Classifier, seed: int) -> None:
        self.classifier, self.seed = classifier, seed
        self.fresh = _fresh(classifier, seed)
        self.direction: torch.Tensor | None = None

    def scores(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The score of images (B, C, H, W) in [0,1] by name, each (B,); B may be 0."""
        with undisturbed(self.classifier, x.device), torch.inference_mode():
            found = {DETECTOR: self._along(x)}
            if self.fresh is not None:
                probabilities = torch.softmax(self.fresh.logits(x), dim=1)
                found[NETWORK] = 1 - probabilities.amax(dim=1)
        return found

    def _along(self, x: torch.Tensor) -> torch.Tensor:
        try:
            features = self.classifier.logits_and_features(x)[1].flatten(1)
        except UnsupportedError:
            features = self.classifier.logits(x)
        if self.direction is None:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, DETECTOR))
            direction = torch.randn(features.shape[1], generator=generator, dtype=torch.float64)
            self.direction = direction.to(features)
        return features @ self.direction


def with_noise(attack: Attack, found: Adversarial, x: torch.Tensor, seed: int) -> Adversarial:
    """What an attack found; of random noise, the noisy image also where it fools nobody.

    An attack gives a clean image back where it fails, which of noise would leave nothing to tell
    from a clean image: the control of pang B.3 is about the noise itself.
    """
    if not isinstance(attack, RandomNoise):
        return found
    images = torch.where(found.success.view(-1, 1, 1, 1), found.x, attack.noisy(x, seed=seed))
    return replace(found, x=images, distance=distances(x, images))


def _fresh(classifier: Classifier, seed: int) -> Classifier | None:
    """The classifier with weights as before any training; None where that cannot be had."""
    twin = copy.deepcopy(classifier)
    with seeded(derived_seed(seed, NETWORK), classifier.device):
        for module in twin.module.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                # weights that nobody knows how to make afresh would still be trained ones
                return None
    return twin.eval()
