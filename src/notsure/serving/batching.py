"""Requests judged together: whoever comes while a batch is judged is in the next one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from notsure.serving.backend import Judged
from notsure.serving.limits import Limits, RefusalError


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one request's images.

    Attributes:
        judged: what was said of them.
        reviews: the number under which each waits for a person; None where it does not.
        refused: whether an image was rejected that there was no room to keep for a person.
    """

    judged: Judged
    reviews: list[int | None]
    refused: bool = False


@dataclass(eq=False)
class _Waiting:
    x: torch.Tensor
    answer: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


Keep = Callable[[torch.Tensor, Judged], list[int | None]]
"""Keeps rejected images for a person, and returns when that is safe: a number for each, None for
one that there was no room for."""


class Batcher:
    """Judges what requests bring, in batches, in a thread of its own.

    While one batch is judged the next one gathers, so that batches are as large as the load wants
    them and a single request does not wait. A request is answered once those of its images that
    were rejected are kept, which happens in a second thread.

    Args:
        judge: says what it thinks of images (B, C, H, W); called by one thread at a time.
        keep: keeps what was rejected.
        limits: the size of a batch, and how many images may wait.
        told: called with the number of images and the seconds of each batch.
    """

    def __init__(
        self,
        judge: Callable[[torch.Tensor], Judged],
        keep: Keep,
        limits: Limits,
        *,
        told: Callable[[int, float], None] | None = None,
    ) -> None:
        self._judge, self._keep, self._limits, self._told = judge, keep, limits, told
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0
        self._come = asyncio.Event()
        self._closing = False
        self._judging = ThreadPoolExecutor(1, thread_name_prefix="judging")
        self._keeping = ThreadPoolExecutor(1, thread_name_prefix="keeping")
        self._answering: set[asyncio.Task[None]] = set()
        self._work = asyncio.get_running_loop().create_task(self._run())

    @property
    def waiting(self) -> int:
        """How many images wait or are being judged."""
        return self._waiting

    @property
    def alive(self) -> bool:
        """Whether it still judges."""
        return not self._closing and not self._work.done()

    async def submit(self, x: torch.Tensor) -> Outcome:
        """What is said of images (B, C, H, W), once what was rejected is kept.

        Raises:
            RefusalError: too many images wait already, or the service ends.
        """
        if self._waiting + len(x) > self._limits.waiting:
            raise RefusalError(
                429,
                "too_busy",
                f"{self._waiting} images wait to be judged, and no more than "
                f"{self._limits.waiting} may: try again in a second.",
            )
        if not self.alive:
            raise RefusalError(
                429, "shutting_down", "The service is being stopped: try another one."
            )
        one = _Waiting(x)
        self._queue.append(one)
        self._waiting += len(x)
        self._come.set()
        return await one.answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._come.wait()
            if not self._queue:
                if self._closing:
                    return
                self._come.clear()
                continue
            if self._limits.batch_wait > 0 and self._waiting < self._limits.batch_size:
                await asyncio.sleep(self._limits.batch_wait)
            batch = self._gathered()
            if not batch:
                continue
            try:
                x = torch.cat([one.x for one in batch])
                began = time.perf_counter()
                judged = await loop.run_in_executor(self._judging, self._judge, x)
                _check(judged, len(x))
                if self._told is not None:
                    self._told(len(x), time.perf_counter() - began)
            except Exception as error:
                # whoever waits for the answer gets it, and the next batch is judged
                self._fail(batch, error)
                continue
            task = loop.create_task(self._answer(batch, x, judged))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    def _gathered(self) -> list[_Waiting]:
        """The next requests that fit into a batch; at least one, however large."""
        batch: list[_Waiting] = []
        count = 0
        while self._queue:
            one = self._queue[0]
            if batch and count + len(one.x) > self._limits.batch_size:
                break
            self._queue.popleft()
            # nobody waits for the answer to a request that was broken off
            if one.answer.done():
                self._waiting -= len(one.x)
                continue
            batch.append(one)
            count += len(one.x)
        return batch

    async def _answer(self, batch: list[_Waiting], x: torch.Tensor, judged: Judged) -> None:
        """Tells everybody; those of whose images one was rejected once that is kept."""
        kept_for: list[tuple[_Waiting, slice]] = []
        start = 0
        for one in batch:
            rows = slice(start, start + len(one.x))
            start += len(one.x)
            if bool(judged.accepted[rows].all()):
                # a slow disk is no concern of theirs
                self._tell(one, Outcome(_rows(judged, rows), [None] * len(one.x)))
            else:
                kept_for.append((one, rows))
        if not kept_for:
            return
        rejected = (~judged.accepted).nonzero().flatten()
        try:
            numbers = await asyncio.get_running_loop().run_in_executor(
                self._keeping, self._keep, x[rejected], _rows(judged, rejected)
            )
        except Exception as error:
            self._fail([one for one, _ in kept_for], error)
            return
        found = dict(zip(rejected.tolist(), numbers, strict=True))
        for one, rows in kept_for:
            own = range(rows.start, rows.stop)
            reviews = [found.get(row) for row in own]
            refused = any(row in found and found[row] is None for row in own)
            self._tell(one, Outcome(_rows(judged, rows), reviews, refused))

    def _tell(self, one: _Waiting, outcome: Outcome) -> None:
        self._waiting -= len(one.x)
        if not one.answer.done():
            one.answer.set_result(outcome)

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        for one in batch:
            self._waiting -= len(one.x)
            if not one.answer.done():
                one.answer.set_exception(error)

    async def close(self) -> None:
        """Judges what waits, and ends its threads."""
        self._closing = True
        self._come.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._work
        while self._answering:
            await asyncio.wait(set(self._answering))
        self._judging.shutdown()
        self._keeping.shutdown()


def _check(judged: Judged, count: int) -> None:
    """That every image was told of, before anybody's answer is taken from it."""
    said = [len(column) for column in (judged.label, judged.accepted, judged.scores)]
    if said != [count] * len(said):
        raise RuntimeError(f"Of {count} images that were judged, {said} were told of.")


def _rows(judged: Judged, rows: slice | torch.Tensor) -> Judged:
    return Judged(
        judged.label[rows],
        judged.accepted[rows],
        judged.scores[rows],
        None if judged.prediction is None else judged.prediction[rows],
    )
