"""The denoising autoencoder of martin: through a bottleneck and back."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import nn

from notsure.core.errors import ConfigurationError
from notsure.purifiers.autoencoder import Reconstructor, too_small
from notsure.purifiers.base import Shape
from notsure.purifiers.common import as_weights, check_whole, initialise_for_relus
from notsure.training.recipe import Recipe

PixelLoss = Literal["squared-error", "cross-entropy"]

SURE = 1e-6
"""How near a pixel may come to 0 or 1 before its cross-entropy is held finite."""

SMALLEST = 8
"""Height and width, in pixels, below which a quarter of the size says nothing any more."""


class DenoisingAutoencoder(Reconstructor):
    """A convolutional autoencoder that learns to take Gaussian noise off clean images.

    Martin et al. 2019, section 9.2: the image goes through a reduced latent space and is projected
    back. What it minimises on images with noise is the squared error, see `Reconstructor`, or the
    cross-entropy of each pixel.

    The network ends in a sigmoid, whose slope vanishes where it is sure. On images that are nearly
    all dark, such as MNIST's, the squared error can end in a network that gives black images
    alone; the cross-entropy, whose gradient does not vanish, leads out of it.

    Deviation: the report draws the denoiser (its figure 12) and prints neither layers nor noise
    nor loss; the layers are `ConvolutionalAutoencoder`'s.

    Args:
        noise: standard deviation of the noise in training, in [0,1] pixel units.
        width: channels of the first convolution, at half the size; the second, at a quarter, has
            twice as many.
        bottleneck: channels at a quarter of the size. An image of C channels is squeezed by the
            factor 16 C / bottleneck: 8 keep half as many numbers as a grey image has pixels.
        loss: of each pixel, "squared-error" or "cross-entropy".
        seed: of the initial weights.
        shape: channels, height and width of the images, where they are known already.

    Raises:
        ConfigurationError: noise is negative, width or bottleneck is less than 1, the loss is not
            known, or the images are smaller than 8x8.
    """

    paper = "martin 9.2"
    recipe = Recipe(
        epochs=50, batch_size=128, optimizer="adamw", learning_rate=2e-3, weight_decay=0
    )

    def __init__(
        self,
        *,
        noise: float = 0.3,
        width: int = 32,
        bottleneck: int = 8,
        loss: PixelLoss = "squared-error",
        seed: int = 0,
        shape: Shape | None = None,
    ) -> None:
        check_whole(bottleneck=bottleneck)
        if loss not in get_args(PixelLoss):
            raise ConfigurationError(f"loss is {' or '.join(get_args(PixelLoss))}; got {loss!r}.")
        self.bottleneck, self.loss = bottleneck, loss
        super().__init__(count=1, noise=noise, width=width, seed=seed, shape=shape)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "noise": self.noise,
            "width": self.width,
            "bottleneck": self.bottleneck,
            "loss": self.loss,
            "seed": self.seed,
            "shape": None if self.shape is None else list(self.shape),
        }

    def make_network(self, shape: Shape) -> nn.Module:
        """The autoencoder.

        Raises:
            ConfigurationError: the images are smaller than 8x8.
        """
        if min(shape[1:]) < SMALLEST:
            raise too_small(shape, SMALLEST, type(self).__name__)
        return ConvolutionalAutoencoder(shape, self.width, self.bottleneck)

    def pixel_losses(self, restored: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The loss of each pixel, (B, C, H, W)."""
        if self.loss == "squared-error":
            return super().pixel_losses(restored, x)
        sure = restored.clamp(SURE, 1 - SURE)
        return -(x * sure.log() + (1 - x) * (1 - sure).log())


class ConvolutionalAutoencoder(nn.Module):
    """Two convolutions of stride 2 and a 1x1 bottleneck; back by two transposed convolutions.

    Args:
        shape: channels, height and width of the images, of any size.
        width: channels at half the size; there are twice as many at a quarter.
        bottleneck: channels of the bottleneck, at a quarter of the size.
    """

    def __init__(self, shape: Shape, width: int, bottleneck: int) -> None:
        super().__init__()
        channels = shape[0]
        self.first = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.squeeze = nn.Conv2d(2 * width, bottleneck, 1)
        self.widen = nn.Conv2d(bottleneck, 2 * width, 1)
        self.to_half = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1)
        self.to_full = nn.ConvTranspose2d(width, width, 3, stride=2, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        initialise_for_relus(self)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """What is left of images (B, C, H, W), (B, bottleneck, ceil(H/4), ceil(W/4))."""
        code: torch.Tensor = self.squeeze(self.second(self.first(x).relu()).relu())
        return code

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (B, C, H, W) in [0,1] to images of the same shape in [0,1]."""
        rows, columns = x.shape[2:]
        code = self.encode(as_weights(self, x))
        half = self.to_half(
            self.widen(code).relu(), output_size=[-(-rows // 2), -(-columns // 2)]
        ).relu()
        full = self.to_full(half, output_size=[rows, columns]).relu()
        restored: torch.Tensor = torch.sigmoid(self.last(full))
        return restored.to(x.dtype)
