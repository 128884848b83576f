"""Images to attack: picked from a data set, uploaded, or drawn."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import torch

from notsure.adapters.decoding import DEEP, RESIZED, TRANSPARENT, TURNED, Pixels, decoded
from notsure.adapters.resizing import Resizing, squeezed
from notsure.core.errors import DataError, InputError
from notsure.data import Images
from notsure.purifiers.base import Shape

_PREFIX = "data:image/png;base64,"

_DRAWN = 280
"""About how many pixels the longer side of the canvas has."""

_DONE = {
    TURNED: "It was turned upright by its EXIF orientation.",
    DEEP: "Its 16 bits a pixel were scaled to 8.",
    TRANSPARENT: "Its transparency was dropped.",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """An image to attack.

    Attributes:
        x: (1, C, H, W) in [0,1], float32.
        label: its true label; None where nobody knows it.
        origin: where it comes from, in a few words.
        notes: what was done to it, in sentences.
    """

    x: torch.Tensor
    label: int | None
    origin: str
    notes: tuple[str, ...] = ()


def picked(images: Images, index: int) -> Chosen:
    """One of the images of a data set, with its label.

    Raises:
        InputError: there is none of that number.
    """
    if not 0 <= index < len(images):
        raise InputError(f"There are {len(images)} images to pick from, 0 to {len(images) - 1}.")
    one = images.select([index])
    return Chosen(x=one.x, label=int(one.labels), origin=f"picked, image {index}")


def uploaded(content: bytes, shape: Shape, *, resizing: Resizing | None = None) -> Chosen:
    """An image file, brought to what a guard takes as `notsure audit` brings it.

    Args:
        content: of the file.
        shape: channels, height and width of the guard's images.
        resizing: how it is brought to their size; squeezed (bilinear) by default.

    Raises:
        DataError: it is no image, or damaged, or has neither 8 nor 16 bits a pixel.
    """
    how = resizing or squeezed(shape[1:], "bilinear")
    try:
        pixels = decoded(content, resizing=how, channels=shape[0])
    except DataError as error:
        raise DataError(
            f"The file is not taken: {error}. Give a PNG, JPEG, WebP, BMP or GIF image."
        ) from error
    notes = [told for what, told in _DONE.items() if what in pixels.done]
    if RESIZED in pixels.done:
        rows, columns = pixels.size
        notes.append(
            f"It had {rows} x {columns} pixels (height x width) and was resized ({how}): scores "
            "of resized images may differ from those that the thresholds were set on."
        )
    return Chosen(x=_as_x(pixels), label=None, origin="uploaded", notes=tuple(notes))


def drawn(url: str | None, shape: Shape) -> Chosen:
    """What was drawn on a canvas, each block of its pixels averaged to one.

    Args:
        url: the canvas as a data URL of a PNG.
        shape: channels, height and width of the guard's images.

    Raises:
        InputError: nothing was drawn.
        DataError: it is no such URL.
    """
    if not url:
        raise InputError("Nothing is drawn yet: draw on the canvas, then press the button again.")
    if not url.startswith(_PREFIX):
        raise DataError("The drawing did not arrive as a PNG: reload the page and draw again.")
    try:
        content = base64.b64decode(url[len(_PREFIX) :], validate=True)
    except binascii.Error as error:
        raise DataError(
            f"The drawing arrived damaged ({error}): reload the page and draw again."
        ) from error
    pixels = decoded(content, resizing=squeezed(shape[1:], "box"), channels=shape[0])
    if pixels.values.min() == pixels.values.max():
        raise InputError("Nothing is drawn yet: draw on the canvas, then press the button again.")
    return Chosen(x=_as_x(pixels), label=None, origin="drawn")


def canvas_scale(shape: Shape) -> int:
    """How many pixels of the canvas, along each side, become one of the guard's."""
    return max(1, round(_DRAWN / max(shape[1:])))


def ground_of(images: Images | None) -> int:
    """The grey level (0..255) that a drawing starts from: 255 where the data's borders are bright.

    It is 0, as for white digits on black, where there are no data to look at.
    """
    if images is None:
        return 0
    edge = images.pixels.float()
    border = torch.cat(
        [edge[..., 0, :], edge[..., -1, :], edge[..., :, 0], edge[..., :, -1]], dim=2
    )
    return 255 if float(border.median()) > 127 else 0


def _as_x(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels.values.copy()).float().div(255)[None]
