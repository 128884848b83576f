"""Labelled images from outside: sizes, modes and damaged files are dealt with, and told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from notsure.adapters import decoding
from notsure.adapters.decoding import Pixels
from notsure.adapters.resizing import Resizing, squeezed
from notsure.adapters.sources import Source, opened
from notsure.core.errors import ConfigurationError, DataError
from notsure.core.state import derived_seed
from notsure.data import Images, Split
from notsure.data.split import split_parts

TEST, TRAIN = "test", "train"

_DONE = {
    decoding.TURNED: "{n} were turned upright by their EXIF orientation.",
    decoding.DEEP: "{n} had 16 bits a pixel and were scaled to 8.",
    decoding.TRANSPARENT: "{n} had transparency, which was dropped.",
    decoding.RESIZED: "{n} were resized ({how}).",
}
_NAMED = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedImages:
    """Labelled images, and what was done to them.

    Attributes:
        images: the images, all of one size.
        source: the spec as it was given.
        part: the source's own name of the part that they are.
        notes: what was done to them, in sentences.
        skipped: the images that could not be read and were left out, each with the reason.
    """

    images: Images
    source: str
    part: str
    notes: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedSplit:
    """Images to train, calibrate and test with, and what was done to them.

    Attributes:
        split: three sets of which no two share an image.
        notes: what was done to the images, in sentences.
        skipped: the images that could not be read and were left out, each with the reason.
    """

    split: Split
    notes: tuple[str, ...]
    skipped: tuple[str, ...]


def load_images(
    spec: str | Path,
    *,
    part: str = TEST,
    count: int | None = None,
    size: Resizing | int | tuple[int, int] | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> LoadedImages:
    """Labelled images to examine a model with.

    Args:
        spec: "digits"; an .npz file with x (N x C x H x W, N x H x W x C or N x H x W; uint8, or
            floats in [0,1], which are rounded to 8 bits) and y (N), or x_train, y_train, x_test and
            y_test; a folder of images in class folders, optionally under train/ and test/; a folder
            of IDX or Parquet files, or one that `datasets` saved; a Parquet file; or a hub id. A
            name such as "mnist" is looked for in the folder that NOTSURE_DATA names, and then on
            the hub.
        part: "test" for the published test set if there is one; "train" for the other. A source
            with one set is that set.
        count: how many images are taken, in the proportions of their classes; None for all.
        size: what images are brought to: a model's `resizing`, or height and width in pixels. None
            leaves them, and all have to be of one size.
        channels: 1 or 3, as the model takes them; None for 1 if all are grey.
        skip_bad: leave out images that cannot be read, and say which, where otherwise the first of
            them is an error.
        seed: of the draw of `count`.

    Raises:
        DataError: the source cannot be found or read, an image is damaged, or sizes differ.
        ConfigurationError: a setting is out of range, or a package is missing.
    """
    _check(part, count, channels)
    resizing = _resizing(size)
    with opened(spec) as source:
        names = list(source.labels)
        name = names[0] if part == TRAIN else names[-1]
        return _read(source, name, count, resizing, channels, skip_bad=skip_bad, seed=seed)


def load_split(
    spec: str | Path,
    *,
    counts: tuple[int | None, int | None] = (None, None),
    size: Resizing | int | tuple[int, int] | None = None,
    channels: int | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> LoadedSplit:
    """Labelled images to train, calibrate and test with; see `load_images` and `data.load`.

    Args:
        spec: as `load_images` takes it.
        counts: how many images are taken of the set to train on (which the calibration images are
            held out of), and of the published test set; None for all. Of a source with one set the
            first counts.
        size: as `load_images` takes it.
        channels: as `load_images` takes it.
        skip_bad: as `load_images` takes it.
        seed: of the draws.

    Raises:
        DataError: as `load_images` raises it, or there are too few images.
        ConfigurationError: as `load_images` raises it.
    """
    for count in counts:
        _check(TEST, count, channels)
    resizing = _resizing(size)
    with opened(spec) as source:
        read = [
            _read(source, name, count, resizing, channels, skip_bad=skip_bad, seed=seed)
            for name, count in zip(source.labels, counts, strict=False)
        ]
    most = max(one.images.in_channels for one in read)
    parts = {
        one.part: Images(
            one.images.pixels.expand(-1, most, -1, -1).contiguous(),
            one.images.labels,
            one.images.class_names,
        )
        for one in read
    }
    return LoadedSplit(
        split=split_parts(parts, seed=seed, source=str(spec)),
        notes=tuple(f"{one.part}: {note}" for one in read for note in one.notes),
        skipped=tuple(reason for one in read for reason in one.skipped),
    )


def _check(part: str, count: int | None, channels: int | None) -> None:
    if part not in (TEST, TRAIN):
        raise ConfigurationError(f"part is {TEST!r} or {TRAIN!r}; got {part!r}.")
    if count is not None and count < 1:
        raise ConfigurationError(f"count is a number of images, at least 1; got {count}.")
    if channels not in (None, 1, 3):
        raise ConfigurationError(
            f"Images have 1 or 3 channels; the model takes {channels}. Give its images as an .npz "
            "to notsure.evaluate, which takes any number of channels."
        )


def _resizing(size: Resizing | int | tuple[int, int] | None) -> Resizing | None:
    if isinstance(size, Resizing):
        return size
    return squeezed((size, size) if isinstance(size, int) else size, "bilinear")


def _read(
    source: Source,
    part: str,
    count: int | None,
    resizing: Resizing | None,
    channels: int | None,
    *,
    skip_bad: bool,
    seed: int,
) -> LoadedImages:
    labels = source.labels[part]
    rows = chosen_rows(labels, count, seed)
    pixels = _Pixels(len(rows), resizing, channels)
    kept: list[int] = []
    skipped: list[str] = []
    for place, row in enumerate(rows.tolist()):
        try:
            pixels.add(source.pixels(part, row, resizing, channels), source.called(part, row))
        except DataError as error:
            reason = f"{source.called(part, row)}: {error}"
            if not skip_bad:
                raise DataError(
                    f"{reason}. Repair or remove it, or leave such images out with --skip-bad "
                    "(skip_bad=True)."
                ) from error
            skipped.append(reason)
            continue
        kept.append(place)
    if not kept:
        raise DataError(f"None of the {len(rows)} images of {source.spec!r} could be read.")
    images = Images(
        torch.from_numpy(pixels.all()),
        torch.from_numpy(labels[rows[kept]]),
        source.class_names,
    )
    notes = [_taken(len(kept), len(labels), part, source.spec), *source.notes, *pixels.notes()]
    if skipped:
        named = "; ".join(skipped[:_NAMED])
        more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
        notes.append(f"{len(skipped)} could not be read and were left out: {named}{more}.")
    return LoadedImages(
        images=images, source=source.spec, part=part, notes=tuple(notes), skipped=tuple(skipped)
    )


def _taken(kept: int, there: int, part: str, spec: str) -> str:
    return f"{kept} of the {there} images of {spec} ({part})."


def chosen_rows(
    labels: npt.NDArray[np.int64], count: int | None, seed: int
) -> npt.NDArray[np.int64]:
    """So many rows in the proportions of their classes, ascending; all for None or too many."""
    if count is None or count >= len(labels):
        return np.arange(len(labels))
    shuffled = np.random.default_rng(derived_seed(seed, "images")).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # evenly spaced in the order of the classes, so that each class has its share
    return np.sort(by_class[np.arange(count) * len(labels) // count])


class _Pixels:
    """Pixels as they come, in one array, and a count of what was done to them."""

    def __init__(self, count: int, resizing: Resizing | None, channels: int | None) -> None:
        self.count, self.resizing, self.channels = count, resizing, channels
        self.array: npt.NDArray[np.uint8] = np.empty((count, 0, 0, 0), np.uint8)
        self.filled = 0
        self.done: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.first = ""

    def add(self, pixels: Pixels, called: str) -> None:
        """Keeps an image."""
        values = pixels.values
        if self.filled == 0:
            self.array, self.first = np.empty((self.count, *values.shape), np.uint8), called
        if values.shape[1:] != self.array.shape[2:]:
            own, other = ("x".join(map(str, s)) for s in (self.array.shape[2:], values.shape[1:]))
            raise ConfigurationError(
                f"Images of different sizes: {self.first} is {own} and {called} is {other} "
                "(height x width), and the model says no size to bring them to: give one "
                "(--size)."
            )
        if len(values) > self.array.shape[1]:
            self.array = np.repeat(self.array, len(values), axis=1)
        self.array[self.filled] = values
        self.filled += 1
        self.done.update(pixels.done)
        self.sizes[pixels.size] += 1

    def all(self) -> npt.NDArray[np.uint8]:
        """The pixels kept, uint8 (N, C, H, W)."""
        return self.array[: self.filled]

    def notes(self) -> list[str]:
        """What was done to how many, and what sizes there were."""
        told = []
        if len(self.sizes) > 1:
            by_area = sorted(self.sizes, key=lambda size: size[0] * size[1])
            small, large = ("x".join(map(str, size)) for size in (by_area[0], by_area[-1]))
            told.append(f"They have {len(self.sizes)} sizes, from {small} to {large}.")
        told += [
            text.format(n=self.done[what], how=self.resizing)
            for what, text in _DONE.items()
            if self.done[what]
        ]
        return told
