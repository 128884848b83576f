"""What happens on a worker of the cluster: one step, as in one process."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from notsure.core.errors import ClusterError, DeadlineError, RunningError
from notsure.studies.durations import duration_text
from notsure.studies.learning import DEVICE
from notsure.studies.results import versions
from notsure.studies.run import run_step
from notsure.studies.scale_out.carrying import Packed, packed, unpack
from notsure.studies.steps import Step
from notsure.studies.store import Store

MARKS = ".cluster"
"""The folder in a store by whose files workers tell that it is the driver's store."""

_OWN_DEVICE = os.environ.get(DEVICE)
"""What the worker's machine says of where it works."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker is to do.

    Attributes:
        step: the step; what it needs is done.
        root: the store's folder, as the driver calls it.
        mark: what stands for this run: the name of a file in the store, and of a scratch folder.
        shared: whether the worker writes into the driver's store; otherwise what the step needs
            is brought to it, and what it makes is sent back.
        until: when to stop, in seconds since the epoch; infinity for never.
        estimate: how many seconds the step takes, about; may be NaN.
        threads: how many threads it may use.
        device: where it works, as NOTSURE_DEVICE says; None for the worker's own choice.
        needs: identities of the results that are brought, in their order.
        spent: how many seconds went into the checkpoint that is brought.
    """

    step: Step
    root: str
    mark: str
    shared: bool
    until: float
    estimate: float
    threads: int
    device: str | None
    needs: tuple[str, ...] = ()
    spent: float = 0.0

    def seconds_left(self) -> float:
        """Until the deadline; the machines' clocks are taken to agree."""
        return self.until - time.time()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What became of an order.

    Attributes:
        state: "done"; "left" for want of time; "busy" where another process has the step.
        own: whether this worker made the result now.
        why: of a step that is left.
        seconds: that this attempt took.
        result: the result's files where the store is not shared.
        checkpoint: of a step that is left: the files to go on from, where the store is not shared.
        warnings: what was warned of.
    """

    state: Literal["done", "left", "busy"]
    own: bool = False
    why: str = ""
    seconds: float = 0.0
    result: Packed | None = None
    checkpoint: Packed | None = None
    warnings: tuple[str, ...] = field(default_factory=tuple)


def execute(order: Order, checkpoint: Packed | None, *needs: Packed) -> Reply:
    """Runs the step of an order.

    Args:
        order: what is to be done.
        checkpoint: the files to go on from, where they are brought.
        needs: the results that it needs, where they are brought.

    Raises:
        ClusterError: the store is said to be shared, and this machine does not see it.
        NotSureError: whatever the step raises.
    """
    if order.seconds_left() <= 0:
        return Reply(state="left", why="the deadline came before it was begun")
    if not order.step.resumable and order.estimate > order.seconds_left():
        return Reply(
            state="left",
            why=f"takes about {duration_text(order.estimate)} and leaves no checkpoints; "
            f"{duration_text(order.seconds_left())} were left",
        )
    _prepare(order)
    store = _shared_store(order) if order.shared else _scratch_store(order, checkpoint, needs)
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reply = _attempted(order, store)
    texts = tuple(str(one.message) for one in caught if issubclass(one.category, UserWarning))
    found: Packed | None = None
    left: Packed | None = None
    if not order.shared:
        if reply.state == "done":
            found = packed(store.folder(order.step))
        elif reply.state == "left" and order.step.resumable:
            left = packed(store.work(order.step))
    return Reply(
        state=reply.state,
        own=reply.own or not order.shared,
        why=reply.why,
        seconds=time.monotonic() - began,
        result=found,
        checkpoint=left,
        warnings=texts,
    )


def _prepare(order: Order) -> None:
    import torch

    torch.set_num_threads(order.threads)
    # the process serves other runs as well, which may want another device
    wanted = order.device or _OWN_DEVICE
    if wanted is None:
        os.environ.pop(DEVICE, None)
    else:
        os.environ[DEVICE] = wanted


def _attempted(order: Order, store: Store) -> Reply:
    try:
        # the place on the cluster is wanted by others: the driver asks again later
        _, own = run_step(
            order.step,
            store,
            seconds_left=order.seconds_left,
            wait=False,
            estimate=order.step.estimate(),
        )
    except RunningError as error:
        return Reply(state="busy", why=str(error))
    except DeadlineError as error:
        return Reply(state="left", why=str(error))
    return Reply(state="done", own=own)


def _shared_store(order: Order) -> Store:
    if not (Path(order.root) / MARKS / order.mark).is_file():
        raise ClusterError(
            f"A node of the cluster does not see the results' folder {order.root!r} of this run, "
            "as the other nodes did when it began: put it on a file system that all nodes share, "
            "or let the results be sent (shared=False)."
        )
    return Store(order.root)


def scratch(mark: str) -> Path:
    """A folder of this machine for what is brought during a run."""
    return Path(tempfile.gettempdir()) / f"notsure-{mark}"


def _scratch_store(order: Order, checkpoint: Packed | None, needs: tuple[Packed, ...]) -> Store:
    store = Store(scratch(order.mark))
    known = {need.identity: need for need in order.step.needs}
    for identity, files in zip(order.needs, needs, strict=True):
        need = known[identity]
        if store.result(need) is None:
            with store.claim(need) as claim:
                if claim.result is None:
                    claim.take(partial(unpack, files))
    # an earlier attempt on this machine has come further than what the driver has
    if checkpoint is not None and not store.work(order.step).exists():
        with store.claim(order.step) as claim:
            unpack(checkpoint, claim.begin())
            claim.interrupted(order.spent)
    return store


@dataclass(frozen=True)
class Look:
    """What a node says of itself.

    Attributes:
        sees: whether it sees the store of this run.
        versions: of notsure, torch and Python.
    """

    sees: bool
    versions: dict[str, str]


def look(root: str, mark: str) -> Look:
    """Looks around on a node."""
    return Look((Path(root) / MARKS / mark).is_file(), versions())


def forget(mark: str) -> None:
    """Removes what a run brought to this machine."""
    shutil.rmtree(scratch(mark), ignore_errors=True)
