"""A finished step's files, and the note beside them that tells what they have to be."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import notsure
from notsure.core.errors import CheckpointError
from notsure.core.storage import load_json

DONE = "done.json"
"""What stands in a result's folder beside its files; the last that is written."""

SEAL = "seal"
"""The entry of done.json that holds the hash of all others."""

_CHUNK = 1 << 20


def versions() -> dict[str, str]:
    """What a result may depend on besides its step: notsure, torch, Python."""
    return {
        "notsure": notsure.__version__,
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Result:
    """A finished step's files.

    Attributes:
        folder: where they are.
        done: what is known of them: identity, kind, version, name, settings, needs, versions,
            seconds, estimate, files (size and sha256 of each).
    """

    folder: Path
    done: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """How long the step took, over all its interruptions but those by `kill -9`."""
        return float(self.done["seconds"])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(file["size"]) for file in self.done["files"].values())

    def differences(self) -> dict[str, tuple[str, str]]:
        """Versions that it was made with and those of here, where they differ."""
        made, here = self.done["versions"], versions()
        return {
            name: (made.get(name, "none"), here[name])
            for name in here
            if made.get(name) != here[name]
        }


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal digits.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def seal(done: Mapping[str, Any]) -> str:
    """The hash of all that done.json says besides the seal itself."""
    return hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()


def sealed(path: Path) -> dict[str, Any]:
    """What a done.json says.

    Raises:
        CheckpointError: it is missing or not as it was written.
    """
    done = load_json(path)
    if done.pop(SEAL, None) != seal(done):
        raise CheckpointError(f"{path.name} in {str(path.parent)!r} is not as it was written.")
    return done


def if_sealed(path: Path) -> dict[str, Any] | None:
    """What a done.json says; None where it is missing or damaged."""
    try:
        return sealed(path)
    except CheckpointError:
        return None
