"""Data sets as they are decoded and cut, kept on disk: decoding MNIST again takes 12 seconds."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from torch import Tensor

from notsure import data
from notsure.core.errors import CheckpointError, InputError
from notsure.core.storage import load_tensors, save_tensors
from notsure.data import Images
from notsure.studies.results import sha256

FOLDER = ".decoded"
"""What the folder beside the results of steps is called."""

_NAMES = ("train", "calibration", "test")


def parts_of(source: str, seed: int, folder: str | Path | None) -> Mapping[str, Images]:
    """The train, calibration and test part of a source, as `notsure.data.load` cuts them.

    What is kept is known by the content of the source's files, the seed and the code that reads and
    cuts; where one of them has changed, or the file is damaged, the images are decoded anew.

    Args:
        source: a file or folder, or "digits", which is not kept: it takes no time.
        seed: of the cut.
        folder: where decoded images are kept, made if need be; None for nowhere.
    """
    content = None if folder is None else _content(Path(source))
    if folder is None or content is None:
        return _decoded(source, seed)
    where = hashlib.sha256(str(Path(source).resolve()).encode()).hexdigest()[:8]
    path = Path(folder) / f"{Path(source).stem}-{seed}-{where}.safetensors"
    key = f"{content} {seed} {_code()}"
    kept = _kept(path, key)
    if kept is not None:
        return kept
    parts = _decoded(source, seed)
    _keep(path, key, parts)
    return parts


def _decoded(source: str, seed: int) -> dict[str, Images]:
    split = data.load(source, seed=seed)
    return {name: getattr(split, name) for name in _NAMES}


def _kept(path: Path, key: str) -> dict[str, Images] | None:
    """What a file holds; None where it is not there, damaged, or of another source."""
    try:
        tensors, note = load_tensors(path)
        if note["key"] != key:
            return None
        names = tuple(note["class_names"])
        parts = {
            name: Images(tensors[f"{name}.pixels"], tensors[f"{name}.labels"], names)
            for name in _NAMES
        }
        intact = all(images.digest() == note["digests"][name] for name, images in parts.items())
    except (CheckpointError, InputError, KeyError, TypeError):
        return None
    return parts if intact else None


def _keep(path: Path, key: str, parts: Mapping[str, Images]) -> None:
    from safetensors import SafetensorError

    tensors: dict[str, Tensor] = {}
    for name, images in parts.items():
        tensors |= {f"{name}.pixels": images.pixels, f"{name}.labels": images.labels}
    note = {
        "key": key,
        "class_names": list(parts["train"].class_names),
        "digests": {name: images.digest() for name, images in parts.items()},
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, note=note)
    except (OSError, SafetensorError) as error:
        # a run needs the images, not their copy
        warnings.warn(
            f"Decoded images cannot be kept in {str(path.parent)!r} ({error}): they are decoded "
            "again each time.",
            stacklevel=2,
        )


def _content(source: Path) -> str | None:
    """SHA-256 over the names and contents of a source's files, hidden ones left out.

    None where there are none, or one cannot be read.
    """
    digest = hashlib.sha256()
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    for file in files:
        name = file.relative_to(source).as_posix() if file != source else ""
        if any(step.startswith(".") for step in name.split("/") if file != source):
            continue
        try:
            digest.update(f"{name}\0{sha256(file)}\n".encode())
        except CheckpointError:
            return None
    return digest.hexdigest() if files else None


@cache
def _code() -> str:
    """SHA-256 over the code that decides which images come out of a source, and in which part."""
    package = resources.files("notsure")
    files = [*package.joinpath("data").iterdir(), package.joinpath("core").joinpath("checks.py")]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda one: one.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()
