"""Where labelled images come from, with every image still as it was found."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from notsure.adapters.decoding import Pixels, decoded, resized_pixels
from notsure.adapters.resizing import Resizing
from notsure.core.checks import RANGE_TOLERANCE
from notsure.core.errors import DataError
from notsure.data.huggingface import Encoded, opened_folder, opened_hub
from notsure.data.idx import read_idx_folder
from notsure.data.images import Images
from notsure.data.sources import images_of_arrays, read, read_arrays

ROOT = "NOTSURE_DATA"
"""The environment variable that names the folder of data sets."""

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_TESTS = ("test", "validation", "valid", "val")
_HUB = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
_AHEAD = 64


class Source(Protocol):
    """Labelled images, each decoded when it is asked for."""

    @property
    def spec(self) -> str:
        """The source as the user gave it."""
        ...

    @property
    def labels(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """By part, class numbers (N,): the set to train on (or the only one), the test set."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K names."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the source, in sentences."""
        ...

    def pixels(
        self, part: str, row: int, resizing: Resizing | None, channels: int | None
    ) -> Pixels:
        """One image; DataError where it cannot be read."""
        ...

    def called(self, part: str, row: int) -> str:
        """What an image is called in messages."""
        ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images that are pixels already."""

    spec: str
    parts: Mapping[str, Images]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Class numbers by part."""
        return {name: images.labels.numpy() for name, images in self.parts.items()}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return next(iter(self.parts.values())).class_names

    def pixels(
        self, part: str, row: int, resizing: Resizing | None, channels: int | None
    ) -> Pixels:
        """One image, resized where it has to be."""
        values = self.parts[part].pixels[row].numpy()
        return resized_pixels(values, resizing=resizing, channels=channels)

    def called(self, part: str, row: int) -> str:
        """Its position."""
        return f"image {row} of {self.spec} ({part})"


@dataclass(frozen=True, eq=False)
class Files:
    """Image files in class folders."""

    spec: str
    files: Mapping[str, Sequence[Path]]
    labels: Mapping[str, npt.NDArray[np.int64]]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def pixels(
        self, part: str, row: int, resizing: Resizing | None, channels: int | None
    ) -> Pixels:
        """One image, decoded."""
        return decoded(self.files[part][row], resizing=resizing, channels=channels)

    def called(self, part: str, row: int) -> str:
        """Its file."""
        return str(self.files[part][row])


@dataclass(frozen=True, eq=False)
class Rows:
    """Images in the tables of the `datasets` library."""

    spec: str
    encoded: Encoded
    notes: tuple[str, ...] = ()
    _cache: dict[tuple[str, int], object] = field(default_factory=dict)

    @property
    def labels(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Class numbers by part."""
        return self.encoded.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.encoded.class_names

    def pixels(
        self, part: str, row: int, resizing: Resizing | None, channels: int | None
    ) -> Pixels:
        """One image, decoded."""
        if (part, row) not in self._cache:
            # rows are mostly asked for in ascending order: read some ahead
            self._cache.clear()
            ahead = range(row, min(row + _AHEAD, len(self.labels[part])))
            for one, value in zip(ahead, self.encoded.values(part, ahead), strict=True):
                self._cache[part, one] = value
        return decoded(self._cache[part, row], resizing=resizing, channels=channels)

    def called(self, part: str, row: int) -> str:
        """Its row."""
        return f"row {row} of {self.spec} ({part})"


@contextmanager
def opened(spec: str | Path) -> Iterator[Source]:
    """What a spec names, see `notsure.adapters.load_images`.

    Raises:
        DataError: it cannot be found or read.
        ConfigurationError: a package is missing.
    """
    text = str(spec)
    path = _located(text)
    if path is None:
        identity = _HUB.get(text.lower().replace("-", "_"))
        if identity is not None:
            with opened_hub(identity) as encoded:
                yield Rows(text, encoded, (f"{text} is {identity} of the hub.",))
            return
        if text == "digits" or "/" not in text or Path(text).suffix == ".npz":
            # digits, or an error that says what there is
            yield Arrays(text, read(text))
            return
        with opened_hub(text) as encoded:
            yield Rows(text, encoded)
        return
    if path.is_file() and path.suffix == ".parquet":
        with opened_folder(path) as encoded:
            yield Rows(text, encoded)
        return
    if path.is_file():
        yield _npz(text, path)
        return
    found = _class_folders(text, path)
    if found is not None:
        yield found
    elif read_idx_folder(path):
        yield Arrays(text, read(path))
    else:
        with opened_folder(path) as encoded:
            yield Rows(text, encoded)


def _located(text: str) -> Path | None:
    """The file or folder of a spec: itself, or under the folder of data sets; None for neither."""
    if not text or text == "digits":
        return None
    path = Path(text).expanduser()
    if path.exists():
        return path
    root = os.environ.get(ROOT)
    under = None if not root else Path(root).expanduser() / text
    return under if under is not None and under.exists() else None


def _npz(text: str, path: Path) -> Arrays:
    """Images of an .npz; floats are rounded to 8 bits, and that is told."""
    arrays = read_arrays(path)
    largest = 0.0
    for name, values in arrays.items():
        if not (name.startswith("x") and values.dtype.kind == "f" and values.size):
            continue
        low, high = float(values.min()), float(values.max())
        # written so that NaN fails too
        if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
            raise DataError(
                f"{str(path)!r}, array {name!r}: floats have to lie in [0,1]; these span "
                f"[{low:.4g}, {high:.4g}]. Undo their normalisation (mean and std belong to the "
                "model), or divide them by 255, or give them as uint8."
            )
        levels = np.rint(values.astype(np.float64) * 255)
        largest = max(largest, float(np.abs(values - levels / 255).max()))
        arrays[name] = levels.clip(0, 255).astype(np.uint8)
    note = f"Its floats were rounded to 8 bits (by {largest:.2g} at most)."
    notes = (note,) if largest > RANGE_TOLERANCE else ()
    return Arrays(text, images_of_arrays(arrays, path), notes)


def _class_folders(text: str, folder: Path) -> Files | None:
    """The images of class folders, if these are any."""
    roots = {"all": folder}
    if (folder / "train").is_dir() and not _images_in(folder / "train"):
        tests = [name for name in _TESTS if (folder / name).is_dir()]
        roots = {name: folder / name for name in ("train", *tests[:1])}
    elif any((folder / name).is_dir() and _classes_in(folder / name) for name in _TESTS):
        name = next(name for name in _TESTS if (folder / name).is_dir())
        roots = {name: folder / name}
    names = sorted({name for root in roots.values() for name in _classes_in(root)})
    if not names:
        return None
    if len(names) < 2:
        raise DataError(
            f"{text!r} holds images of the one class {names[0]!r}: give a folder with a subfolder "
            "for each of at least two classes."
        )
    files: dict[str, list[Path]] = {}
    labels: dict[str, npt.NDArray[np.int64]] = {}
    others = 0
    for part, root in roots.items():
        own: list[Path] = []
        numbers: list[int] = []
        for number, name in enumerate(names):
            there = sorted(
                path
                for path in (root / name).glob("*")
                # hidden files are no images: some systems put "._cat.jpg" beside "cat.jpg"
                if path.is_file() and not path.name.startswith(".")
            )
            images = [path for path in there if path.suffix.lower() in _ENDINGS]
            others += len(there) - len(images)
            own += images
            numbers += [number] * len(images)
        if own:
            files[part], labels[part] = own, np.array(numbers, np.int64)
    notes = (f"{others} files are no images by their endings, and were passed over.",)
    return Files(text, files, labels, tuple(names), notes if others > 0 else ())


def _classes_in(root: Path) -> list[str]:
    return [one.name for one in root.iterdir() if one.is_dir() and _images_in(one)]


def _images_in(folder: Path) -> bool:
    return any(
        path.suffix.lower() in _ENDINGS and not path.name.startswith(".")
        for path in folder.glob("*")
    )
