"""Folders as bytes, for machines that share no file system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from notsure.core.errors import CheckpointError

Packed = Mapping[str, bytes]
"""A folder: the content of each file by its path inside."""


def packed(folder: Path) -> dict[str, bytes]:
    """The files of a folder; half-written ones are left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (path.name.startswith(".") and path.name.endswith(".part"))
    }


def unpack(files: Packed, folder: Path) -> None:
    """Writes the files into a folder, which is made if need be.

    Raises:
        CheckpointError: a name leads out of the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise CheckpointError(f"A worker sent a file called {name!r}, which is nowhere inside.")
        path = folder / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
