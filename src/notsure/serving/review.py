"""The images that a guard declined to answer, waiting for a person, in SQLite."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.storage import writable_folder
from notsure.purifiers.base import Shape

FORMAT = 1
State = Literal["waiting", "labelled", "set aside"]
"""Of an item: nobody has looked, somebody knows what it is, or nobody can tell."""

_CHUNK = 256
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS item (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    received REAL NOT NULL,
    last REAL NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    bits INTEGER NOT NULL,
    pixels BLOB NOT NULL,
    prediction INTEGER,
    scores TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    label INTEGER,
    decided REAL,
    note TEXT
);
CREATE INDEX IF NOT EXISTS item_by_state ON item (state, id);
"""
_COLUMNS = "id, received, last, times, prediction, scores, state, label, decided, note"


@dataclass(frozen=True, eq=False)
class Rejected:
    """An image to be kept.

    Attributes:
        x: float32 (C, H, W) in [0,1].
        prediction: the label before the rejection; None where that is not known.
        scores: by detector.
    """

    x: torch.Tensor
    prediction: int | None
    scores: dict[str, float]


class ReviewQueue:
    """A file in which rejected images wait until a person has labelled them.

    What `add` has returned is on the disk: it survives the end of the process at any moment, and of
    the machine as far as its disk keeps its word. The same image is kept once and counted.

    Args:
        path: of the SQLite file; it is made if need be.
        shape: channels, height and width of the images.
        num_classes: K; labels are in 0..K-1.
        most: how many may be waiting.

    Raises:
        CheckpointError: the file is damaged, of another format, or about other images.
        ConfigurationError: it cannot be written to.
    """

    def __init__(
        self, path: str | Path, *, shape: Shape, num_classes: int, most: int = 100_000
    ) -> None:
        self.path, self.shape, self.num_classes, self.most = Path(path), shape, num_classes, most
        writable_folder(self.path.parent)
        # one thread writes while others read, and readers do not keep the writer waiting
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._waiting = 0
        try:
            self._writer, self._reader = self._connection(), self._connection()
            self._begin()
            self._waiting = int(self._one("SELECT COUNT(*) FROM item WHERE state = 'waiting'"))
        except sqlite3.OperationalError as error:
            raise ConfigurationError(
                f"The review queue {str(path)!r} cannot be opened ({error}): give another --review."
            ) from error
        except sqlite3.DatabaseError as error:
            raise CheckpointError(
                f"{str(path)!r} is damaged or no review queue ({error}): move it aside."
            ) from error

    def _connection(self) -> sqlite3.Connection:
        found = sqlite3.connect(
            self.path, check_same_thread=False, isolation_level=None, timeout=30
        )
        found.execute("PRAGMA journal_mode = WAL")
        # every commit is on the disk before it returns
        found.execute("PRAGMA synchronous = FULL")
        return found

    def _begin(self) -> None:
        about = {
            "format": str(FORMAT),
            "shape": json.dumps(list(self.shape)),
            "num_classes": str(self.num_classes),
        }
        self._writer.executescript(_SCHEMA)
        with self._transaction():
            self._writer.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about.items())
        known = dict(self._writer.execute("SELECT name, value FROM about"))
        for name, value in about.items():
            if known.get(name) != value:
                raise CheckpointError(
                    f"The review queue {str(self.path)!r} has {name} {known.get(name)}, and this "
                    f"guard's is {value}: give each guard a queue of its own, --review."
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            waiting = self._waiting
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                self._waiting = waiting
                # SQLite undoes some failures by itself, such as a full disk
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _one(self, query: str, *values: Any) -> Any:
        with self._reading:
            found = self._reader.execute(query, values).fetchone()
        return None if found is None else found[0]

    @property
    def waiting(self) -> int:
        """How many images wait for a person."""
        return self._waiting

    def add(self, rejected: Sequence[Rejected]) -> list[int | None]:
        """Keeps images, all or none of them, and returns when they are on the disk.

        Args:
            rejected: the images.

        Returns:
            The number of each, by which it is found again; None for one that there was no room for.
        """
        now, new = time.time(), 0
        numbers: list[int | None] = []
        with self._transaction():
            for one in rejected:
                bits, pixels = _packed(one.x)
                digest = hashlib.blake2b(bytes([bits]) + pixels, digest_size=16).digest()
                again = self._writer.execute(
                    "UPDATE item SET times = times + 1, last = ? WHERE digest = ? RETURNING id",
                    (now, digest),
                ).fetchone()
                if again is not None:
                    numbers.append(int(again[0]))
                elif self._waiting + new >= self.most:
                    numbers.append(None)
                else:
                    added = self._writer.execute(
                        "INSERT INTO item (digest, received, last, bits, pixels, prediction, "
                        "scores) VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (digest, now, now, bits, pixels, one.prediction, json.dumps(one.scores)),
                    )
                    new += 1
                    numbers.append(added.lastrowid)
            self._waiting += new
        return numbers

    def items(
        self, state: State | None = "waiting", *, after: int = 0, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Items in the order of their numbers, without their pixels.

        Args:
            state: of these alone; None for all.
            after: with a larger number than this.
            limit: at most so many.
        """
        condition = "" if state is None else "AND state = ?"
        given = (after, *(() if state is None else (state,)), limit)
        with self._reading:
            rows = self._reader.execute(
                f"SELECT {_COLUMNS} FROM item WHERE id > ? {condition} ORDER BY id LIMIT ?",  # noqa: S608
                given,
            ).fetchall()
        return [_item(row) for row in rows]

    def item(self, number: int) -> dict[str, Any] | None:
        """One item without its pixels; None where there is no such number."""
        with self._reading:
            row = self._reader.execute(
                f"SELECT {_COLUMNS} FROM item WHERE id = ?",  # noqa: S608
                (number,),
            ).fetchone()
        return None if row is None else _item(row)

    def image(self, number: int) -> torch.Tensor | None:
        """An item's image as it was judged, float32 (C, H, W) in [0,1]; None for no item."""
        with self._reading:
            row = self._reader.execute(
                "SELECT bits, pixels FROM item WHERE id = ?", (number,)
            ).fetchone()
        if row is None:
            return None
        return torch.from_numpy(_unpacked(row[0], row[1], self.shape).copy())

    def decide(self, number: int, label: int | None, note: str | None = None) -> bool:
        """Notes what a person says of an item.

        Args:
            number: of the item.
            label: its class, 0..K-1; None sets it aside as one that nobody can tell.
            note: anything else.

        Returns:
            Whether there is such an item.

        Raises:
            ConfigurationError: there is no such class.
        """
        if label is not None and not 0 <= label < self.num_classes:
            raise ConfigurationError(
                f"label is a class number, 0..{self.num_classes - 1}, or null where nobody can "
                f"tell; got {label}."
            )
        state: State = "set aside" if label is None else "labelled"
        with self._transaction():
            before = self._writer.execute(
                "SELECT state FROM item WHERE id = ?", (number,)
            ).fetchone()
            if before is None:
                return False
            self._writer.execute(
                "UPDATE item SET state = ?, label = ?, decided = ?, note = ? WHERE id = ?",
                (state, label, time.time(), note, number),
            )
            self._waiting -= before[0] == "waiting"
        return True

    def counts(self) -> dict[str, int]:
        """How many items are in each state."""
        with self._reading:
            rows = self._reader.execute("SELECT state, COUNT(*) FROM item GROUP BY state")
            found = dict(rows.fetchall())
        return {state: int(found.get(state, 0)) for state in get_args(State)}

    def write_data_set(self, file: IO[bytes]) -> int:
        """Writes what was labelled as an .npz file that `notsure.data.load` reads.

        It holds `x`, uint8 (N, C, H, W), `y`, int64 (N,), and `id`, the items' numbers. Images that
        came as floats are rounded to 8 bits. Memory is O(1).

        Returns:
            N.
        """
        last = int(self._one("SELECT COALESCE(MAX(id), 0) FROM item"))
        numbers, labels = self._labelled_until(last)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            with archive.open("x.npy", "w", force_zip64=True) as stream:
                _write_header(stream, (len(numbers), *self.shape))
                for pixels in self._pixels_of(numbers):
                    stream.write(pixels.tobytes())
            for name, values in (("y", labels), ("id", numbers)):
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, np.asarray(values, np.int64))
        return len(numbers)

    def _labelled_until(self, last: int) -> tuple[list[int], list[int]]:
        with self._reading:
            rows = self._reader.execute(
                "SELECT id, label FROM item WHERE state = 'labelled' AND id <= ? ORDER BY id",
                (last,),
            ).fetchall()
        return [row[0] for row in rows], [row[1] for row in rows]

    def _pixels_of(self, numbers: Sequence[int]) -> Iterator[npt.NDArray[np.uint8]]:
        for start in range(0, len(numbers), _CHUNK):
            some = numbers[start : start + _CHUNK]
            marks = ", ".join("?" * len(some))
            with self._reading:
                rows = self._reader.execute(
                    f"SELECT bits, pixels FROM item WHERE id IN ({marks}) ORDER BY id",  # noqa: S608
                    some,
                ).fetchall()
            for bits, pixels in rows:
                image = _unpacked(bits, pixels, self.shape)
                yield np.rint(image * 255).astype(np.uint8)

    def close(self) -> None:
        """Closes the file; what is in it stays."""
        with self._writing:
            self._writer.close()
        with self._reading:
            self._reader.close()


def _packed(x: torch.Tensor) -> tuple[int, bytes]:
    """How many bits a pixel value takes, and the values: 8 where that loses nothing."""
    levels = (x * 255).round().to(torch.uint8)
    if torch.equal(levels.to(torch.float32) / 255, x):
        return 8, levels.contiguous().numpy().tobytes()
    return 32, x.to(torch.float32).contiguous().numpy().astype("<f4").tobytes()


def _unpacked(bits: int, pixels: bytes, shape: Shape) -> npt.NDArray[np.float32]:
    if bits == 8:
        levels = np.frombuffer(pixels, np.uint8).reshape(shape).astype(np.float32)
        image: npt.NDArray[np.float32] = levels / np.float32(255)
        return image
    values: npt.NDArray[np.float32] = np.frombuffer(pixels, "<f4").reshape(shape)
    return values.astype(np.float32)


def _item(row: tuple[Any, ...]) -> dict[str, Any]:
    found = dict(zip(_COLUMNS.split(", "), row, strict=True))
    found["scores"] = json.loads(found["scores"])
    return found


def _write_header(stream: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_2_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
