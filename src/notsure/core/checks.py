"""Checks at the door: images, labels and budgets, each error naming the cause and the remedy."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import torch

from notsure.core.errors import ConfigurationError, InputError

RANGE_TOLERANCE = 1e-5
"""How far outside [0,1] a pixel may lie: float noise of un-normalising stays below it."""


def _range_cause(low: float, high: float) -> str:
    if low >= 0 and high > 2:
        return "They look like 0..255: divide by 255."
    if -0.5 - 1e-3 <= low < 0 and high <= 0.5 + 1e-3:
        return "They look scaled to [-0.5, 0.5]: add 0.5, and give the classifier mean=0.5, std=1."
    if -1 - 1e-3 <= low < 0 and high <= 1 + 1e-3:
        return "They look scaled to [-1, 1]: halve and add 0.5, and give it mean=0.5, std=0.5."
    if -4 < low < 0 and high < 4:
        return (
            "They look normalised by a mean and standard deviation (as ImageNet pipelines do): "
            "leave the normalisation out of the data and give it to the classifier, "
            "notsure.Classifier(module, mean=..., std=...)."
        )
    return "Scale them to [0,1]; a mean and standard deviation belong inside the Classifier."


def check_images(x: torch.Tensor, *, channels: int | None = None) -> None:
    """Checks that `x` is a batch of float images (B, C, H, W) in [0,1].

    Args:
        x: what the caller gave.
        channels: how many channels the classifier takes, where that is known.

    Raises:
        InputError: it is not a tensor, not float, not four-dimensional, empty, not finite, outside
            [0,1] by more than 1e-5, or has another number of channels.
    """
    if not isinstance(x, torch.Tensor):
        raise InputError(
            f"Images have to be a torch tensor, not {type(x).__name__}: torch.from_numpy(...)?"
        )
    if not x.is_floating_point():
        raise InputError(
            f"Images have to be floats in [0,1]; these are {x.dtype}. For 8-bit images: "
            "x = x.float() / 255."
        )
    if x.ndim != 4:
        raise InputError(
            f"Images have to be (batch, channels, height, width); got shape {tuple(x.shape)}. "
            "A single image needs x[None], grey images need x[:, None]."
        )
    if x.numel() == 0:
        raise InputError(f"There is no image in a batch of shape {tuple(x.shape)}.")
    if channels is not None and x.shape[1] != channels:
        hint = " The channels seem to be last: x.permute(0, 3, 1, 2)." * (x.shape[3] == channels)
        raise InputError(
            f"The classifier takes {channels}-channel images; got {x.shape[1]} channels in shape "
            f"{tuple(x.shape)}.{hint}"
        )
    low, high = (value.item() for value in torch.aminmax(x.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = (~torch.isfinite(x)).flatten(1).any(dim=1).nonzero().flatten()
        raise InputError(
            f"{len(bad)} of {len(x)} images hold NaN or infinite pixels, the first at index "
            f"{bad[0].item()}: remove or repair them."
        )
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise InputError(
            f"Images have to lie in [0,1]; these span [{low:.4g}, {high:.4g}]. "
            f"{_range_cause(low, high)}"
        )


def check_labels(y: torch.Tensor, *, count: int, num_classes: int | None = None) -> torch.Tensor:
    """Checks labels and returns them as int64.

    Args:
        y: what the caller gave, integers (B,).
        count: B, how many images there are.
        num_classes: K, where it is known.

    Raises:
        InputError: wrong type, shape or length, or a label outside 0..K-1.
    """
    if not isinstance(y, torch.Tensor):
        raise InputError(f"Labels have to be a torch tensor, not {type(y).__name__}.")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError(f"Labels have to be integers (class numbers); these are {y.dtype}.")
    if y.ndim != 1:
        raise InputError(
            f"Labels have to be (batch,); got shape {tuple(y.shape)}. From one-hot: y.argmax(1)."
        )
    if len(y) != count:
        raise InputError(f"There are {count} images but {len(y)} labels.")
    y = y.long()
    low, high = int(y.min()), int(y.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        classes = "K-1" if num_classes is None else f"{num_classes - 1}"
        raise InputError(
            f"Labels run from {low} to {high}, but the classes are numbered 0..{classes}. "
            "Classes counted from 1 need y - 1."
        )
    return y


def parse_size(value: float | str, *, what: str) -> float:
    """Reads a budget or step size given as a number or a fraction such as "8/255".

    Raises:
        ConfigurationError: it is not a number, negative, or not finite.
    """
    try:
        if isinstance(value, str):
            top, _, bottom = value.partition("/")
            number = float(top) / float(bottom) if bottom else float(Fraction(top.strip()))
        else:
            number = float(value)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ConfigurationError(
            f"{what} has to be a number or a fraction such as '8/255'; got {value!r}."
        ) from error
    if not math.isfinite(number) or number < 0:
        raise ConfigurationError(f"{what} has to be at least 0 and finite; got {value!r}.")
    return number


def content_keys(x: torch.Tensor) -> torch.Tensor:
    """A 64-bit key of each image's content, int64 (B,) on the images' device.

    The same pixels in the same dtype have the same key wherever they stand, so it seeds a sample's
    random stream and tells whether an image was seen before.
    """
    rows = x.detach().contiguous().cpu().flatten(1).view(torch.uint8).numpy()
    keys = [
        int.from_bytes(
            hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little", signed=True
        )
        for row in rows
    ]
    return torch.tensor(keys, dtype=torch.int64, device=x.device)
