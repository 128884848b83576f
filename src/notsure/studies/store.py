"""The store: the result of every step, whole or not there, verified when it is read."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from notsure.core.errors import CheckpointError, ConfigurationError, VerificationError
from notsure.core.storage import load_json, save_json, writable_folder
from notsure.studies.disk import telling_of_full_disk
from notsure.studies.locks import locked
from notsure.studies.results import DONE, SEAL, Result, if_sealed, seal, sealed, sha256, versions
from notsure.studies.steps import Step

__all__ = ["DONE", "Claim", "Result", "State", "Store"]

_WORK, _LOCKS, _DAMAGED = ".work", ".locks", ".damaged"

State = Literal["done", "begun", "damaged", "to do"]
"""How far a step is: its result is there, or checkpoints of it, or a result that is damaged."""


class Store:
    """Results of steps, each in a folder named after its step's identity.

    A result is made in `.work` and moved into place when it is whole, so that whoever looks sees
    all of it or nothing. After a power failure, which may leave the move done and the files
    empty, verification finds the damage and the step is done again.

    Args:
        root: the folder, made when the first step is claimed.
        verify: "hash" reads every file of a result and compares its SHA-256, once per process and
            file unless the file changes; "size" compares sizes alone.

    Raises:
        ConfigurationError: `verify` is something else.
    """

    def __init__(self, root: str | Path, *, verify: Literal["hash", "size"] = "hash") -> None:
        if verify not in ("hash", "size"):
            raise ConfigurationError(f"verify has to be 'hash' or 'size'; got {verify!r}.")
        self.root, self.verify = Path(root), verify
        self._hashed: dict[Path, tuple[tuple[int, int], str]] = {}

    def folder(self, step: Step) -> Path:
        """Where the step's result is, or will be."""
        return self.root / step.identity

    def work(self, step: Step) -> Path:
        """Where the step's result is made, and a resumable step's checkpoints are."""
        return self.root / _WORK / step.identity

    def result(self, step: Step) -> Result | None:
        """The step's result; None where it is not there or damaged."""
        try:
            return self._read(step, self.folder(step))
        except (CheckpointError, FileNotFoundError):
            return None

    def state(self, step: Step) -> State:
        """How far the step is."""
        if self.result(step) is not None:
            return "done"
        if self.folder(step).exists():
            return "damaged"
        work = self.work(step)
        begun = step.resumable and work.is_dir() and any(work.iterdir())
        return "begun" if begun else "to do"

    def spent(self, step: Step) -> float:
        """How many seconds the attempts at a step took that left it unfinished."""
        try:
            return float(load_json(_spent(self.work(step)))["seconds"])
        except (CheckpointError, KeyError, TypeError, ValueError):
            return 0.0

    def results(self) -> list[Result]:
        """All that was ever finished here, without a look at the files."""
        paths = sorted(self.root.glob(f"*/{DONE}"))
        return [Result(path.parent, done) for path in paths if (done := if_sealed(path))]

    @contextmanager
    def claim(
        self,
        step: Step,
        *,
        wait: bool = True,
        seconds_left: Callable[[], float] = lambda: math.inf,
    ) -> Iterator[Claim]:
        """Takes the step for this process: nobody else works on it inside.

        Args:
            step: what is to be done.
            wait: whether to wait where another process has it.
            seconds_left: how long to wait.

        Returns:
            The claim, for the time of the with statement.

        Raises:
            RunningError: another process has it, and `wait` is False.
            DeadlineError: another process had it until the time was over.
            FullDiskError: there is no space left.
            ConfigurationError: the folder cannot be written to, or knows no locks.
        """
        writable_folder(self.root)
        for name in (_WORK, _LOCKS):
            (self.root / name).mkdir(exist_ok=True)
        path = self.root / _LOCKS / f"{step.identity}.lock"
        what = f"{step.kind} {step.name!r}"
        with locked(path, what=what, wait=wait, seconds_left=seconds_left):
            yield Claim(self, step)

    def _read(self, step: Step, folder: Path) -> Result:
        """What is in the folder, verified.

        Raises:
            FileNotFoundError: there is no such folder.
            CheckpointError: a file in it is missing or damaged.
        """
        if not folder.exists():
            raise FileNotFoundError(folder)
        done = sealed(folder / DONE)
        told = {key: done.get(key) for key in step.description}
        if json.dumps(told, sort_keys=True) != json.dumps(step.description, sort_keys=True):
            raise CheckpointError(f"{DONE} in {str(folder)!r} is of another step.")
        for name, file in done["files"].items():
            self._check(folder / name, file)
        return Result(folder, done)

    def _check(self, path: Path, told: Mapping[str, Any]) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path.name} is missing in {str(path.parent)!r}.")
        found = path.stat()
        if found.st_size != told["size"]:
            raise CheckpointError(
                f"{path.name} in {str(path.parent)!r} has {found.st_size} bytes, not "
                f"{told['size']}."
            )
        if self.verify == "hash" and self._hash(path) != told["sha256"]:
            raise CheckpointError(
                f"{path.name} in {str(path.parent)!r} is not as it was written: its SHA-256 "
                "differs."
            )

    def _hash(self, path: Path) -> str:
        found = path.stat()
        mark = (found.st_mtime_ns, found.st_size)
        known = self._hashed.get(path)
        if known is None or known[0] != mark:
            known = self._hashed[path] = (mark, sha256(path))
        return known[1]


class Claim:
    """A step that this process has to itself; made by `Store.claim`.

    Args:
        store: where results are.
        step: what is to be done.

    Attributes:
        step: what is to be done.
        result: what another process made of it meanwhile; None where it is still to be done.
    """

    def __init__(self, store: Store, step: Step) -> None:
        self.step, self._store = step, store
        self._work = store.work(step)
        self._spent = _spent(self._work)
        self.result = self._found()

    def _found(self) -> Result | None:
        """The result where it is whole; a damaged one is put aside."""
        folder = self._store.folder(self.step)
        try:
            return self._store._read(self.step, folder)
        except FileNotFoundError:
            pass
        except CheckpointError as error:
            self._put_aside(folder, error)
        # killed after the last write, and before the move
        if (self._work / DONE).exists():
            try:
                self._store._read(self.step, self._work)
            except CheckpointError:
                shutil.rmtree(self._work)
            else:
                return self._moved()
        return None

    def _put_aside(self, folder: Path, error: Exception) -> None:
        aside = self._store.root / _DAMAGED
        aside.mkdir(exist_ok=True)
        number = 1
        while (aside / f"{self.step.identity}-{number}").exists():
            number += 1
        folder.rename(aside / f"{self.step.identity}-{number}")
        warnings.warn(
            f"{self.step.kind} {self.step.name!r} is done again, for what was there is damaged "
            f"and was put aside in {_DAMAGED}: {error}",
            stacklevel=4,
        )

    def begin(self) -> Path:
        """The folder to work in: empty, or with the checkpoints of a resumable step."""
        if not self.step.resumable and self._work.exists():
            shutil.rmtree(self._work)
        with telling_of_full_disk(self.step, self._store):
            self._work.mkdir(exist_ok=True)
        self._sweep()
        return self._work

    @property
    def has_checkpoint(self) -> bool:
        """Whether an earlier attempt left files that the step can go on from."""
        return self.step.resumable and self._work.is_dir() and any(self._work.iterdir())

    def begin_anew(self, error: Exception) -> Path:
        """Puts checkpoints aside that turned out to be damaged.

        Args:
            error: what was wrong with them.

        Returns:
            The folder to work in, empty.
        """
        self._put_aside(self._work, error)
        self._spent.unlink(missing_ok=True)
        return self.begin()

    def _sweep(self) -> None:
        """Removes what a killed process was just writing: it would stay in the result."""
        for path in self._work.rglob(".*.part"):
            path.unlink()

    def take(self, fill: Callable[[Path], None]) -> Result:
        """Publishes a result that was made and sealed in another store.

        Args:
            fill: writes its files, `done.json` among them, into the folder that it is given.

        Returns:
            The result.

        Raises:
            CheckpointError: what arrived is damaged, or of another step.
            FullDiskError: there is no space left.
        """
        shutil.rmtree(self._work, ignore_errors=True)
        with telling_of_full_disk(self.step, self._store):
            fill(self._work)
        try:
            self._store._read(self.step, self._work)
        except (CheckpointError, FileNotFoundError):
            shutil.rmtree(self._work, ignore_errors=True)
            raise
        return self._moved()

    def interrupted(self, seconds: float) -> None:
        """Remembers how long an attempt took that did not finish, for estimates."""
        if self.step.resumable:
            with suppress(OSError):
                save_json(self._spent, {"seconds": self._store.spent(self.step) + seconds})

    def discard(self) -> None:
        """Removes what a step leaves half done that cannot go on from it."""
        if self.step.resumable:
            self._sweep()
        else:
            shutil.rmtree(self._work, ignore_errors=True)

    def publish(self, seconds: float, estimate: float) -> Result:
        """Takes what is in the folder for the result.

        Args:
            seconds: how long this attempt took.
            estimate: how long it was thought to take, in seconds; may be NaN.

        Returns:
            The result.

        Raises:
            VerificationError: there is nothing, or something that is no plain file.
            FullDiskError: there is no space left to say so.
        """
        done = {
            "identity": self.step.identity,
            "name": self.step.name,
            **self.step.description,
            "versions": versions(),
            "seconds": round(self._store.spent(self.step) + seconds, 3),
            "estimate": estimate if math.isfinite(estimate) else None,
            "files": self._files(),
        }
        with telling_of_full_disk(self.step, self._store):
            save_json(self._work / DONE, {**done, SEAL: seal(done)})
        return self._moved()

    def _files(self) -> dict[str, dict[str, Any]]:
        files = {}
        for path in sorted(self._work.rglob("*")):
            name = path.relative_to(self._work).as_posix()
            if path.is_dir() and not path.is_symlink():
                continue
            if path.is_symlink() or not path.is_file() or name == DONE:
                raise VerificationError(
                    f"{self.step.kind} {self.step.name!r} left {name}, which cannot be part of a "
                    f"result: only plain files can, and {DONE} is the store's own."
                )
            files[name] = {"size": path.stat().st_size, "sha256": sha256(path)}
        if not files:
            raise VerificationError(
                f"{self.step.kind} {self.step.name!r} returned without writing a result: a step "
                "has to leave at least one file in its folder."
            )
        return files

    def _moved(self) -> Result:
        folder = self._store.folder(self.step)
        self._work.replace(folder)
        self._spent.unlink(missing_ok=True)
        self.result = Result(folder, sealed(folder / DONE))
        return self.result


def _spent(work: Path) -> Path:
    return work.with_suffix(".json")
