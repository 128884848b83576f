"""Where images come from: scikit-learn's digits, arrays in a file, a folder, or a hub id."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from notsure.core.errors import DataError, InputError
from notsure.data import huggingface
from notsure.data.idx import read_idx_folder
from notsure.data.images import Images, from_arrays

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_HUB_NAMES = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
_DIGITS_LEVELS = 16


def read(source: str | Path) -> dict[str, Images]:
    """Reads what a source holds, undivided.

    Args:
        source: see `notsure.data.load`.

    Returns:
        The source's own names of one or two of its parts: the set to train on (or the only one)
        and, second, the published test set. All have the same class names.

    Raises:
        DataError: it cannot be found, or not be read as labelled images of one size.
    """
    if source == "digits":
        return _read_digits()
    path = Path(source).expanduser()
    # Path("") is the working folder, which nobody means by an empty string
    if source != "" and path.is_dir():
        parts = _from_named_arrays(read_idx_folder(path), path)
        return parts or huggingface.read_folder(path)
    if path.is_file():
        return _read_npz(path)
    if isinstance(source, str) and _HUB_ID.fullmatch(source):
        return huggingface.read_hub(source)
    known = _HUB_NAMES.get(str(source).lower().replace("-", "_"))
    raise DataError(
        f"There is no file or folder {str(source)!r} (working folder: {str(Path.cwd())!r}), and no "
        "data set is built in under that name. Give 'digits', an .npz file with x and y, a folder "
        "of IDX files, of images in class subfolders or of Parquet files, or a hub id such as "
        f"{known or 'ylecun/mnist'!r}."
    )


def _read_digits() -> dict[str, Images]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / _DIGITS_LEVELS)).astype(np.uint8)
    names = [str(name) for name in digits.target_names]
    return {"all": from_arrays(pixels, digits.target, class_names=names)}


def _read_npz(path: Path) -> dict[str, Images]:
    return images_of_arrays(read_arrays(path), path)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by their names; none of them is unpickled.

    Raises:
        DataError: it is no such file, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as an .npz file of plain arrays ({error}): write it "
            "with numpy.savez_compressed(path, x=images, y=labels), or give the folder around it."
        ) from error


def images_of_arrays(arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> dict[str, Images]:
    """The images in the arrays of an .npz file, by part.

    Args:
        arrays: x and y, or x_train, y_train, x_test and y_test.
        path: of the file, for messages.

    Raises:
        DataError: they have other names, or are no labelled images.
    """
    parts = {
        part: (arrays[f"x{mark}"], arrays[f"y{mark}"])
        for part, mark in (("all", ""), ("train", "_train"), ("test", "_test"))
        if {f"x{mark}", f"y{mark}"} <= arrays.keys()
    }
    if list(parts) not in (["all"], ["train"], ["train", "test"]):
        raise DataError(
            f"{str(path)!r} holds the arrays {', '.join(arrays) or '(none)'}; it has to hold x and "
            "y, or x_train, y_train, x_test and y_test. Rename them: "
            "numpy.savez_compressed(path, x=images, y=labels)."
        )
    return _from_named_arrays(parts, path)


def _from_named_arrays(
    parts: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]], path: Path
) -> dict[str, Images]:
    """One set of images per part, all with the class names "0", "1", ... of the highest label."""
    images = {name: _from_file(x, y, path, name) for name, (x, y) in parts.items()}
    classes = max((part.num_classes for part in images.values()), default=0)
    names = tuple(str(number) for number in range(classes))
    return {name: Images(part.pixels, part.labels, names) for name, part in images.items()}


def _from_file(x: npt.NDArray[Any], y: npt.NDArray[Any], path: Path, part: str) -> Images:
    try:
        return from_arrays(x, y)
    except InputError as error:
        raise DataError(f"{str(path)!r}, part {part!r}: {error}") from error
