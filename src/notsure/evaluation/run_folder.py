"""A run's folder: records are written as they come, and an interrupted run goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from notsure.core.errors import CheckpointError
from notsure.core.storage import load_json, save_json, writable_folder
from notsure.evaluation.records import Records

RECORDS, RUN, PARTS = "records.parquet", "run.json", "parts"


def fingerprint(told: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for all that a run's records depend on."""
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class RunFolder:
    """Where the records of one run are.

    Until the run is over each part is a file of its own in `parts`, whole or not there;
    `run.json` says what run they are of. At the end one file takes their place.

    Args:
        folder: the folder, which is made if need be.
        told: all that the records depend on, JSON-ready, by words a person understands.

    Raises:
        ConfigurationError: the folder cannot be written to.
        CheckpointError: it holds another run, or is damaged.
    """

    def __init__(self, folder: str | Path, told: Mapping[str, Any]) -> None:
        self.folder = writable_folder(folder)
        self.identity = fingerprint(told)
        if (self.folder / RUN).exists():
            self._compare(load_json(self.folder / RUN), told)
        elif (self.folder / RECORDS).exists() or (self.folder / PARTS).exists():
            raise CheckpointError(
                f"{str(self.folder)!r} holds records but no {RUN} that says of which run: give "
                "another folder."
            )
        else:
            save_json(self.folder / RUN, {"identity": self.identity, **told})
        self.parts = writable_folder(self.folder / PARTS) if not self.finished else None

    def _compare(self, found: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        apart = _first_difference(found, told)
        if apart is not None:
            raise CheckpointError(
                f"{str(self.folder)!r} holds another run: {apart}. Records of two runs are not "
                "mixed: give another folder, or remove this one."
            )
        if found.get("identity") != self.identity:
            raise CheckpointError(
                f"{str(self.folder / RUN)!r} was changed by hand: its identity is "
                f"{found.get('identity')}, and what it says makes {self.identity}."
            )

    @property
    def finished(self) -> bool:
        """Whether all records are there."""
        return (self.folder / RECORDS).exists()

    def records(self) -> Records:
        """Those of a run that is over."""
        return Records.read(self.folder / RECORDS)

    def _part(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:06d}.parquet"

    def has(self, number: int) -> bool:
        """Whether part number so and so was written."""
        return self._part(number).is_file()

    def write(self, number: int, part: Records) -> None:
        """Writes a part, atomically."""
        part.write(self._part(number))

    def read(self, number: int, meta: Mapping[str, Any]) -> Records:
        """Reads a part.

        Args:
            number: which one.
            meta: what every part of this run says of it.

        Raises:
            CheckpointError: it is damaged, or of another run.
        """
        part = Records.read(self._part(number))
        apart = _first_difference(part.meta, meta)
        if apart is not None:
            raise CheckpointError(
                f"{str(self._part(number))!r} is of another run: {apart}. Records of two runs are "
                "not mixed: remove this file, and its images are attacked again."
            )
        return part

    def finish(self, records: Records) -> None:
        """Writes all records and removes the parts."""
        records.write(self.folder / RECORDS)
        for path in (self.folder / PARTS).glob("*.parquet"):
            path.unlink()
        (self.folder / PARTS).rmdir()


def _first_difference(found: Mapping[str, Any], told: Mapping[str, Any]) -> str | None:
    """What two descriptions of runs differ in, both sides named; None where they are the same."""
    ours = json.loads(json.dumps(dict(told), default=str))
    for key in dict.fromkeys([*found, *ours]):
        if key != "identity" and found.get(key) != ours.get(key):
            theirs, own = _apart(found.get(key), ours.get(key))
            return f"its {key} is {theirs}, that of this run {own}"
    return None


def _apart(theirs: Any, ours: Any) -> tuple[str, str]:
    """The first difference of two descriptions, in few words."""
    while isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for key in dict.fromkeys([*theirs, *ours]):
            if theirs.get(key) != ours.get(key):
                left, right = theirs.get(key), ours.get(key)
                if not (isinstance(left, Mapping) and isinstance(right, Mapping)):
                    return f"{left!r} ({key})", f"{right!r} ({key})"
                theirs, ours = left, right
                break
    return repr(theirs), repr(ours)
