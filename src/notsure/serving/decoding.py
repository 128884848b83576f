"""From the bytes of a request to images in [0,1], suspicious of every one of them."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic_core import from_json

from notsure.core.checks import check_images
from notsure.core.errors import ConfigurationError, InputError
from notsure.purifiers.base import Shape
from notsure.serving.limits import Limits, RefusalError
from notsure.serving.multipart import files_of

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Of image files. Others are not offered to strangers: a TIFF's tiles may be as large as memory
whatever the size of its image, and the text of a PPM takes a time that grows with its square."""

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_BRIGHTEST = 65535
_JPEG, _SCAN = b"\xff\xd8", b"\xff\xda"
_SCANS, _BYTES_A_SCAN = 100, 1 << 15
"""How often a JPEG may go over its pixels (about 10 times is usual): so often, and once more for so
many bytes, in which what looks like the mark of a scan occurs by chance."""

_DEEPEST = 4
"""Lists within lists: images, channels, rows, columns."""

_KEYS = 1000
"""How many names an object may have beside its images."""


def pillow() -> ModuleType:
    """The package that decodes image files.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ConfigurationError(
            f"Image files are decoded by the package pillow, which is not there ({error}): "
            'pip install "notsure[serve]"'
        ) from error


class Decoder:
    """Makes images of what clients send, for a guard that takes one shape.

    Args:
        shape: channels (1 or 3), height and width of the images.
        limits: how many, and how large an image file may be.
        resize: whether image files of another size are resized (bilinear); otherwise they are
            refused, since thresholds hold for images that were made as the calibration's were.
    """

    def __init__(self, shape: Shape, limits: Limits, *, resize: bool = False) -> None:
        self.shape, self.limits, self.resize = shape, limits, resize
        self._pillow = pillow()

    def array(self, body: bytes) -> torch.Tensor:
        """Images (B, C, H, W) of a JSON array, or of an object with `image` or `images`.

        Raises:
            RefusalError: it is not JSON, no such array, or its numbers are no images in [0,1].
        """
        values = self.limits.images * math.prod(self.shape)
        if body.count(b",") > values + _KEYS:
            # found out before millions of them are made objects
            raise RefusalError(
                413,
                "too_many_images",
                f"The body holds more numbers than {self.limits.images} images of shape "
                f"{self.shape} have: send them in several requests.",
            )
        try:
            # pydantic's parser takes a third of the time of Python's own
            content = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise RefusalError(400, "malformed_json", f"The body is not JSON: {error}.") from error
        if isinstance(content, dict):
            found = [name for name in ("image", "images") if name in content]
            if len(found) != 1:
                raise RefusalError(
                    422,
                    "no_images",
                    'Send {"image": [...]} or {"images": [...]}, or the array itself.',
                )
            content = content[found[0]]
        return self._checked(self._placed(_numbers(content)))

    def form(self, body: bytes, content_type: str) -> torch.Tensor:
        """Images (B, C, H, W) of the files of a multipart form.

        Raises:
            RefusalError: it is no form of files, or see `files`.
        """
        return self.files(files_of(body, content_type, most=self.limits.images))

    def files(self, bodies: Sequence[bytes]) -> torch.Tensor:
        """Images (B, C, H, W) of image files, one each.

        Raises:
            RefusalError: one of them is too large, damaged, of no format that is read, or of
                another size than the guard takes.
        """
        self._check_count(len(bodies))
        return torch.stack([self._file(body, index) for index, body in enumerate(bodies)])

    def _check_count(self, count: int) -> None:
        if count == 0:
            raise RefusalError(422, "no_images", "There is no image in the request: send one.")
        if count > self.limits.images:
            raise RefusalError(
                413,
                "too_many_images",
                f"{count} images are more than the {self.limits.images} that a request may hold: "
                "send them in several requests.",
            )

    def _placed(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The array as (B, C, H, W), whichever of the usual layouts it has."""
        channels, rows, columns = self.shape
        last = (rows, columns, channels)
        grey = (rows, columns) if channels == 1 else self.shape
        if array.shape in (self.shape, last, grey):
            # one of them is a list of one
            array = array[None]
        if array.shape[1:] in (self.shape, grey):
            return array.reshape(len(array), *self.shape)
        if array.shape[1:] == last:
            return np.moveaxis(array, 3, 1)
        raise RefusalError(
            422,
            "wrong_shape",
            f"The array has shape {array.shape}; this guard takes images of shape {self.shape} "
            "(channels, height, width), one or a list of them.",
        )

    def _checked(self, array: npt.NDArray[np.float32]) -> torch.Tensor:
        self._check_count(len(array))
        x = torch.from_numpy(np.ascontiguousarray(array))
        try:
            check_images(x)
        except InputError as error:
            raise RefusalError(422, "not_an_image", str(error)) from error
        return x.clamp_(0, 1)

    def _file(self, body: bytes, index: int) -> torch.Tensor:
        where = f"Image {index}"
        if body.startswith(_JPEG) and body.count(_SCAN) > _SCANS + len(body) // _BYTES_A_SCAN:
            raise RefusalError(
                422,
                "damaged_image",
                f"{where} goes over its pixels {body.count(_SCAN)} times, and each time takes as "
                "long as decoding it: save it again.",
            )
        try:
            with self._pillow.open(io.BytesIO(body), formats=FORMATS) as image:
                self._check_dimensions(image.size, where)
                pixels = self._pixels(image, where)
        except RefusalError:
            raise
        except self._pillow.DecompressionBombError as error:
            raise RefusalError(413, "image_too_large", f"{where}: {error}.") from error
        except MemoryError:
            raise
        except Exception as error:
            # decoders raise whatever they like on what was made to break them
            reason = "no image file of a format that is read" if _unknown(error) else str(error)
            raise RefusalError(
                422,
                "damaged_image",
                f"{where} cannot be decoded ({reason}). Formats: {', '.join(FORMATS)}.",
            ) from error
        return torch.from_numpy(pixels)

    def _check_dimensions(self, size: tuple[int, int], where: str) -> None:
        columns, rows = size
        if columns * rows > self.limits.image_pixels:
            raise RefusalError(
                413,
                "image_too_large",
                f"{where} has {columns}x{rows} pixels, more than the {self.limits.image_pixels} "
                "that are decoded: send a smaller one.",
            )

    def _pixels(self, image: Any, where: str) -> npt.NDArray[np.float32]:
        """(C, H, W) in [0,1], turned as its camera says, without transparency."""
        from PIL import ImageOps

        channels, rows, columns = self.shape
        # of the wrong size however it is turned: then it is not even decoded
        fits = image.size in ((columns, rows), (rows, columns))
        if fits or self.resize:
            image.load()
            image = ImageOps.exif_transpose(image)
            fits = image.size == (columns, rows)
        if not fits and not self.resize:
            raise RefusalError(
                422,
                "wrong_size",
                f"{where} has {image.size[1]}x{image.size[0]} pixels (height x width); this guard "
                f"takes {rows}x{columns}. Resize it as the guard's own images were, or start the "
                "service with --resize.",
            )
        image = _eight_bits(image)
        if "transparency" in image.info:
            # straight to RGB, PIL warns about some transparent palettes
            image = image.convert("RGBA")
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (columns, rows):
            image = image.resize((columns, rows), self._pillow.Resampling.BILINEAR)
        array = np.asarray(image, dtype=np.float32) / np.float32(255)
        return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _numbers(content: Any) -> npt.NDArray[np.float32]:
    """The array of a nested list, float32.

    The lists are taken apart here. numpy would give every number the room of the longest text among
    them, so that a small body could ask for any amount of memory.
    """
    if not isinstance(content, list):
        raise RefusalError(422, "no_images", "Images are (nested) lists of numbers in [0,1].")
    shape: list[int] = []
    level: list[Any] = [content]
    kinds: set[type] = {list}
    while kinds == {list} and len(shape) < _DEEPEST:
        sizes = set(map(len, level))
        if len(sizes) > 1:
            raise _uneven()
        shape.append(sizes.pop())
        level = list(chain.from_iterable(level))
        kinds = set(map(type, level))
    if list in kinds:
        raise _uneven()
    if not kinds <= {int, float}:
        held = ", ".join(sorted(_HELD.get(kind, kind.__name__) for kind in kinds - {int, float}))
        raise RefusalError(
            422, "not_an_image", f"Images are lists of numbers in [0,1]; these hold {held}."
        )
    try:
        array = np.fromiter(level, np.float64, len(level))
    except OverflowError as error:
        raise RefusalError(
            422, "not_an_image", "Images are numbers in [0,1]; one is too large for a float."
        ) from error
    # what overflows becomes infinite, which is told as such
    with np.errstate(over="ignore"):
        return array.astype(np.float32).reshape(shape)


_HELD: dict[type, str] = {
    str: "texts",
    bool: "true or false",
    dict: "objects",
    type(None): "nulls",
}


def _uneven() -> RefusalError:
    return RefusalError(
        422,
        "wrong_shape",
        f"The lists differ in length or depth, or lie more than {_DEEPEST} deep, so that they are "
        "no array of images.",
    )


def _unknown(error: Exception) -> bool:
    return type(error).__name__ == "UnidentifiedImageError"


def _eight_bits(image: Any) -> Any:
    """A grey image of 16 bits as one of 8; others as they are."""
    if image.mode not in _SIXTEEN_BITS:
        return image
    from PIL import Image

    array = np.asarray(image, dtype=np.float64)
    return Image.fromarray(np.rint(array * (255 / _BRIGHTEST)).astype(np.uint8))
