"""Data sets read through the `datasets` library: image folders, Parquet folders, hub ids."""

from __future__ import annotations

import glob
import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from notsure.core.errors import DataError
from notsure.data.images import Images

if TYPE_CHECKING:
    from datasets import (  # type: ignore[import-untyped, unused-ignore]
        Dataset,
        DatasetDict,
        Image,
    )

_IMAGE_COLUMNS = ("image", "img", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_TEST_SPLITS = ("test", "validation", "valid", "val")
_IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_GREY_MODES = ("L", "LA", "1")
_DEEP_MODES = ("I", "F")
_BATCH = 256
_LAYOUTS = (
    "A folder may hold images in one subfolder per class (optionally under train/ and test/), "
    "Parquet files with an image and a label column, or IDX files under their published names."
)


@dataclass(frozen=True, eq=False)
class Encoded:
    """A data set whose images are not decoded yet.

    Attributes:
        source: what it was read from, for messages.
        labels: by the source's own name of each part that counts, the class numbers, int64 (N,):
            the set to train on (or the only one) and, second, the published test set.
        class_names: the K names, the same for all parts.
    """

    source: str
    labels: Mapping[str, npt.NDArray[np.int64]]
    class_names: tuple[str, ...]
    _splits: Mapping[str, Dataset]
    _column: str

    def values(self, part: str, rows: Sequence[int] | None = None) -> Iterator[object]:
        """The encoded images of some rows of a part, in that order; None for all of them."""
        split = self._splits[part].select_columns([self._column])
        if rows is not None:
            split = split.select(rows)
        # the arrow format hands out the files' bytes as they are, so that they are decoded once
        for table in split.with_format("arrow").iter(batch_size=_BATCH):
            yield from table.column(self._column).to_pylist()


def read_folder(folder: Path) -> dict[str, Images]:
    """Reads a local folder; the library's cache goes to a temporary folder and is removed.

    Returns:
        As `notsure.data.sources.read`.

    Raises:
        DataError: it is no data set of labelled images, or `datasets` is not installed.
    """
    with opened_folder(folder) as encoded:
        return _decoded(encoded)


def read_hub(identity: str) -> dict[str, Images]:
    """Reads a data set of the Hugging Face hub, or the copy of it in the library's own cache.

    Args:
        identity: "owner/name".

    Returns:
        As `notsure.data.sources.read`.

    Raises:
        DataError: the hub cannot be reached or has no such data set, it is not one of labelled
            images, or `datasets` is not installed.
    """
    with opened_hub(identity) as encoded:
        return _decoded(encoded)


@contextmanager
def opened_folder(folder: Path) -> Iterator[Encoded]:
    """A local folder, or a Parquet file, opened; its images can be decoded inside.

    Raises:
        DataError: as `read_folder` raises it.
    """
    datasets = _library()
    with (
        tempfile.TemporaryDirectory(prefix="notsure-", ignore_cleanup_errors=True) as cache,
        _without_progress_bars(datasets),
    ):
        try:
            loaded = _load_local(datasets, folder, cache)
        except Exception as error:
            raise DataError(
                f"The folder {str(folder)!r} cannot be read as a data set "
                f"({type(error).__name__}: {error}). {_LAYOUTS}"
            ) from error
        # the library reads the images from its cache, so they are decoded while it is there
        yield _encoded(datasets, loaded, str(folder))


@contextmanager
def opened_hub(identity: str) -> Iterator[Encoded]:
    """A data set of the Hugging Face hub opened; its images can be decoded inside.

    Raises:
        DataError: as `read_hub` raises it.
    """
    datasets = _library()
    with _without_progress_bars(datasets):
        try:
            loaded = datasets.load_dataset(identity)
        except ConnectionError as error:
            raise DataError(
                f"There is no local file or folder {identity!r}, and the Hugging Face hub could "
                f"not be reached for a data set of that name ({error}). Connect to it, or give a "
                f"local folder instead. {_LAYOUTS}"
            ) from error
        except Exception as error:
            raise DataError(
                f"The hub's data set {identity!r} cannot be read ({type(error).__name__}: {error})."
                " Check the spelling and your access to it, or download it and give the local "
                f"folder. {_LAYOUTS}"
            ) from error
        yield _encoded(datasets, loaded, identity)


def _library() -> ModuleType:
    try:
        # the library decodes images with PIL, but does not require it
        importlib.import_module("PIL.Image")
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            "Image folders, Parquet folders and hub ids are read through the packages datasets and "
            f'pillow, which are not there ({error}): pip install "notsure[data]"'
        ) from error


@contextmanager
def _without_progress_bars(datasets: ModuleType) -> Iterator[None]:
    disabled_before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled_before:
            datasets.enable_progress_bars()


def _load_local(datasets: ModuleType, folder: Path, cache: str) -> DatasetDict | Dataset:
    if folder.is_file():
        return datasets.load_dataset("parquet", data_files=str(folder), cache_dir=cache)
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(str(folder))
    files = _image_folder_files(folder)
    if files:
        return datasets.load_dataset("imagefolder", data_files=files, cache_dir=cache)
    return datasets.load_dataset(str(folder), cache_dir=cache)


def _image_folder_files(folder: Path) -> dict[str, str]:
    """Where each split's images are, if these are images in class subfolders; otherwise nothing.

    Left to itself the library also takes a file named like cat/test_1.png for a test split.
    """
    roots = {"train": folder}
    if (folder / "train").is_dir():
        splits = ("train", *_TEST_SPLITS)
        roots = {name: folder / name for name in splits if (folder / name).is_dir()}
    in_classes = roots["train"].glob("*/*")
    if not any(file.suffix.lower() in _IMAGE_ENDINGS for file in in_classes):
        return {}
    return {name: f"{glob.escape(root.as_posix())}/*/*" for name, root in roots.items()}


def _encoded(datasets: ModuleType, loaded: DatasetDict | Dataset, source: str) -> Encoded:
    splits = dict(loaded) if isinstance(loaded, Mapping) else {"all": loaded}
    names = _choose_splits({name: len(split) for name, split in splits.items()}, source)
    image_column, label_column = _columns(datasets, splits[names[0]].features, source)
    chosen = {name: splits[name] for name in names}
    labels, class_names = _read_labels(
        chosen, label_column, f"column {label_column!r} of {source!r}"
    )
    return Encoded(source, labels, class_names, chosen, image_column)


def _decoded(encoded: Encoded) -> dict[str, Images]:
    pixels = {
        name: _read_pixels(encoded, name, f"split {name!r} of {encoded.source!r}")
        for name in encoded.labels
    }
    channels = max(part.shape[1] for part in pixels.values())
    return {
        name: Images(
            torch.from_numpy(part).expand(-1, channels, -1, -1).contiguous(),
            torch.from_numpy(encoded.labels[name]),
            encoded.class_names,
        )
        for name, part in pixels.items()
    }


def _choose_splits(sizes: Mapping[str, int], source: str) -> list[str]:
    """The split to train on, and the published test set if there is one besides."""
    names = [name for name, size in sizes.items() if size > 0]
    if len(names) == 1:
        return names
    if "train" not in names:
        raise DataError(
            f"{source!r} has the splits {', '.join(names) or '(none)'} and none of them is called "
            "train: save the one to use in a folder of its own and give that."
        )
    tests = [name for name in _TEST_SPLITS if name in names]
    return ["train", *tests[:1]]


def _columns(datasets: ModuleType, features: Mapping[str, Any], source: str) -> tuple[str, str]:
    """The names of the image and label columns: by type, then by their usual names."""
    chosen: list[str] = []
    for kind, usual, typed in (
        ("image", _IMAGE_COLUMNS, datasets.Image),
        ("label", _LABEL_COLUMNS, datasets.ClassLabel),
    ):
        candidates = [name for name, feature in features.items() if isinstance(feature, typed)]
        if len(candidates) != 1:
            candidates = [name for name in usual if name in (candidates or features)]
        if not candidates:
            remedy = (
                "Images have to lie in subfolders, one for each of at least two classes"
                if kind == "label" and chosen[0] == "image"
                else f"Rename its {kind} column to {usual[0]!r}"
            )
            raise DataError(
                f"{source!r} has the columns {', '.join(features)}, and none of them can be told "
                f"to be the {kind}s. {remedy}. {_LAYOUTS}"
            )
        chosen.append(candidates[0])
    return chosen[0], chosen[1]


def _read_labels(
    splits: Mapping[str, Dataset], column: str, where: str
) -> tuple[dict[str, npt.NDArray[np.int64]], tuple[str, ...]]:
    """The class numbers of each split, int64 (N,), and the class names of all of them."""
    labels = {}
    for name, split in splits.items():
        table = split.select_columns([column]).with_format("arrow")[:]
        labels[name] = np.asarray(table.column(column).to_pylist())
    everything = np.concatenate(list(labels.values()))
    if everything.dtype.kind == "U":
        texts, numbers = np.unique(everything, return_inverse=True)
        ends = np.cumsum([len(part) for part in labels.values()])[:-1]
        return dict(zip(labels, np.split(numbers.astype(np.int64), ends), strict=True)), tuple(
            str(text) for text in texts
        )
    if everything.dtype.kind not in "iu":
        raise DataError(
            f"The labels in {where} are neither integers nor texts ({everything.dtype}): every "
            "image needs one class number from 0 on, or one class name."
        )
    if everything.min() < 0:
        unlabelled = [name for name, part in labels.items() if part.min() < 0]
        raise DataError(
            f"There are negative labels in {where}, split {' and '.join(unlabelled)}; -1 commonly "
            "stands for 'unlabelled'. Save a copy without those images, or without that split."
        )
    feature = next(iter(splits.values())).features[column]
    names = getattr(feature, "names", None) or range(int(everything.max()) + 1)
    if everything.max() >= len(names):
        raise DataError(
            f"The labels in {where} run up to {everything.max()}, but only {len(names)} classes "
            "have a name: correct the labels or the list of names."
        )
    return {name: part.astype(np.int64) for name, part in labels.items()}, tuple(
        str(name) for name in names
    )


def _read_pixels(encoded: Encoded, part: str, where: str) -> npt.NDArray[np.uint8]:
    """Decodes a part's images to (N, C, H, W): one channel if all are grey, three otherwise."""
    decoder = _library().Image()
    count = len(encoded.labels[part])
    pixels: npt.NDArray[np.uint8] = np.empty((count, 0, 0, 0), np.uint8)
    for row, value in enumerate(encoded.values(part)):
        image = _decode(decoder, value, f"image {row} in {where}")
        if row == 0:
            pixels = np.empty((count, *image.shape), np.uint8)
        if image.shape[1:] != pixels.shape[2:]:
            raise DataError(
                f"Images of different sizes in {where}: image 0 is {_size(pixels)} and image "
                f"{row} is {_size(image)} (height x width). Resize them all to one size "
                "first, for example with PIL.ImageOps.fit, and save the copies."
            )
        if len(image) > pixels.shape[1]:
            pixels = np.repeat(pixels, len(image), axis=1)
        pixels[row] = image
    return pixels


def _size(pixels: npt.NDArray[np.uint8]) -> str:
    return f"{pixels.shape[-2]}x{pixels.shape[-1]}"


def _decode(decoder: Image, value: object, where: str) -> npt.NDArray[np.uint8]:
    """One image as (C, H, W): grey modes to one channel, all others to RGB without transparency."""
    if isinstance(value, bytes):
        value = {"bytes": value, "path": None}
    elif isinstance(value, str):
        value = {"bytes": None, "path": value}
    if not (isinstance(value, dict) and "bytes" in value and "path" in value):
        raise DataError(
            f"{where} is no encoded image but a value of type {type(value).__name__}. Save arrays "
            "as numpy.savez_compressed('file.npz', x=images, y=labels) and give that file."
        )
    try:
        image = decoder.decode_example(value)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"{where} ({value['path'] or 'no file name'}) cannot be decoded ({error}): remove or "
            "replace it."
        ) from error
    if image.mode.split(";")[0] in _DEEP_MODES:
        raise DataError(
            f"{where} has more than 8 bits per pixel (mode {image.mode}): save the images as 8-bit "
            "grey or RGB first, scaled as they should be."
        )
    target = "L" if image.mode in _GREY_MODES else "RGB"
    if target == "RGB" and "transparency" in image.info:
        # straight to RGB, PIL warns about some transparent palettes
        image = image.convert("RGBA")
    array: npt.NDArray[np.uint8] = np.array(image.convert(target))
    return array[None] if target == "L" else array.transpose(2, 0, 1)
