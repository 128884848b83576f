"""The plain convolutional networks of the reports, layer by layer as they print them."""

from __future__ import annotations

import torch
from torch import nn

from notsure.core.errors import ConfigurationError
from notsure.models.registry import register


def _flat_size(layers: nn.Sequential, in_channels: int, size: int) -> int:
    """Number of values that `layers` leaves of one image, or an error naming the size."""
    was_training = layers.training
    layers.eval()
    try:
        with torch.no_grad():
            flat = layers(torch.zeros(1, in_channels, size, size)).numel()
    except RuntimeError:
        flat = 0
    finally:
        layers.train(was_training)
    if flat == 0:
        raise ConfigurationError(
            f"Images of {size}x{size} are too small for this architecture: its pooling leaves "
            "nothing of them. Take larger images, or 'digits_cnn', which works from 8x8 on."
        )
    return int(flat)


class _Stacked(nn.Module):
    """Convolutional layers, then dense layers that end in the logits."""

    layers: nn.Sequential
    dense: nn.Sequential

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (B, C, H, W) to logits (B, K)."""
        logits: torch.Tensor = self.dense(self.layers(x).flatten(1))
        return logits


@register("digits_cnn")
class DigitsCNN(_Stacked):
    """A small network for 8x8 digits: two convolutions, pooling, 64 features.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        size: height and width of the images in pixels.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, size: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        flat = _flat_size(self.layers, in_channels, size)
        self.dense = nn.Sequential(nn.Linear(flat, 64), nn.ReLU(), nn.Linear(64, num_classes))


@register("lenet")
class LeNet(_Stacked):
    """Preaut's network: 6@5x5, pool, 16@5x5, pool, 120, 84, K; 62,006 parameters at 3x32x32, K=10.

    The report's LogSoftmax belongs to its loss and is left to it: the module yields logits.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        size: height and width of the images in pixels.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        flat = _flat_size(self.layers, in_channels, size)
        self.dense = nn.Sequential(
            nn.Linear(flat, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )


@register("martin_cnn")
class MartinCNN(_Stacked):
    """Martin's base model: four 3x3 convolutions without padding, 512 features.

    The report prints 594,922 parameters (at 1x28x28, K=10) and not the layers; these are the ones
    that give that number.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        size: height and width of the images in pixels.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, size: int = 28) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        flat = _flat_size(self.layers, in_channels, size)
        self.dense = nn.Sequential(nn.Linear(flat, 512), nn.ReLU(), nn.Linear(512, num_classes))


@register("madry_cnn")
class MadryCNN(_Stacked):
    """Madry et al.'s MNIST network: 32 and 64 filters of 5x5, pooling, 1,024 features.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        size: height and width of the images in pixels.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, size: int = 28) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        flat = _flat_size(self.layers, in_channels, size)
        self.dense = nn.Sequential(nn.Linear(flat, 1024), nn.ReLU(), nn.Linear(1024, num_classes))


@register("wester_a")
class WesterA(_Stacked):
    """Wester & Thisted's classifier A (their Table 6), for MNIST and Fashion-MNIST.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        size: height and width of the images in pixels.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1, size: int = 28) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 64, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Dropout(0.25),
        )
        flat = _flat_size(self.layers, in_channels, size)
        self.dense = nn.Sequential(
            nn.Linear(flat, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, num_classes)
        )


@register("wester_b")
class WesterB(_Stacked):
    """Wester & Thisted's classifier B (their Table 6), for CIFAR-10.

    Args:
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        size: height and width of the images in pixels.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 256, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Dropout(0.25),
        )
        flat = _flat_size(self.layers, in_channels, size)
        self.dense = nn.Sequential(
            nn.Linear(flat, 512),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, num_classes),
        )
