"""Purifiers that are autoencoders: trained to give clean images back from noisy ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.core.state import derived_seed, seeded
from notsure.data import Images
from notsure.purifiers.base import Purifier, Shape, shape_of
from notsure.purifiers.common import (
    as_weights,
    check_weights,
    check_whole,
    identity_of,
    laid_out,
)
from notsure.training.loop import History, Loop, Step
from notsure.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

GLOROT_OF_SIGMOIDS = 4.0
"""Glorot's gain for layers between sigmoids, whose slope is at most a quarter."""


class Reconstructor(Purifier):
    """A purifier made of autoencoders, each trained to undo Gaussian noise on clean images.

    The loss of an image is the mean over its pixels of (g(clip(x + noise * n)) - x)^2, where n is
    standard normal, clip keeps to [0,1] and g is the autoencoder; without noise it learns to give
    the image back through its bottleneck.

    An autoencoder computes in the precision of its weights and answers in that of the images.

    Args:
        count: how many autoencoders, each with initial weights and an order of images of its own.
        noise: standard deviation of the noise in training, in [0,1] pixel units.
        width: channels of the (first) hidden convolution.
        seed: of the initial weights.
        shape: channels, height and width of the images, where they are known already.

    Raises:
        ConfigurationError: noise is negative, or count or width is less than 1.
    """

    fit_cost = "F + B of each of its autoencoders an image and epoch"
    query_cost = "F of one autoencoder"

    recipe: ClassVar[Recipe]
    """What it is trained by where `fit` is given nothing else."""

    networks: nn.ModuleList

    def __init__(
        self, *, count: int, noise: float, width: int, seed: int, shape: Shape | None
    ) -> None:
        check_whole(count=count, width=width)
        check_weights(noise=noise)
        # before nn.Module's own, which ends in building the networks from them
        self.count, self.noise, self.width, self.seed = count, noise, width, seed
        super().__init__(shape=shape)

    @abstractmethod
    def make_network(self, shape: Shape) -> nn.Module:
        """An autoencoder for images of this shape, to images of the same shape in [0,1]."""

    def make_networks(self, shape: Shape) -> None:
        """Makes the autoencoders, each with initial weights of its own."""
        networks = []
        for index in range(self.count):
            with seeded(derived_seed(self.seed, "autoencoder", index)):
                networks.append(self.make_network(shape))
        self.networks = laid_out(nn.ModuleList(networks), self.trained.device)

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The autoencoder's images, (B, C, H, W) in [0,1]."""
        restored: torch.Tensor = self.networks[0](x)
        return restored

    def fit(
        self,
        data: Images | tuple[torch.Tensor, torch.Tensor],
        *,
        classifier: Classifier | None = None,
        recipe: Recipe | None = None,
        checkpoint: str | Path | None = None,
        accelerator: Accelerator | None = None,
        progress: bool = True,
    ) -> History:
        """Trains the autoencoders one after the other, in place and resumably.

        Args:
            data: clean training images, or tensors (N, C, H, W) in [0,1] and labels (N,), which
                are not looked at.
            classifier: not needed.
            recipe: optimizer, schedule and so on; by default `self.recipe`.
            checkpoint: a safetensors file to write to and to resume from; None for none. Of several
                autoencoders each has its own, with "-1", "-2", ... before the suffix.
            accelerator: an `accelerate.Accelerator`, to train on several devices or hosts.
            progress: whether to show a progress bar.

        Returns:
            The loss of each epoch, of one autoencoder after the other; the accuracy is NaN.

        Raises:
            ConfigurationError: the images are too small.
            InputError: the images are not what they have to be, or of another shape than before.
            CheckpointError: the checkpoint is damaged, or belongs to another training.
            NotSureError: the loss is not finite any more.
        """
        shape = shape_of(data)
        self.build(shape)
        # it is not to be used again before the training is whole
        self.trained = torch.zeros_like(self.trained)
        history = History()
        for index, network in enumerate(self.networks):
            loop = Loop(
                network,
                network,
                data,
                channels=shape[0],
                loss=self._loss,
                name=_numbered(type(self).__name__, index, self.count),
                recipe=_own_order(recipe or self.recipe, index),
                identity={"purifier": identity_of(self), "autoencoder": str(index)},
                checkpoint=_own_file(checkpoint, index, self.count),
                accelerator=accelerator,
            )
            self.to(loop.device)
            history.epochs.extend(loop.run(shown=progress).epochs)
        self.trained = torch.ones_like(self.trained)
        self.eval()
        return history

    def _loss(self, step: Step) -> tuple[torch.Tensor, float]:
        noisy = (step.x + self.noise * torch.randn_like(step.x)).clamp(0, 1)
        losses = self.pixel_losses(step.run(noisy), step.x).flatten(1).mean(dim=1)
        return losses, float("nan")

    def pixel_losses(self, restored: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """How far each pixel (B, C, H, W) is from that of the clean image: its squared error."""
        return (restored - x).square()


class Autoencoder(Reconstructor):
    """One autoencoder of MagNet's form; detectors take its reconstruction error.

    Meng & Chen 2017 (see wester, section 3.2), the networks for MNIST: 3x3 convolutions of three
    channels with sigmoids, around average pooling to half the size. Its loss is the squared error
    on images with Gaussian noise, see `Reconstructor`.

    Deviations: images whose height or width is odd get the paper's second form, without pooling,
    as nothing else fits; the paper's weight penalty of 1e-9 is left to the recipe, whose default is
    none; initial weights are Glorot's with a gain of 4 for the sigmoids.

    Args:
        noise: standard deviation of the noise in training, in [0,1] pixel units; 0.1 in the paper
            for MNIST, 0.025 for CIFAR-10.
        width: channels of the hidden convolutions, 3 in the paper.
        seed: of the initial weights.
        shape: channels, height and width of the images, where they are known already.

    Raises:
        ConfigurationError: noise is negative, or width is less than 1.
    """

    recipe = Recipe(
        epochs=100, batch_size=64, optimizer="adamw", learning_rate=0.02, weight_decay=0
    )

    def __init__(
        self, *, noise: float = 0.1, width: int = 3, seed: int = 0, shape: Shape | None = None
    ) -> None:
        super().__init__(count=1, noise=noise, width=width, seed=seed, shape=shape)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "noise": self.noise,
            "width": self.width,
            "seed": self.seed,
            "shape": None if self.shape is None else list(self.shape),
        }

    def make_network(self, shape: Shape) -> nn.Module:
        """An autoencoder of the paper's form."""
        return SigmoidAutoencoder(shape, self.width)


class SigmoidAutoencoder(nn.Module):
    """Meng & Chen's autoencoders for MNIST, 3x3 convolutions that each end in a sigmoid.

    Their first form where height and width are even: convolution, average pooling to half the
    size, two convolutions, upsampling, two convolutions, the last to the image's channels.
    Otherwise their second form: three convolutions.

    Args:
        shape: channels, height and width of the images.
        width: channels of the hidden convolutions.
    """

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        channels, rows, columns = shape
        if rows % 2 == 0 and columns % 2 == 0:
            self.layers = nn.Sequential(
                *_sigmoid_convolution(channels, width),
                nn.AvgPool2d(2),
                *_sigmoid_convolution(width, width),
                *_sigmoid_convolution(width, width),
                nn.Upsample(scale_factor=2),
                *_sigmoid_convolution(width, width),
                *_sigmoid_convolution(width, channels),
            )
        else:
            self.layers = nn.Sequential(
                *_sigmoid_convolution(channels, width),
                *_sigmoid_convolution(width, width),
                *_sigmoid_convolution(width, channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (B, C, H, W) in [0,1] to images of the same shape in [0,1]."""
        restored: torch.Tensor = self.layers(as_weights(self, x))
        return restored.to(x.dtype)


def _sigmoid_convolution(inputs: int, outputs: int) -> Iterator[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.xavier_uniform_(convolution.weight, gain=GLOROT_OF_SIGMOIDS)
    yield convolution
    yield nn.Sigmoid()


def too_small(shape: Shape, least: int, name: str) -> ConfigurationError:
    """The error for images of less than so many pixels a side."""
    return ConfigurationError(
        f"{name} takes images from {least}x{least} pixels on; these have {shape[1]}x{shape[2]}: "
        "enlarge them, or take an Autoencoder."
    )


def _own_order(recipe: Recipe, index: int) -> Recipe:
    if index == 0:
        return recipe
    return replace(recipe, seed=derived_seed(recipe.seed, "autoencoder", index))


def _own_file(path: str | Path | None, index: int, count: int) -> Path | None:
    if path is None:
        return None
    path = Path(path)
    return path.with_name(f"{_numbered(path.stem, index, count)}{path.suffix}")


def _numbered(name: str, index: int, count: int) -> str:
    return name if count == 1 else f"{name}-{index + 1}"
