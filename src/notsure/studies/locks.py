"""Locks on files: they fall open when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from notsure.core.errors import ConfigurationError, DeadlineError, RunningError

_PAUSE = 0.1
"""Seconds between two looks at a lock that another process holds."""

_held: set[int] = set()


def _let_go() -> None:
    """A forked child does not hold its parent's locks: it may outlive a parent that is killed."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(
    path: Path, *, what: str, wait: bool, seconds_left: Callable[[], float]
) -> Iterator[None]:
    """Holds the lock of that file inside.

    Args:
        path: the lock's file, in a folder that exists; it stays, since removing it would race.
        what: what is locked, for messages.
        wait: whether to wait for another holder.
        seconds_left: until when.

    Raises:
        RunningError: another process holds it, and `wait` is False.
        DeadlineError: it was waited for until the time was over.
        ConfigurationError: the file system knows no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    taken = False
    try:
        while not (taken := _taken(descriptor, path)):
            if not wait:
                raise RunningError(
                    f"{what} is being run by {_holder(descriptor)}: wait for it, or stop it; what "
                    "it has done is not lost."
                )
            if seconds_left() <= 0:
                raise DeadlineError(f"The deadline came while another process was at {what}.")
            time.sleep(max(0.0, min(_PAUSE, seconds_left())))
        _sign(descriptor)
        yield
    finally:
        # in a child that was forked meanwhile the descriptor is closed, and perhaps another file's
        if descriptor in _held:
            _held.discard(descriptor)
            if taken:
                _release(descriptor)
            os.close(descriptor)


def _release(descriptor: int) -> None:
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
    # explicitly, for a process that a library forked past us may share the descriptor
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _taken(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigurationError(
            f"Files in {str(path.parent)!r} cannot be locked ({error.strerror}), so that two runs "
            "could not be kept apart there: give a folder on another file system."
        ) from error
    return True


def _sign(descriptor: int) -> None:
    """Says who holds the lock; a courtesy that a full disk may keep from being done."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0
        )


def _holder(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {told['pid']} on {told['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
