"""What a full disk does to a step, told in a sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from notsure.core.errors import FullDiskError
from notsure.studies.steps import Step

if TYPE_CHECKING:
    from notsure.studies.store import Store

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("no space left on device", "storagefull", "disk quota exceeded")


def is_of_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that there is no space left.

    Libraries written in Rust or C++ tell so in words of their own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            return True
        if any(word in str(error).lower() for word in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def telling_of_full_disk(step: Step, store: Store) -> Iterator[None]:
    """Turns an error for lack of space into one that says how much is needed.

    Raises:
        FullDiskError: there is no space left.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, FullDiskError) or not is_of_full_disk(error):
            raise
        raise FullDiskError(
            f"The disk of {str(store.root)!r} is full: {step.kind} {step.name!r} could not write "
            f"its result, and left none. {_needed(step, store)}Make room and give the same command "
            "again."
        ) from error


def _needed(step: Step, store: Store) -> str:
    free = shutil.disk_usage(store.root).free
    sizes = [result.size for result in store.results() if result.done["kind"] == step.kind]
    if not sizes:
        return f"{free / 1e6:.1f} MB are free. "
    return (
        f"{free / 1e6:.1f} MB are free; the largest result of the same kind so far has "
        f"{max(sizes) / 1e6:.1f} MB. "
    )
