"""The driver's side of the store: whose claims it holds, and what of the replies is kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from notsure.core.errors import ClusterError
from notsure.studies.disk import telling_of_full_disk
from notsure.studies.scale_out.carrying import Packed, unpack
from notsure.studies.scale_out.pieces import Pieces
from notsure.studies.steps import Step
from notsure.studies.store import Claim, Result, Store

_PATIENCE = 30.0
"""Seconds in which what a worker wrote has to be seen here: file systems of networks lag."""

_PAUSE = 0.5


class Keeper:
    """Keeps results and checkpoints, and the claims that are needed for it.

    Args:
        store: where results are.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._claims: dict[str, tuple[ExitStack, Claim]] = {}

    def hold(self, step: Step) -> Result | None:
        """Claims a step until it is released; gives its result where there is one meanwhile.

        Raises:
            RunningError: another process has it.
        """
        if step.identity in self._claims:
            return None
        stack = ExitStack()
        claim = stack.enter_context(self.store.claim(step, wait=False))
        if claim.result is not None:
            stack.close()
            return claim.result
        self._claims[step.identity] = (stack, claim)
        return None

    def release(self, step: Step) -> None:
        """Lets go of a step, if it is held."""
        if step.identity in self._claims:
            self._claims.pop(step.identity)[0].close()

    def close(self) -> None:
        """Lets go of all."""
        for stack, _ in self._claims.values():
            stack.close()
        self._claims.clear()

    @contextmanager
    def _claimed(self, step: Step) -> Iterator[Claim]:
        """The claim that is held; of a shard one for a moment, while its evaluation's is held."""
        if step.identity in self._claims:
            yield self._claims[step.identity][1]
            return
        with self.store.claim(step) as claim:
            yield claim

    def seen(self, step: Step) -> Result:
        """The result that a worker has written into the store.

        Raises:
            ClusterError: it does not appear.
        """
        end = time.monotonic() + _PATIENCE
        while (result := self.store.result(step)) is None:
            if time.monotonic() > end:
                raise ClusterError(
                    f"A worker has written {step.kind} {step.name!r} into "
                    f"{str(self.store.root)!r}, and here it does not appear: is it one folder on "
                    "all machines?"
                )
            time.sleep(_PAUSE)
        return result

    def publish(self, step: Step, files: Packed) -> Result:
        """Writes the result that a worker has sent.

        Raises:
            CheckpointError: it arrived damaged.
            FullDiskError: there is no space left.
        """
        with self._claimed(step) as claim:
            return claim.result or claim.take(partial(unpack, files))

    def keep(self, step: Step, files: Packed, seconds: float) -> None:
        """Keeps the checkpoint that a worker has sent, for the next run.

        Args:
            step: what is left.
            files: of the checkpoint.
            seconds: that the attempt took.
        """
        with self._claimed(step) as claim, telling_of_full_disk(step, self.store):
            _empty(claim.begin())
            unpack(files, self.store.work(step))
            claim.interrupted(seconds)

    def join(self, step: Step, pieces: Pieces) -> Result:
        """Makes one result of those of the shards of a step that is held."""
        began = time.monotonic()
        with self._claimed(step) as claim:
            folder = claim.begin()
            _empty(folder)
            spent = sum(self.seen(piece).seconds for piece in pieces.steps)
            with telling_of_full_disk(step, self.store):
                pieces.join([self.store.folder(piece) for piece in pieces.shards], folder)
            return claim.publish(spent + time.monotonic() - began, step.estimate())

    def remove(self, pieces: Pieces) -> None:
        """Removes the results of pieces whose evaluation is done."""
        for piece in pieces.steps:
            shutil.rmtree(self.store.folder(piece), ignore_errors=True)


def _empty(folder: Path) -> None:
    """Removes what another way of doing the same step has left in the folder."""
    shutil.rmtree(folder)
    folder.mkdir()
