"""PuVAE's conditional variational autoencoder, in the architectures of wester's table 6."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure.purifiers.base import Shape
from notsure.purifiers.common import initialise_for_relus

ArchitectureName = Literal["C", "D"]

LEAST_DEVIATION = 1e-6
"""Keeps the logarithm of a posterior's standard deviation finite."""


class ConditionalAutoencoder(nn.Module):
    """Encoder q(z|x,y) and decoder p(x|z,y) for images with labels.

    Wester & Thisted 2020, table 6, with "same" padding throughout. In C the decoder starts from
    maps of ceil(size / 8) (4x4 for 28x28 images) and doubles them three times, cropped to
    ceil(size / 4), ceil(size / 2) and the size (7, 14, 28); in D it starts from ceil(size / 2).

    The last two dense layers of the table's encoders, FC(latent) ReLU and FC(latent) Softplus, are
    read as two heads on the layer before: the mean and the standard deviation of q.

    Deviations: the mean has no ReLU, under which it could not be negative as the prior N(0, 1)
    wants it; C's last ReLU is a sigmoid as in D, for images in [0,1]. What is not printed: the
    label's one-hot vector stands beside the flattened features, and beside z; initial weights are
    He's (under torch's default ones z is not used on small sets: only the class's mean is learnt).

    Args:
        shape: channels, height and width of the images.
        num_classes: K.
        latent: dimensions of z.
        architecture: "C" or "D".
        width: filters of the convolutions, 32 in the table.
        dense: units of the dense layers that have 1024 in the table.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        num_classes: int,
        latent: int,
        architecture: ArchitectureName,
        width: int,
        dense: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.latent = num_classes, latent
        channels, rows, columns = shape
        layers = _c_convolutions if architecture == "C" else _d_convolutions
        self.convolutions = layers(channels, width)
        self.enter = _LabelledLinear(width * rows * columns, num_classes, dense)
        self.hidden = nn.Sequential(nn.ReLU())
        if architecture == "C":
            self.hidden.extend([nn.Linear(dense, dense), nn.ReLU()])
        self.mean = nn.Linear(dense, latent)
        self.deviation = nn.Linear(dense, latent)
        if architecture == "C":
            maps = (width, -(-rows // 8), -(-columns // 8))
            self.leave = _LabelledLinear(latent, num_classes, math.prod(maps))
            self.unfold = nn.Sequential(nn.ReLU(), nn.Unflatten(1, maps))
            self.deconvolutions = _c_deconvolutions(shape, width)
        else:
            maps = (width, -(-rows // 2), -(-columns // 2))
            self.leave = _LabelledLinear(latent, num_classes, dense)
            self.unfold = nn.Sequential(
                nn.ReLU(), nn.Linear(dense, math.prod(maps)), nn.ReLU(), nn.Unflatten(1, maps)
            )
            self.deconvolutions = _d_deconvolutions(shape, width)
        initialise_for_relus(self)

    def look(self, x: torch.Tensor) -> torch.Tensor:
        """What the encoder makes of images (B, C, H, W) before it meets a label, (B, dense)."""
        return self.enter.of_values(self.convolutions(x).flatten(1))

    def posterior(self, looked: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of q(z|x,y), each (N, latent).

        Args:
            looked: of the images, (N, dense), see `look`.
            y: the labels (N,).
        """
        hidden = self.hidden(looked + self.enter.of_labels(y, looked.dtype))
        return self.mean(hidden), F.softplus(self.deviation(hidden)) + LEAST_DEVIATION

    def decode(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The images of latents (N, latent) with labels (N,), before the sigmoid, (N, C, H, W)."""
        entered = self.leave.of_values(z) + self.leave.of_labels(y, z.dtype)
        logits: torch.Tensor = self.deconvolutions(self.unfold(entered))
        return logits

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of q(z|x,y), (B, latent), and the image of a draw from it.

        Args:
            x: images (B, C, H, W) in [0,1].
            y: their labels (B,).
            noise: standard normal, (B, latent); z = mean + deviation * noise.

        Returns:
            Mean, standard deviation and the image before its sigmoid, (B, C, H, W).
        """
        mean, deviation = self.posterior(self.look(x), y)
        return mean, deviation, self.decode(mean + deviation * noise, y)


class _LabelledLinear(nn.Module):
    """A dense layer over values and the one-hot vector of a label side by side.

    The sum is taken apart, so that the values' share is computed once for all labels.
    """

    def __init__(self, values: int, num_classes: int, outputs: int) -> None:
        super().__init__()
        self.values, self.num_classes = values, num_classes
        self.joint = nn.Linear(values + num_classes, outputs)

    def of_values(self, values: torch.Tensor) -> torch.Tensor:
        """The share of values (N, values) and the bias, (N, outputs)."""
        return F.linear(values, self.joint.weight[:, : self.values], self.joint.bias)

    def of_labels(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The share of labels (N,), (N, outputs)."""
        one_hot = F.one_hot(y, self.num_classes).to(dtype)
        return F.linear(one_hot, self.joint.weight[:, self.values :])


class _Deconvolution(nn.Module):
    """A transposed convolution with "same" padding, to maps of a given height and width."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.size = size
        self.even = kernel % 2 == 0
        self.layer = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, inputs, h, w) to (B, outputs, *size)."""
        rows, columns = self.size
        if self.even:
            # "same" padding of an even kernel has its odd row and column at the end
            maps: torch.Tensor = self.layer(x)[..., :rows, :columns]
        else:
            maps = self.layer(x, output_size=[rows, columns])
        return maps


def _convolution(inputs: int, outputs: int, kernel: int, dilation: int) -> list[nn.Module]:
    """A convolution of stride 1 that keeps the size, with its odd padding at the end."""
    before, odd = divmod(dilation * (kernel - 1), 2)
    layer = nn.Conv2d(inputs, outputs, kernel, dilation=dilation)
    return [nn.ZeroPad2d((before, before + odd, before, before + odd)), layer]


def _c_convolutions(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (channels, width, width):
        layers += [*_convolution(inputs, width, 7, 2), nn.ReLU()]
    return nn.Sequential(*layers)


def _d_convolutions(channels: int, width: int) -> nn.Sequential:
    layers = [*_convolution(channels, channels, 2, 1), nn.ReLU()]
    for inputs in (channels, width, width):
        layers += [*_convolution(inputs, width, 2, 2), nn.ReLU()]
    return nn.Sequential(*layers)


def _c_deconvolutions(shape: Shape, width: int) -> nn.Sequential:
    channels, rows, columns = shape
    layers: list[nn.Module] = []
    for share in (4, 2, 1):
        size = (-(-rows // share), -(-columns // share))
        layers += [_Deconvolution(width, width, 7, 2, size), nn.ReLU()]
    return nn.Sequential(*layers, _Deconvolution(width, channels, 3, 1, (rows, columns)))


def _d_deconvolutions(shape: Shape, width: int) -> nn.Sequential:
    channels, rows, columns = shape
    half = (-(-rows // 2), -(-columns // 2))
    return nn.Sequential(
        _Deconvolution(width, width, 2, 1, half),
        nn.ReLU(),
        _Deconvolution(width, width, 2, 1, half),
        nn.ReLU(),
        _Deconvolution(width, width, 3, 2, (rows, columns)),
        nn.ReLU(),
        *_convolution(width, channels, 2, 1),
    )


@dataclass(frozen=True, eq=False)
class Terms:
    """What a PuVAE minimises, image by image.

    Attributes:
        reconstruction: (B,), in nats, summed over the pixels.
        kl: (B,), in nats.
        answers: the classifier's logits of the reconstructions, (B, K).
        y: the labels (B,).
    """

    reconstruction: torch.Tensor
    kl: torch.Tensor
    answers: torch.Tensor
    y: torch.Tensor

    @property
    def classification(self) -> torch.Tensor:
        """The classifier's cross-entropy, (B,)."""
        return F.cross_entropy(self.answers, self.y, reduction="none")


def pixel_cross_entropy(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Minus the log-likelihood of images under independent Bernoulli pixels.

    Args:
        logits: the pixels' means before the sigmoid, (B, C, H, W).
        x: images (B, C, H, W) in [0,1].

    Returns:
        (B,), in nats, summed over the pixels; least, not 0, where sigmoid(logits) = x.
    """
    losses = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return losses.flatten(1).sum(dim=1)


def divergence_from_standard(mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, diag(deviation^2)) || N(0, 1)) of each row, (B,), in nats.

    Args:
        mean: (B, D).
        deviation: standard deviations, (B, D), positive.
    """
    each = (mean.square() + deviation.square() - 1) / 2 - deviation.log()
    return each.sum(dim=1)
