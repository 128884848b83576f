"""What the tests of detectors share: a purifier, networks and features that are made up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

import notsure as ns
from notsure.classifier import Classifier
from notsure.core.state import seeded
from notsure.data import Images
from notsure.detectors import Detector
from notsure.observation import Observation
from notsure.purifiers import Purifier
from notsure.purifiers.base import Shape, shape_of
from notsure.training import Recipe
from notsure.training.loop import History
from tests.toys import SmallNetwork, images

SHAPE = (1, 6, 6)


class PrincipalComponents(Purifier):
    """Projects images onto the plane of the training images' largest principal components."""

    mean: torch.Tensor
    basis: torch.Tensor

    def __init__(self, *, components: int = 8, shape: Shape | None = None) -> None:
        self.components = components
        super().__init__(shape=shape)

    def settings(self) -> dict[str, Any]:
        return {
            "components": self.components,
            "shape": None if self.shape is None else list(self.shape),
        }

    def make_networks(self, shape: Shape) -> None:
        size = math.prod(shape)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.zeros(size, self.components))

    def fit(
        self,
        data: Images | tuple[torch.Tensor, torch.Tensor],
        *,
        classifier: Classifier | None = None,
        recipe: Recipe | None = None,
        checkpoint: str | Path | None = None,
        accelerator: Any = None,
        progress: bool = True,
    ) -> History:
        self.build(shape_of(data))
        x = (data.x if isinstance(data, Images) else data[0]).flatten(1)
        self.mean = x.mean(dim=0)
        self.basis = torch.linalg.svd(x - self.mean).Vh[: self.components].T.contiguous()
        self.trained = torch.ones((), dtype=torch.bool)
        return History()

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        mean, basis = self.mean.to(x.dtype), self.basis.to(x.dtype)
        return ((x.flatten(1) - mean) @ basis @ basis.T + mean).view_as(x).clamp(0, 1)


def projection(shape: Shape = SHAPE) -> PrincipalComponents:
    purifier = PrincipalComponents()
    purifier.fit((images(60, shape, seed=7), torch.zeros(60, dtype=torch.int64)))
    return purifier


def network(
    num_classes: int, channels: int = 1, dtype: torch.dtype = torch.float64
) -> ns.Classifier:
    """A random network that predicts each of its classes for some random images."""
    with seeded(3):
        module = SmallNetwork(num_classes, channels).to(dtype).eval()
    with torch.no_grad():
        module.head.weight.mul_(4.0)
        x = images(200, (channels, 6, 6), seed=1).to(dtype)
        module.head.bias.sub_(module(x).mean(dim=0))
    return ns.Classifier(module)


def observed(features: torch.Tensor, num_classes: int, *, seed: int = 0) -> Observation:
    """An observation of which the features are given."""
    with seeded(seed):
        head = nn.Linear(features.shape[1], num_classes, dtype=features.dtype)
    return Observation(features[:, :, None, None], ns.Classifier(nn.Sequential(nn.Flatten(), head)))


def heaps(
    count: int, size: int, num_classes: int, *, seed: int = 0, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (count, size) of classes that lie in heaps with one slanted covariance."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % num_classes
    centres = 3 * torch.randn(
        num_classes, size, generator=torch.Generator().manual_seed(99), dtype=torch.float64
    )
    slant = torch.randn(
        size, size, generator=torch.Generator().manual_seed(98), dtype=torch.float64
    )
    noise = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return offset + centres[y] + noise @ slant / math.sqrt(size), y


def fit_on(detector: Detector, features: torch.Tensor, y: torch.Tensor, num_classes: int) -> Any:
    for part, labels in zip(torch.split(features, 64), torch.split(y, 64), strict=True):
        detector.update(observed(part, num_classes), labels)
    detector.finish(num_classes)
    return detector


def label_of(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(x), dtype=torch.int64)


def fitted(detector: Detector, classifier: ns.Classifier, shape: Shape = SHAPE) -> Detector:
    """The detector after a fit on random images in three batches, with labels in turn."""
    parameter = next(classifier.parameters())
    x = images(210, shape, seed=1).to(parameter.dtype)
    num_classes = classifier.logits(x[:1]).shape[1]
    y = torch.arange(len(x)) % num_classes
    for part, labels in zip(torch.split(x, 80), torch.split(y, 80), strict=True):
        detector.update(Observation(part, classifier), labels)
    detector.finish(num_classes)
    clean = Observation(x, classifier)
    noisy = x + 0.3 * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype
    )
    attacked = Observation(noisy, classifier)
    detector.learn(clean, attacked, clean.prediction, attacked.prediction != clean.prediction)
    detector.finish_learning(num_classes)
    return detector
