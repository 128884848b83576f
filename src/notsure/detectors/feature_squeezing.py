"""What the classifier says of an image and of coarser versions of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure.core.errors import ConfigurationError
from notsure.detectors.base import Detector
from notsure.observation import Observation


class BitDepth(nn.Module):
    """Rounds pixel values in [0,1] to the 2^bits levels i / (2^bits - 1).

    Its gradient is zero wherever it exists, so it declares itself not differentiable; in the
    backward pass of `notsure.attacks.BPDA` the identity stands in for it.

    Args:
        bits: of a pixel value.
    """

    differentiable: ClassVar[bool] = False

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) in [0,1]."""
        steps = 2**self.bits - 1
        rounded: torch.Tensor = (x * steps).round() / steps
        return rounded


class MedianSmoothing(nn.Module):
    """Replaces each pixel value by the median of a square window of its channel.

    Pixels beyond the edge are those on the edge. An even window reaches one pixel further to the
    top and left, and of an even number of values the larger of the middle two is taken, as
    scipy.ndimage.median_filter does.

    Args:
        width: of the window, in pixels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W); the gradient goes to the pixel that is the median."""
        before, after = self.width // 2, (self.width - 1) // 2
        padded = F.pad(x, (before, after, before, after), mode="replicate")
        windows = padded.unfold(2, self.width, 1).unfold(3, self.width, 1).flatten(4)
        median: torch.Tensor = windows.kthvalue(self.width**2 // 2 + 1, dim=4).values
        return median


class FeatureSqueezing(Detector):
    """The largest L1 distance between the probabilities of an image and of its squeezed versions.

    Xu et al. 2018, section 4. With a bit depth its gradient is zero in part: then the guard is not
    differentiable, and an attack takes `gradient=BPDA()`.

    Deviations: the non-local smoothing that the paper adds for colour images is left out.

    Args:
        bits: of the bit depth reduction. The paper takes 1 for MNIST, 5 for CIFAR-10 and ImageNet;
            None for none.
        median: width of the median smoothing's window, in pixels, which the paper takes 2 wide;
            None for none.

    Raises:
        ConfigurationError: bits is not in 1..16, the window is narrower than 2, or there is
            neither.
    """

    paper = "Xu et al. 2018"
    query_cost = "F a squeezer, 2 F by default"
    differentiable: bool = False

    def __init__(self, *, bits: int | None = 1, median: int | None = 2) -> None:
        super().__init__()
        if bits is not None and not 1 <= bits <= 16:
            raise ConfigurationError(f"bits of a pixel value have to be in 1..16; got {bits!r}.")
        if median is not None and median < 2:
            raise ConfigurationError(
                f"median is the width of a window, at least 2 pixels; got {median!r}. None leaves "
                "the smoothing out."
            )
        if bits is None and median is None:
            raise ConfigurationError("FeatureSqueezing has nothing to do: give bits or median.")
        self.bits, self.median = bits, median
        self.differentiable = bits is None
        self.squeezers = nn.ModuleList(
            ([] if bits is None else [BitDepth(bits)])
            + ([] if median is None else [MedianSmoothing(median)])
        )

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"bits": self.bits, "median": self.median}

    def squeezed(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Each squeezed version of images, (B, C, H, W)."""
        for squeezer in self.squeezers:
            yield squeezer(x)

    def score(self, observation: Observation) -> torch.Tensor:
        """(B,), between 0 and 2; one further pass a squeezer."""
        probabilities = observation.log_probabilities.exp()
        distances = [
            (probabilities - observation.logits_of(images).softmax(dim=1)).abs().sum(dim=1)
            for images in self.squeezed(observation.x)
        ]
        return torch.stack(distances).amax(dim=0)
