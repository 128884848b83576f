"""A labelled set of 8-bit images, and how arrays become one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from notsure.core import checks
from notsure.core.errors import ConfigurationError, InputError

_CHUNK = 1024
_LEVEL_TOLERANCE = 1e-5
_CHANNEL_COUNTS = (1, 3)


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set of images, kept as 8-bit pixels; floats are made per batch.

    Attributes:
        pixels: uint8 (N, C, H, W), 0..255.
        labels: int64 (N,), class numbers 0..K-1.
        class_names: the K names. A class without an image in this set is allowed.

    Raises:
        InputError: another dtype or shape, no image, another number of labels than of images, or
            a label without a name.
    """

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Tensor) or self.pixels.dtype != torch.uint8:
            kind = getattr(self.pixels, "dtype", type(self.pixels).__name__)
            raise InputError(
                f"Images keeps its pixels as a uint8 tensor; these are {kind}. "
                "notsure.data.from_arrays(x, y) converts arrays and floats."
            )
        if self.pixels.ndim != 4:
            raise InputError(
                f"Pixels have to be (N, C, H, W); got shape {tuple(self.pixels.shape)}. "
                "notsure.data.from_arrays(x, y) takes the other layouts."
            )
        if self.pixels.numel() == 0:
            raise InputError(
                f"There is no image in pixels of shape {tuple(self.pixels.shape)}: give or select "
                "at least one."
            )
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        labels = checks.check_labels(
            self.labels, count=len(self.pixels), num_classes=self.num_classes
        )
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def num_classes(self) -> int:
        """K, the number of class names."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def in_channels(self) -> int:
        """Number of channels: 1 for grey images, 3 for RGB."""
        return self.image_shape[0]

    @property
    def size(self) -> int:
        """Height in pixels, which is the width too where the images are square."""
        return self.image_shape[1]

    @property
    def x(self) -> Tensor:
        """All images as float32 (N, C, H, W) in [0,1], made at each call."""
        return _to_float(self.pixels)

    @property
    def y(self) -> Tensor:
        """The labels, int64 (N,)."""
        return self.labels

    def select(self, indices: Tensor | npt.NDArray[Any] | Sequence[int] | slice) -> Images:
        """Some of the images, in the order asked for; a forward slice shares this set's memory.

        Args:
            indices: positions, a boolean mask (N,), or a slice.

        Raises:
            InputError: nothing is selected.
        """
        if isinstance(indices, slice):
            rows = range(len(self))[indices]
            if rows.step > 0:
                return Images(self.pixels[indices], self.labels[indices], self.class_names)
            indices = rows
        index = torch.as_tensor(indices, device=self.pixels.device)
        if index.dtype != torch.bool:
            index = index.long()
        return Images(self.pixels[index], self.labels[index], self.class_names)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in order: float32 images (B, C, H, W) in [0,1] and int64 labels (B,).

        Args:
            batch_size: B, at least 1; the last batch may be smaller.

        Raises:
            ConfigurationError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise ConfigurationError(f"batch_size has to be at least 1; got {batch_size}.")
        slices = (slice(start, start + batch_size) for start in range(0, len(self), batch_size))
        return ((_to_float(self.pixels[rows]), self.labels[rows]) for rows in slices)

    def content_keys(self) -> Tensor:
        """A 64-bit key of each image's float32 pixels in [0,1], int64 (N,): equal for equal pixels.

        They are the keys that `notsure.core.checks.content_keys` gives for `x`, made per batch.
        """
        return torch.cat([checks.content_keys(x) for x, _ in self.batches(_CHUNK)])

    def digest(self) -> str:
        """SHA-256, in hexadecimal, over the bytes of the pixels and then of the labels."""
        digest = hashlib.sha256()
        for part in (self.pixels, self.labels):
            digest.update(part.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def _to_float(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32).div_(255)


def from_arrays(
    x: Tensor | npt.NDArray[Any],
    y: Tensor | npt.NDArray[Any] | Sequence[int],
    *,
    class_names: Sequence[str] | None = None,
) -> Images:
    """Makes a labelled set of images from arrays or tensors; they are copied.

    Args:
        x: N x H x W, N x H x W x C or N x C x H x W with C = 1 or 3 (channels first where both
            would fit): uint8, or floats in [0,1] that are multiples of 1/255 within 1e-5.
        y: N integer class numbers from 0 on, (N,) or (N, 1).
        class_names: the K names; "0", "1", ... up to the highest label where not given.

    Returns:
        The images, uint8 (N, C, H, W), with their labels.

    Raises:
        InputError: another layout or dtype, floats outside [0,1] or between two 8-bit levels, or
            labels that are not integers, negative, without a name, or of another number.
    """
    pixels = _as_pixels(_channels_first(_as_tensor(x)))
    labels = checks.check_labels(_as_labels(y), count=len(pixels))
    names = range(int(labels.max()) + 1) if class_names is None else class_names
    return Images(pixels, labels, tuple(str(name) for name in names))


def _as_tensor(x: Tensor | npt.NDArray[Any]) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach().cpu()
    array = np.asarray(x)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(
            f"Images have to be uint8 (0..255) or floats in [0,1]; these are {array.dtype}. "
            "For integers 0..255: x.astype(numpy.uint8)."
        )
    return torch.tensor(np.ascontiguousarray(array))


def _channels_first(x: Tensor) -> Tensor:
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim == 4 and x.shape[1] not in _CHANNEL_COUNTS and x.shape[3] in _CHANNEL_COUNTS:
        x = x.permute(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in _CHANNEL_COUNTS:
        raise InputError(
            "Images have to be N x H x W, N x H x W x C or N x C x H x W with 1 or 3 channels; "
            f"got shape {tuple(x.shape)}. For other numbers of channels, build "
            "notsure.data.Images(pixels, labels, class_names) directly."
        )
    if x.numel() == 0:
        raise InputError(f"There is no image in shape {tuple(x.shape)}: give at least one.")
    return x


def _as_pixels(x: Tensor) -> Tensor:
    if x.dtype == torch.uint8:
        return x.clone(memory_format=torch.contiguous_format)
    checks.check_images(x)
    pixels = torch.empty(x.shape, dtype=torch.uint8)
    for start in range(0, len(x), _CHUNK):
        levels = x[start : start + _CHUNK].double() * 255
        rounded = levels.round()
        away = (levels - rounded).abs()
        if away.max() > 255 * _LEVEL_TOLERANCE:
            example = levels.flatten()[away.flatten().argmax()].item() / 255
            raise InputError(
                f"These floats are not 8-bit images: {example:.6g} lies between two multiples of "
                "1/255, and a labelled set keeps 8 bits. Keep floats as tensors and pass them to "
                "attacks and guards directly, or round them first: (255 * x).round() / 255."
            )
        pixels[start : start + _CHUNK] = rounded.clamp_(0, 255).to(torch.uint8)
    return pixels


def _as_labels(y: Tensor | npt.NDArray[Any] | Sequence[int]) -> Tensor:
    if isinstance(y, Tensor):
        labels = y.detach().cpu().clone()
    else:
        array = np.asarray(y)
        if array.dtype.kind not in "iu":
            raise InputError(
                f"Labels have to be integers (class numbers); these are {array.dtype}. Number the "
                "classes from 0 on and give their names as class_names."
            )
        labels = torch.tensor(array.astype(np.int64))
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
