"""IDX files, the format in which MNIST and its kin are published."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from notsure.core.errors import DataError

_GZIP_START = b"\x1f\x8b"
_UNSIGNED_BYTE = 8
_AGAIN = "Download it again, or give another folder."


def idx_file(folder: Path, prefix: str, kind: str, axes: int) -> Path | None:
    """The IDX file of one part, under any of its published names.

    Args:
        folder: where to look.
        prefix: "train" or "t10k".
        kind: "images" or "labels".
        axes: 3 for images, 1 for labels.
    """
    names = [
        f"{prefix}-{kind}{mark}idx{axes}-ubyte{end}" for end in ("", ".gz") for mark in ("-", ".")
    ]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_idx_folder(folder: Path) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """Reads the train files, and the t10k files where they are there.

    Returns:
        "train" and "test", each with images uint8 (N, H, W) and labels uint8 (N,); nothing where
        the folder holds no IDX files under their published names.

    Raises:
        DataError: a file is damaged, its partner is missing or of another length, or there are
            only test files.
    """
    parts = {}
    for name, prefix in (("train", "train"), ("test", "t10k")):
        images_file = idx_file(folder, prefix, "images", 3)
        labels_file = idx_file(folder, prefix, "labels", 1)
        if images_file is None and labels_file is None:
            continue
        if images_file is None or labels_file is None:
            missing, axes = ("images", 3) if images_file is None else ("labels", 1)
            raise DataError(
                f"{str(folder)!r} holds no {prefix} {missing}: put "
                f"{prefix}-{missing}-idx{axes}-ubyte or its .gz beside the others."
            )
        images, labels = read_idx(images_file, axes=3), read_idx(labels_file, axes=1)
        if len(images) != len(labels):
            raise DataError(
                f"{images_file.name} holds {len(images)} images but {labels_file.name} "
                f"{len(labels)} labels: they belong to different data sets. {_AGAIN}"
            )
        parts[name] = (images, labels)
    if parts and "train" not in parts:
        raise DataError(
            f"{str(folder)!r} holds only test files: put train-images-idx3-ubyte and "
            "train-labels-idx1-ubyte (or their .gz) beside them."
        )
    return parts


def read_idx(path: Path, *, axes: int) -> npt.NDArray[np.uint8]:
    """Reads one IDX file of unsigned bytes, plain or gzipped.

    Args:
        path: the file.
        axes: how many axes its array has to have.

    Raises:
        DataError: a damaged archive, a wrong magic number, or another length than announced.
    """
    content = path.read_bytes()
    if content.startswith(_GZIP_START):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{str(path)!r} is a damaged gzip file ({error}). {_AGAIN}") from error
    magic = bytes([0, 0, _UNSIGNED_BYTE, axes])
    if content[:4] != magic:
        raise DataError(
            f"{str(path)!r} is not an IDX file of unsigned bytes with {axes} "
            f"{'axis' if axes == 1 else 'axes'}: its magic number is {content[:4].hex(' ')}, not "
            f"{magic.hex(' ')}. {_AGAIN}"
        )
    start = 4 + 4 * axes
    shape = tuple(
        int.from_bytes(content[position : position + 4], "big") for position in range(4, start, 4)
    )
    if len(content) != start + math.prod(shape):
        raise DataError(
            f"{str(path)!r} announces {' x '.join(map(str, shape))} values but holds "
            f"{max(len(content) - start, 0)}: it is truncated or damaged. {_AGAIN}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
