"""Long work that can be gone on with asks here whether to stop, where nothing would be lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Reason = Callable[[], Exception | None]
"""The error to stop with, or None to go on."""

_REASON: ContextVar[Reason | None] = ContextVar("notsure_stopping", default=None)


@contextmanager
def stopping(reason: Reason) -> Iterator[None]:
    """Inside, trainings and examinations that keep checkpoints stop once there is a reason.

    A training asks after every step, and an examination after every part; whoever is given an
    error leaves a checkpoint and raises it. One process only: several that train together would
    not stop at the same step.
    """
    token = _REASON.set(reason)
    try:
        yield
    finally:
        _REASON.reset(token)


def reason_to_stop() -> Exception | None:
    """The error to raise once a checkpoint is written; None to go on."""
    reason = _REASON.get()
    return None if reason is None else reason()
