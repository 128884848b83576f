"""The driver: sends steps to a cluster in the order of their needs, and takes the results."""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from notsure.core.errors import (
    ClusterError,
    ConfigurationError,
    FullDiskError,
    RunningError,
)
from notsure.core.storage import writable_folder
from notsure.studies.durations import Estimates, duration_text, parse_duration
from notsure.studies.learning import DEVICE
from notsure.studies.order import selected
from notsure.studies.run import (
    Outcome,
    because_of,
    failed_with,
    say,
    tell_of_failure,
    warn_of_other_versions,
)
from notsure.studies.scale_out.carrying import Packed, packed
from notsure.studies.scale_out.cluster import RETRIES, Cluster, connected
from notsure.studies.scale_out.keeper import Keeper
from notsure.studies.scale_out.pieces import Pieces, cut
from notsure.studies.scale_out.worker import MARKS, Order, Reply
from notsure.studies.steps import Step
from notsure.studies.store import Result, Store

_POLL = 0.5
"""Seconds between two looks at what other processes hold, and at the deadline."""

_OF_ALL = (ClusterError, FullDiskError)
"""What ends a run: no other step would fare better."""

_CANCELLING = 10.0
"""Seconds that workers have to stop in when a run is broken off."""


def run_plan_on_ray(
    plan: Sequence[Step],
    store: Store,
    *,
    address: str | None = None,
    deadline: float | str | None = None,
    progress: bool = False,
    only: Collection[str] | None = None,
    shard: int | None = None,
    cpus: int = 1,
    shared: bool | None = None,
) -> Outcome:
    """Runs the steps of a plan that are not done yet on a Ray cluster.

    Steps whose needs are done run at the same time; evaluations are cut into shards of their images
    (see `cut`), whose records are joined to those of one process. What is done is as `run_plan`
    leaves it: either call goes on with the results of the other. A step whose worker dies is sent
    again, and goes on from its last checkpoint where the store is shared.

    Args:
        plan: what `plan` gave.
        store: where results are.
        address: "auto" or HOST:PORT of a cluster that is there; None for one on this machine, or
            for the one that this process is connected to already.
        deadline: as `run_plan` takes it; steps on the cluster stop at their next checkpoint.
        progress: whether to say what is going on, on standard error.
        only: names, kinds or identities of steps: only these are run, and what they need.
        shard: how many images a shard of an evaluation has, rounded up to whole batches; None
            for one batch.
        cpus: how many processors, and threads, each step has. Where the cluster has GPUs, a step
            has one as well.
        shared: whether the workers write into the store's folder themselves; otherwise results
            come back as bytes and this process writes them. None to find out whether every node
            sees the folder.

    Returns:
        What was done, as of `run_plan`; shards count as their evaluation.

    Raises:
        ConfigurationError: Ray is not installed, or a setting is out of range.
        ClusterError: the cluster cannot be used, or lost the same step again and again.
        FullDiskError: there is no space left; what was done before is kept.
    """
    began = time.monotonic()
    allowed = math.inf if deadline is None else parse_duration(deadline)
    until = time.time() + allowed
    for name, value in (("shard", shard), ("cpus", cpus)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} has to be at least 1; got {value}.")
    steps = selected(plan, only)
    writable_folder(store.root)
    with connected(address) as cluster, _marked(store) as mark:
        cluster.require_place(cpus)
        sees = cluster.check(str(store.root.resolve()), mark)
        driver = _Driver(
            steps,
            store,
            cluster,
            mark=mark,
            until=until,
            progress=progress,
            size=shard,
            threads=cpus,
            shared=sees if shared is None else shared,
        )
        driver.run()
    return driver.outcome(time.monotonic() - began)


@contextmanager
def _marked(store: Store) -> Iterator[str]:
    """A file in the store by which nodes can tell that it is this one; its name."""
    mark = secrets.token_hex(8)
    folder = store.root / MARKS
    folder.mkdir(exist_ok=True)
    (folder / mark).touch()
    try:
        yield mark
    finally:
        (folder / mark).unlink(missing_ok=True)
        # another run may have its own
        with suppress(OSError):
            folder.rmdir()


class _Driver:
    """One run of a plan on a cluster."""

    def __init__(
        self,
        steps: Sequence[Step],
        store: Store,
        cluster: Cluster,
        *,
        mark: str,
        until: float,
        progress: bool,
        size: int | None,
        threads: int,
        shared: bool,
    ) -> None:
        self.steps, self.store, self.cluster, self.mark = tuple(steps), store, cluster, mark
        self.until, self.progress, self.size = until, progress, size
        self.threads, self.shared = threads, shared
        self.keeper = Keeper(store)
        self.estimates = Estimates(store.results())
        self.made: dict[str, Result] = {}
        self.found: dict[str, Result] = {}
        self.why: dict[str, str] = {}
        self.errors: dict[str, Exception] = {}
        self.pieces: dict[str, Pieces] = {}
        self.whole_of: dict[str, Step] = {}
        self.pending: dict[str, Step] = {}
        self.under_way: dict[Any, Step] = {}
        self.busy: dict[str, tuple[float, str]] = {}
        self.brought: dict[str, Any] = {}
        self.room, self.counted = 0, -math.inf

    def run(self) -> None:
        """Runs what can be run."""
        self._look()
        try:
            while self.pending or self.under_way:
                self._send_what_can_be()
                if self.under_way:
                    self._collect()
                elif self.pending:
                    time.sleep(_POLL)
        finally:
            self._break_off()
            self.keeper.close()
            if not self.shared:
                # at worst some files stay in a folder for temporary ones
                with suppress(ClusterError):
                    self.cluster.forget(self.mark)

    def _look(self) -> None:
        """What is done already, what is to be done, and in which pieces."""
        for step in self.steps:
            result = self.store.result(step)
            pieces = cut(step, self.size)
            if result is not None:
                self.found[step.identity] = result
                if pieces is not None:
                    self.keeper.remove(pieces)
                continue
            if pieces is not None and not self._begun_as_one(step, pieces):
                self.pieces[step.identity] = pieces
                for piece in pieces.steps:
                    self.whole_of[piece.identity] = step
                    self._look_for(piece)
            self.pending[step.identity] = step
        warn_of_other_versions(self.steps, self.found, stacklevel=5)

    def _look_for(self, piece: Step) -> None:
        result = self.store.result(piece)
        if result is None:
            self.pending[piece.identity] = piece
        else:
            self.found[piece.identity] = result

    def _begun_as_one(self, step: Step, pieces: Pieces) -> bool:
        """Whether one process has begun it, and goes on from there sooner than shards would."""
        return self.store.state(step) == "begun" and not any(
            self.store.state(piece) in ("done", "begun") for piece in pieces.shards
        )

    def _seconds_left(self) -> float:
        return self.until - time.time()

    def _done(self, step: Step) -> bool:
        return step.identity in self.made or step.identity in self.found

    def _send_what_can_be(self) -> None:
        now = time.monotonic()
        if now - self.counted > 1:
            # some more than run at a time, so that nobody waits for the driver
            self.room, self.counted = 2 * self.cluster.places(self.threads) + 2, now
        for step in list(self.pending.values()):
            if len(self.under_way) >= self.room:
                return
            if step.identity not in self.pending:
                continue
            pieces = self.pieces.get(step.identity)
            needs = step.needs if pieces is None else pieces.shards
            left = [need for need in needs if need.identity in self.why]
            waits_until, by = self.busy.get(step.identity, (0.0, ""))
            if not all(self._done(need) or need in left for need in needs) or waits_until > now:
                continue
            if left:
                self._leave(step, self._because(left[0], pieces))
            elif pieces is not None:
                self._join(step, pieces)
            elif self._seconds_left() <= 0:
                self._leave(step, by or "the deadline came before it was begun")
            else:
                self._send(step)

    def _because(self, need: Step, pieces: Pieces | None) -> str:
        if pieces is None:
            return because_of(need, self.why[need.identity])
        done = sum(self._done(piece) for piece in pieces.shards)
        return f"{done} of {len(pieces.shards)} shards are done; {self.why[need.identity]}"

    def _leave(self, step: Step, why: str) -> None:
        self.pending.pop(step.identity, None)
        self.why[step.identity] = why
        self._say(f"{step.kind} {step.name!r} is left: {why}")

    def _say(self, text: str) -> None:
        if self.progress:
            say(text)

    # sending

    def _send(self, step: Step) -> None:
        """Sends a step, unless another process is at it."""
        whole = self.whole_of.get(step.identity)
        # shards are guarded by the claim on their evaluation, other steps by their workers' claims
        held = whole or (None if self.shared else step)
        if held is not None and not self._hold(held, step):
            return
        needs = tuple({need.identity: need for need in step.needs}.values())
        order = Order(
            step=step,
            root=str(self.store.root.resolve()),
            mark=self.mark,
            shared=self.shared,
            until=self.until,
            estimate=self.estimates.of(step),
            threads=self.threads,
            device=os.environ.get(DEVICE),
            needs=() if self.shared else tuple(need.identity for need in needs),
            spent=self.store.spent(step),
        )
        checkpoint: Packed | None = None
        if not self.shared and self.store.state(step) == "begun":
            checkpoint = packed(self.store.work(step))
        inputs = () if self.shared else tuple(self._brought(need) for need in needs)
        name = f"{step.kind} {step.name}"
        reference = self.cluster.submit(name, self.threads, order, checkpoint, *inputs)
        self.under_way[reference] = self.pending.pop(step.identity)

    def _brought(self, need: Step) -> Any:
        """A result as an object of the cluster, which is put there once."""
        if need.identity not in self.brought:
            files = packed(self.store.folder(need))
            self.brought[need.identity] = self.cluster.ray.put(files)
        return self.brought[need.identity]

    def _hold(self, held: Step, step: Step) -> bool:
        """Claims a step; where another process has it, what was to be sent is put off.

        Where another process has finished it meanwhile, it is done, and so are its pieces.
        """
        try:
            result = self.keeper.hold(held)
        except RunningError as error:
            self._put_off(step, str(error))
            return False
        if result is not None:
            self.found[held.identity] = result
            self._forget_pieces(held)
        return result is None

    def _put_off(self, step: Step, why: str) -> None:
        if step.identity not in self.busy:
            self._say(why)
        self.busy[step.identity] = (time.monotonic() + 2 * _POLL, why)
        self.pending[step.identity] = step

    def _forget_pieces(self, step: Step) -> None:
        """Of a step that is done nothing is pending any more, and no piece is kept."""
        self.pending.pop(step.identity, None)
        pieces = self.pieces.pop(step.identity, None)
        if pieces is not None:
            for piece in pieces.steps:
                self.pending.pop(piece.identity, None)
            self.keeper.remove(pieces)

    # taking

    def _collect(self) -> None:
        """Takes every reply that has come, or waits for one."""
        ray = self.cluster.ray
        ready, _ = ray.wait(list(self.under_way), num_returns=1, timeout=_POLL)
        if ready:
            ready, _ = ray.wait(list(self.under_way), num_returns=len(self.under_way), timeout=0)
        for reference in ready:
            step = self.under_way.pop(reference)
            reply = self._reply(reference, step)
            if isinstance(reply, Reply):
                self._take(step, reply)
            else:
                self._fail(step, reply)

    def _reply(self, reference: Any, step: Step) -> Reply | Exception:
        """What a worker says of a step, or what the step raised there."""
        errors = self.cluster.ray.exceptions
        try:
            reply: Reply = self.cluster.ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, _OF_ALL):
                raise cause from error
            return cause
        except errors.RayError as error:
            raise ClusterError(
                f"{step.kind} {step.name!r} was lost with its worker {RETRIES + 1} times "
                f"({type(error).__name__}): see Ray's logs; a step that needs more memory than its "
                "node has ends so."
            ) from error
        return reply

    def _fail(self, step: Step, error: Exception) -> None:
        """Leaves a step that raised an error; the rest goes on. A shard's is its evaluation's."""
        whole = self.whole_of.get(step.identity, step)
        self.errors.setdefault(whole.identity, error)
        tell_of_failure(step, error)
        self.keeper.release(step)
        self._leave(step, failed_with(error))

    def _take(self, step: Step, reply: Reply) -> None:
        for text in reply.warnings:
            self._say(f"{step.kind} {step.name!r} warns: {text}")
        if reply.state == "busy":
            self._put_off(step, reply.why)
            return
        if reply.state == "left":
            if reply.checkpoint:
                self.keeper.keep(step, reply.checkpoint, reply.seconds)
            self.keeper.release(step)
            self._leave(step, reply.why)
            return
        files = reply.result
        result = self.keeper.seen(step) if files is None else self.keeper.publish(step, files)
        (self.made if reply.own else self.found)[step.identity] = result
        self.keeper.release(step)
        self.estimates.learn(result)
        self._say(f"{step.kind} {step.name!r}: done in {duration_text(result.seconds)}")

    def _join(self, step: Step, pieces: Pieces) -> None:
        if not self._hold(step, step):
            return
        result = self.keeper.join(step, pieces)
        self.made[step.identity] = result
        self._forget_pieces(step)
        self.keeper.release(step)
        self.estimates.learn(result)
        self._say(f"{step.kind} {step.name!r}: {len(pieces.shards)} shards are joined")

    def _break_off(self) -> None:
        """Stops what is under way; what has checkpoints in a shared store keeps them."""
        ray = self.cluster.ray
        left = list(self.under_way)
        for reference in left:
            with suppress(ray.exceptions.RayError):
                ray.cancel(reference)
        if left:
            ray.wait(left, num_returns=len(left), timeout=_CANCELLING)

    def outcome(self, wall: float) -> Outcome:
        """What was done."""
        return Outcome(
            done=tuple(step for step in self.steps if step.identity in self.made),
            skipped=tuple(step for step in self.steps if step.identity in self.found),
            left=tuple(step for step in self.steps if step.identity in self.why),
            why={s.identity: self.why[s.identity] for s in self.steps if s.identity in self.why},
            seconds={
                step.identity: self.made[step.identity].seconds
                for step in self.steps
                if step.identity in self.made
            },
            wall=wall,
            errors=dict(self.errors),
        )
