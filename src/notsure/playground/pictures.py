"""Images as pictures that a page can hold, and where a score stands on a scale."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch

from notsure.core.errors import InputError


def png_url(image: torch.Tensor) -> str:
    """An image as the data URL of a PNG of 8 bits, one pixel a pixel.

    Args:
        image: (C, H, W) in [0,1] with 1 or 3 channels; others show the mean of their channels.

    Raises:
        InputError: it is no image.
    """
    from PIL import Image

    if image.ndim != 3:
        raise InputError(f"A picture is made of one image (C, H, W); got {tuple(image.shape)}.")
    if image.shape[0] not in (1, 3):
        image = image.mean(dim=0, keepdim=True)
    levels = image.detach().cpu().double().mul(255).round().clamp(0, 255).to(torch.uint8).numpy()
    pixels = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def difference(clean: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What was changed, as an image around middle grey, and how much it is amplified.

    Args:
        clean: an image (C, H, W) in [0,1].
        other: the changed one.

    Returns:
        0.5 + gain * (other - clean), (C, H, W) in [0,1], with the gain at which the largest change
        is white or black; middle grey and 0 where nothing was changed.
    """
    delta = other.double() - clean.double()
    largest = float(delta.abs().max())
    gain = 0.5 / largest if largest > 0 else 0.0
    return (0.5 + gain * delta).clamp(0, 1), gain


def place_of(excess: float) -> float:
    """Where a score stands on a scale from 0 to 1 that holds every score.

    The threshold is in the middle and the median clean image at a quarter; the ends are infinitely
    far away.

    Args:
        excess: how far the score is above its threshold, in units of the distance from the median
            clean image to the threshold.
    """
    if np.isinf(excess):
        return float(excess > 0)
    return 0.5 + 0.5 * excess / (1 + abs(excess))
