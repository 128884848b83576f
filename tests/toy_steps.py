"""Steps in pure Python that take no time or as much as is wanted, and what tests of them need."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from notsure.core.errors import CheckpointError
from notsure.core.storage import save_json
from notsure.studies.steps import Context, Step


def log_line(log: Path | None, text: str) -> None:
    """Adds a line to a file that no step's result depends on, in one write that stays whole."""
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)


def log_of(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@dataclass(frozen=True, kw_only=True)
class Write(Step):
    """Writes a text and what it needs; cannot be resumed."""

    kind: ClassVar[str] = "write"

    text: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    sources: tuple[Step, ...] = ()
    seconds: float = math.nan
    pause: float = 0.0
    log: Path | None = None

    @property
    def needs(self) -> tuple[Step, ...]:
        return self.sources

    def settings(self) -> dict[str, Any]:
        return {"text": self.text, **self.more}

    def estimate(self) -> float:
        return self.seconds

    def run(self, context: Context) -> None:
        log_line(self.log, self.name)
        time.sleep(self.pause)
        parts = [(context.folder_of(need) / "out.txt").read_text() for need in self.needs]
        (context.folder / "deep").mkdir()
        (context.folder / "deep" / "more.bin").write_bytes(self.text.encode() * 3)
        (context.folder / "out.txt").write_text("|".join([self.text, *parts]))


@dataclass(frozen=True, kw_only=True)
class Chain(Step):
    """Hashes again and again, with a checkpoint after every link; may stall before one of them."""

    kind: ClassVar[str] = "chain"
    resumable: ClassVar[bool] = True

    links: int
    pause: float = 0.0
    stall: int | None = None
    sources: tuple[Step, ...] = ()
    log: Path | None = None

    @property
    def needs(self) -> tuple[Step, ...]:
        return self.sources

    def settings(self) -> dict[str, Any]:
        return {"links": self.links}

    def estimate(self) -> float:
        return 1e6

    def run(self, context: Context) -> None:
        path = context.folder / "checkpoint.json"
        state: dict[str, Any] = {"link": 0, "value": "start"}
        for need in self.needs:
            state["value"] += (context.folder_of(need) / "out.txt").read_text()
        if path.exists():
            try:
                state = json.loads(path.read_text())
            except ValueError as error:
                raise CheckpointError("checkpoint.json is damaged.") from error
        while state["link"] < self.links:
            log_line(self.log, f"{self.name} {state['link']}")
            time.sleep(60 if state["link"] == self.stall else self.pause)
            text = f"{state['value']}/{state['link']}"
            state = {"link": state["link"] + 1, "value": hashlib.sha256(text.encode()).hexdigest()}
            save_json(path, state)
            if state["link"] < self.links:
                context.require_time()
        (context.folder / "out.txt").write_text(state["value"])
        path.unlink()


@dataclass(frozen=True, kw_only=True)
class FillDisk(Step):
    """Writes a file and a checkpoint, and then finds the disk full."""

    kind: ClassVar[str] = "write"

    told: str = "by the system"

    def settings(self) -> dict[str, Any]:
        return {"told": self.told}

    def run(self, context: Context) -> None:
        (context.folder / "half.bin").write_bytes(b"half")
        try:
            # a device that is always full
            with Path("/dev/full").open("wb", buffering=0) as file:
                file.write(b"more")
        except OSError as error:
            if error.errno != errno.ENOSPC or self.told == "by the system":
                raise
            # as libraries tell it that have errors of their own
            if self.told == "as a cause":
                raise RuntimeError("the file could not be saved") from error
            raise RuntimeError("I/O error: No space left on device (os error 28)") from None


@dataclass(frozen=True, kw_only=True)
class FillDiskResumably(FillDisk):
    """The same, keeping what it wrote."""

    kind: ClassVar[str] = "fill"
    resumable: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Fail(Write):
    """Fails after it has written something."""

    kind: ClassVar[str] = "fail"

    def run(self, context: Context) -> None:
        super().run(context)
        raise ZeroDivisionError("on purpose")


def tree(root: Path) -> dict[str, bytes]:
    """Every result's files by name; of done.json what does not depend on time."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith("."):
            content = path.read_bytes()
            if path.name == "done.json":
                done = json.loads(content)
                content = json.dumps([done["identity"], done["settings"], done["files"]]).encode()
            found[name] = content
    return found


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


REPOSITORY = Path(__file__).resolve().parents[1]


@contextmanager
def script(code: str, *arguments: str, seed: str = "0") -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs the code and is killed at the end if need be."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": seed},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], Any], *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
