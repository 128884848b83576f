"""How a network is trained: optimizer, schedule, augmentation, precision."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure.core.errors import ConfigurationError

OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["cosine", "one-cycle", "constant"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of the training images, as the reports use them.

    Attributes:
        crop_padding: pad by so many zero pixels on each side, crop back at random (He et al.).
        resize_crop: resize to so many pixels, crop back at random (pang B.1: 40 for 32x32
            images); 0 for none.
        flip: mirror half of the images left to right.
        noise: standard deviation, in [0,1] pixel units, of Gaussian noise that is added last
            (Shafahi et al. 2019, "Label smoothing and logit squeezing"; preaut 5.2). Images leave
            [0,1] by it and are not clipped, which would shift their mean.
    """

    crop_padding: int = 0
    resize_crop: int = 0
    flip: bool = False
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_padding < 0 or self.resize_crop < 0:
            raise ConfigurationError("crop_padding and resize_crop are pixels, at least 0.")
        if self.crop_padding and self.resize_crop:
            raise ConfigurationError("Crop after padding or after resizing, not both.")
        if not 0 <= self.noise < math.inf:
            raise ConfigurationError(
                "noise is a standard deviation in [0,1] pixel units, at least 0 and finite; got "
                f"{self.noise}. On the 0..255 scale divide it by 255."
            )

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augments images (B, C, H, W) in [0,1]; the generator is a CPU one.

        Args:
            x: images (B, C, H, W) in [0,1].
            generator: of the draws.

        Returns:
            The images, of the same shape.

        Raises:
            ConfigurationError: `resize_crop` is smaller than the images.
        """
        size = x.shape[-1]
        if self.resize_crop:
            if self.resize_crop < size:
                raise ConfigurationError(
                    f"resize_crop={self.resize_crop} is smaller than the images ({size} pixels)."
                )
            x = F.interpolate(x, size=(self.resize_crop, self.resize_crop), mode="bilinear")
        if self.crop_padding:
            x = F.pad(x, (self.crop_padding,) * 4)
        if x.shape[-1] > size:
            x = _random_crops(x, size, generator)
        if self.flip:
            mirrored = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
        if self.noise:
            drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + self.noise * drawn.to(x.device)
        return x


def _random_crops(x: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    room = x.shape[-1] - size + 1
    top, left = torch.randint(0, room, (2, len(x), 1), generator=generator).to(x.device)
    window = torch.arange(size, device=x.device)
    samples = torch.arange(len(x), device=x.device)[:, None, None]
    rows, columns = (top + window)[:, :, None], (left + window)[:, None, :]
    return x.permute(0, 2, 3, 1)[samples, rows, columns].permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    The defaults are pang's (appendix B.1) where it prints them: SGD with momentum 0.9, batches of
    128, weight decay 2e-4; the schedule is a cosine in place of pang's (unprinted) steps.

    Attributes:
        epochs: passes over the training set.
        batch_size: images a step.
        optimizer: "sgd" (Nesterov) or "adamw".
        learning_rate: the highest rate of the schedule.
        momentum: of SGD.
        weight_decay: on every parameter.
        schedule: "cosine" (down to 0), "one-cycle" (linear up over the first 30 %, cosine down to
            0) or "constant".
        augmentation: random changes of the images.
        precision: "fp32", "bf16" (autocast around the network; weights and loss stay float32) or
            "auto", bf16 where the hardware has it.
        seed: of the order of the images, the augmentation and dropout.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: OptimizerName = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-4
    schedule: ScheduleName = "cosine"
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigurationError("epochs and batch_size have to be at least 1.")
        if not self.learning_rate > 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise ConfigurationError(
                "learning_rate has to be > 0, weight_decay >= 0, momentum in [0, 1)."
            )
        for value, kind in (
            (self.optimizer, OptimizerName),
            (self.schedule, ScheduleName),
            (self.precision, Precision),
        ):
            if value not in get_args(kind):
                raise ConfigurationError(f"{value!r} is not one of {', '.join(get_args(kind))}.")

    def rate(self, done: float) -> float:
        """The learning rate when a share `done` in [0,1) of the steps is behind."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "one-cycle":
            rise = 0.3
            if done < rise:
                return self.learning_rate * (0.04 + 0.96 * done / rise)
            done = (done - rise) / (1 - rise)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay
            )
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
            weight_decay=self.weight_decay,
        )
