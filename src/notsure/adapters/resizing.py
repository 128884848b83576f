"""How images are brought to the size that a model wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from notsure.core.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """A resizing of images, as Pillow does it.

    Images that have the size already are left as they are, also where a model's own pipeline would
    enlarge them and cut off the border.

    Attributes:
        height: in pixels.
        width: in pixels.
        shortest_edge: images are first resized to so many pixels along their shorter side, in
            their own proportions, and the middle is cut out; None squeezes them to the size.
        before_crop: height and width that images are first squeezed to, of which the middle is cut
            out, in place of `shortest_edge`.
        interpolation: how pixels are computed.

    Raises:
        ConfigurationError: a size is below 1, smaller than what is cut out of it, or both
            `shortest_edge` and `before_crop` are given.
    """

    height: int
    width: int
    shortest_edge: int | None = None
    before_crop: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ConfigurationError(
                f"A size is at least 1 pixel; got {self.height} x {self.width}."
            )
        if self.interpolation not in get_args(Interpolation):
            raise ConfigurationError(
                f"interpolation is one of {', '.join(get_args(Interpolation))}; got "
                f"{self.interpolation!r}."
            )
        if self.shortest_edge is not None and self.shortest_edge < max(self.height, self.width):
            raise ConfigurationError(
                f"Of an image whose shorter side has {self.shortest_edge} pixels no "
                f"{self.height} x {self.width} can be cut out: give a larger shortest_edge."
            )
        if self.before_crop is not None and (
            self.shortest_edge is not None
            or self.before_crop[0] < self.height
            or self.before_crop[1] < self.width
        ):
            raise ConfigurationError(
                f"before_crop is at least {self.height} x {self.width}, and given without "
                f"shortest_edge; got {self.before_crop} and {self.shortest_edge}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def __str__(self) -> str:
        """In words."""
        target = f"{self.height}x{self.width}"
        if self.before_crop is not None:
            first = "x".join(map(str, self.before_crop))
            return f"squeezed to {first}, {self.interpolation}, then the middle {target}"
        if self.shortest_edge is None:
            return f"squeezed to {target}, {self.interpolation}"
        return (
            f"shorter side to {self.shortest_edge}, {self.interpolation}, then the middle {target}"
        )

    def __call__(self, image: Image) -> Image:
        """The image at the size; the same one where it has it already."""
        from PIL.Image import Resampling

        if (image.height, image.width) == self.size:
            return image
        how = Resampling[self.interpolation.upper()]
        if self.before_crop is not None:
            height, width = self.before_crop
        elif self.shortest_edge is None:
            return image.resize((self.width, self.height), how)
        else:
            scale = self.shortest_edge / min(image.height, image.width)
            # rounding must not make a side smaller than what is cut out of it
            width = max(round(image.width * scale), self.shortest_edge)
            height = max(round(image.height * scale), self.shortest_edge)
        left, top = (width - self.width) // 2, (height - self.height) // 2
        resized = image.resize((width, height), how)
        return resized.crop((left, top, left + self.width, top + self.height))


def squeezed(size: tuple[int, int] | None, interpolation: Interpolation) -> Resizing | None:
    """The resizing that squeezes images to a size; None where there is none."""
    if size is None:
        return None
    return Resizing(height=size[0], width=size[1], interpolation=interpolation)
