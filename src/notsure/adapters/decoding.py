"""One encoded image to 8-bit pixels: orientation, palettes, transparency, depth."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from notsure.adapters.loaded import extra
from notsure.adapters.resizing import Resizing
from notsure.core.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY = ("1", "L", "LA", "La")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_LEVELS = 65535
_EIGHT_BITS = 255
_ORIENTATION = 0x0112
_TURNED_BY_EXIF = range(2, 9)

TURNED, DEEP, TRANSPARENT, RESIZED = "turned", "deep", "transparent", "resized"
"""What may have been done to an image, see `Pixels.done`."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """A decoded image.

    Attributes:
        values: uint8 (C, H, W), C = 1 for grey images and 3 for others.
        size: height and width before any resizing.
        done: which of `TURNED` (upright by its EXIF orientation), `DEEP` (16 bits scaled to 8),
            `TRANSPARENT` (its transparency dropped) and `RESIZED`.
    """

    values: npt.NDArray[np.uint8]
    size: tuple[int, int]
    done: frozenset[str]


def decoded(value: Any, *, resizing: Resizing | None = None, channels: int | None = None) -> Pixels:
    """Decodes an image.

    Args:
        value: a file's bytes, its path, or a mapping of "bytes" and "path".
        resizing: what it is brought to; None leaves its size.
        channels: 1 or 3; None keeps grey images grey.

    Raises:
        DataError: it is no image, or damaged, or its pixels are not 8 or 16 bits.
        ConfigurationError: Pillow is not installed.
    """
    extra("PIL.Image", name="data", what="Decoding images")
    done: set[str] = set()
    try:
        with warnings.catch_warnings():
            # Pillow warns of some palettes, and of large images before it refuses larger ones
            warnings.simplefilter("ignore")
            image = _eight_bits(_upright(_opened(value), done), done)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        told = str(error) or type(error).__name__
        raise DataError(f"it cannot be decoded ({told[:200]})") from error
    size = (image.height, image.width)
    if resizing is not None:
        resized = resizing(image)
        if resized is not image:
            done.add(RESIZED)
        image = resized
    return Pixels(_as_array(image, channels), size, frozenset(done))


def resized_pixels(
    values: npt.NDArray[np.uint8], *, resizing: Resizing | None, channels: int | None
) -> Pixels:
    """The same for pixels (C, H, W) that need no decoding.

    Raises:
        ConfigurationError: they have to be resized, and Pillow is not installed.
    """
    size = (values.shape[1], values.shape[2])
    if resizing is None or size == resizing.size:
        if channels is None or len(values) == channels:
            return Pixels(values, size, frozenset())
        if channels == 3 and len(values) == 1:
            return Pixels(np.repeat(values, 3, axis=0), size, frozenset())
    module = extra("PIL.Image", name="data", what="Resizing images")
    shaped = values[0] if len(values) == 1 else values.transpose(1, 2, 0)
    image = module.fromarray(np.ascontiguousarray(shaped))
    changed = image if resizing is None else resizing(image)
    done = frozenset() if changed is image else frozenset({RESIZED})
    return Pixels(_as_array(changed, channels), size, done)


def _opened(value: Any) -> Image:
    from PIL import Image

    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return Image.open(io.BytesIO(value))
    if isinstance(value, str | Path):
        return Image.open(value)
    raise DataError(f"it is no encoded image but a value of type {type(value).__name__}")


def _upright(image: Image, done: set[str]) -> Image:
    from PIL import ImageOps

    image.load()
    if image.getexif().get(_ORIENTATION, 1) in _TURNED_BY_EXIF:
        done.add(TURNED)
        return ImageOps.exif_transpose(image)
    return image


def _eight_bits(image: Image, done: set[str]) -> Image:
    """The image in the mode L or RGB."""
    from PIL import Image as Module

    if image.mode in _DEEP:
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > _LEVELS:
            raise DataError(
                f"its pixels run from {levels.min()} to {levels.max()}, which is neither 8 nor 16 "
                "bits: save it as one of these"
            )
        if image.mode == "I" and image.format != "PNG" and levels.max() <= _EIGHT_BITS:
            raise DataError(
                f"its pixels are 32-bit integers up to {levels.max()}, of which no one can tell "
                "whether they are of 8 or of 16 bits: save it as one of these"
            )
        done.add(DEEP)
        # 65535 / 255 = 257
        return Module.fromarray(np.rint(levels / 257).astype(np.uint8))
    if image.mode.startswith("F"):
        raise DataError(
            "its pixels are floating-point numbers, whose range no image file tells: save it "
            "with 8 or 16 bits, or give an .npz of floats in [0,1]"
        )
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        done.add(TRANSPARENT)
        if image.mode not in _GREY:
            # straight to RGB, Pillow keeps the key colours of transparent palettes
            image = image.convert("RGBA")
    return image.convert("L" if image.mode in _GREY else "RGB")


def _as_array(image: Image, channels: int | None) -> npt.NDArray[np.uint8]:
    if channels == 1 and image.mode != "L":
        image = image.convert("L")
    if channels == 3 and image.mode != "RGB":
        image = image.convert("RGB")
    array: npt.NDArray[np.uint8] = np.array(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
