"""What callbacks have in common: the images they look at, and how a model in training is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from notsure.attacks import Attack
from notsure.classifier import Classifier, Statistic
from notsure.core.checks import check_images, check_labels, parse_size
from notsure.core.errors import ConfigurationError
from notsure.guard import Guard
from notsure.integrations.metrics import RobustAccuracy

Wrap = Callable[[nn.Module], Guard | Classifier | nn.Module]
"""Makes what is attacked of the model in training."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is measured now and then while a model is trained.

    Attributes:
        x: images (N, C, H, W) in [0,1], which the model is not trained on.
        y: their labels (N,).
        eps: the budget in [0,1] pixel units.
        norm: of the budget.
        attacks: what attacks; by default those of the suite.
        suite: where no attacks are given.
        every: at every so many evaluations.
        mean: what the model's own preprocessing subtracts, per channel, in [0,1] units.
        std: what it divides by.
        wrap: makes what is attacked of the model, in place of mean and std.
        batch_size: how many images are attacked at a time.
        seed: of the attacks, the same each time, so that epochs can be compared.

    Raises:
        ConfigurationError: a setting is out of range, or both wrap and mean or std are given.
        InputError: images or labels are not what they have to be.
    """

    x: torch.Tensor
    y: torch.Tensor
    eps: float | str
    norm: str = "linf"
    attacks: Sequence[Attack] | None = None
    suite: str = "quick"
    every: int = 1
    mean: Statistic | None = None
    std: Statistic | None = None
    wrap: Wrap | None = None
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_images(self.x)
        check_labels(self.y, count=len(self.x))
        parse_size(self.eps, what="eps")
        if self.every < 1 or self.batch_size < 1:
            raise ConfigurationError(
                f"every and batch_size are at least 1; got {self.every} and {self.batch_size}."
            )
        if self.wrap is not None and (self.mean is not None or self.std is not None):
            raise ConfigurationError(
                "wrap makes the Classifier, with its mean and std: leave these out here."
            )

    def metric(self) -> RobustAccuracy:
        """An empty metric of these settings."""
        return RobustAccuracy(
            eps=self.eps,
            norm=self.norm,
            attacks=self.attacks,
            suite=self.suite,
            seed=self.seed,
        )

    def look(
        self, model: nn.Module, metric: RobustAccuracy, *, rank: int = 0, world: int = 1
    ) -> RobustAccuracy:
        """Adds this process's share of the images to the metric; the model is left as it was.

        Args:
            model: the model in training.
            metric: what is added to.
            rank: the number of this process.
            world: how many there are.
        """
        target = (
            Classifier(model, mean=self.mean, std=self.std)
            if self.wrap is None
            else self.wrap(model)
        )
        device = next(model.parameters()).device
        x, y = self.x[rank::world], self.y[rank::world]
        for start in range(0, len(x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            metric.update(target, x[rows].to(device), y[rows].to(device))
        return metric
