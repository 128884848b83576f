"""Residual networks for small images (He et al. 2016), as pang and lemesle use them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure.core.errors import ConfigurationError
from notsure.models.registry import register


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity shortcut (option A: subsample and pad with zeros)."""

    def __init__(self, in_channels: int, channels: int, stride: int, leakiness: float) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.normalization1 = nn.BatchNorm2d(channels)
        self.convolution2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.normalization2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = channels - in_channels
        self.leakiness = leakiness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, C', H/stride, W/stride)."""
        out = F.leaky_relu(self.normalization1(self.convolution1(x)), self.leakiness)
        out = self.normalization2(self.convolution2(out))
        shortcut = x
        if self.stride > 1 or self.padding > 0:
            shortcut = x[:, :, :: self.stride, :: self.stride]
            before = self.padding // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.padding - before))
        return F.leaky_relu(out + shortcut, self.leakiness)


class ResNet(nn.Module):
    """The 6n+2-layer residual network for 28x28 or 32x32 images, with leaky ReLU.

    16, 32 and 64 channels in three stages of n blocks, global average pooling, one linear layer;
    the 64 pooled values are the features. Pang et al. (appendix B.1) give the leakiness 0.1.

    Args:
        depth: 6n+2, so 20, 32, 44, 56, 110.
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        size: height and width of the images; not needed by this architecture, checked to be
            at least 8 so that the last stage still sees an image.
        leakiness: negative slope of the activation.
    """

    def __init__(
        self,
        *,
        depth: int = 32,
        num_classes: int = 10,
        in_channels: int = 3,
        size: int = 32,
        leakiness: float = 0.1,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ConfigurationError(f"A ResNet's depth is 6n+2 (20, 32, 44, 56); got {depth}.")
        if size < 8:
            raise ConfigurationError(f"A ResNet needs images of at least 8x8; got {size}x{size}.")
        self.leakiness = leakiness
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stem_normalization = nn.BatchNorm2d(16)
        stages: list[nn.Module] = []
        previous = 16
        for channels, stride in ((16, 1), (32, 2), (64, 2)):
            for block in range(blocks):
                stages.append(
                    ResidualBlock(previous, channels, stride if block == 0 else 1, leakiness)
                )
                previous = channels
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=leakiness, mode="fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (B, C, H, W) to logits (B, K)."""
        x = F.leaky_relu(self.stem_normalization(self.stem(x)), self.leakiness)
        x = self.stages(x)
        logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


@register("resnet32")
def resnet32(*, num_classes: int = 10, in_channels: int = 3, size: int = 32) -> ResNet:
    """ResNet-32 (464,154 parameters on three-channel images and ten classes)."""
    return ResNet(depth=32, num_classes=num_classes, in_channels=in_channels, size=size)


@register("resnet56")
def resnet56(*, num_classes: int = 10, in_channels: int = 3, size: int = 32) -> ResNet:
    """ResNet-56 (853,018 parameters on three-channel images and ten classes)."""
    return ResNet(depth=56, num_classes=num_classes, in_channels=in_channels, size=size)
