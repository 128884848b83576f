"""Candidates compared by what they withstand on images that set none of their thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from notsure.choosing.attacking import examined, looked_closer
from notsure.choosing.results import Result, Settings, compared, ranked
from notsure.core.errors import CheckpointError, ConfigurationError, NotSureError
from notsure.data import Images
from notsure.guard import Guard

T = TypeVar("T")

SURPRISE = 0.001
"""How improbable it has to be that a candidate is as good as the best one, before it is dropped
after a fold: there are several looks at several candidates."""


def cross_validated(
    guards: Mapping[str, Guard],
    held_out: Images,
    settings: Settings,
    *,
    kept: Sequence[str] = (),
    optional: Sequence[str] = (),
    folder: Path | None = None,
    progress: bool = False,
) -> tuple[list[Result], dict[str, str]]:
    """Calibrates each guard on all folds but one and attacks it on images of that one.

    A guard may be ahead because it is good, or because the attacks do not find their way through
    it. So whoever is ahead after a fold is attacked with more effort on that fold's images, until
    one stays ahead; and who is ahead only under signs that even these attacks are weaker than they
    look is set aside. Candidates that the leader beats so clearly that chance hardly does it (p <
    0.001, a paired sign test) are dropped after a fold.

    Args:
        guards: fitted guards by name; they are left calibrated on a part of the images.
        held_out: clean images that nothing was fitted on.
        settings: how they are compared.
        kept: the names of those that are there for comparison: they neither lead nor are dropped.
        optional: the names of those that may be left out where they cannot be attacked.
        folder: where records are written, and runs are gone on with; None for none.
        progress: whether to show progress bars.

    Returns:
        The results, best first, and the names of those that were left out with the reason.

    Raises:
        ConfigurationError: there are too few images for the folds and the fpr.
        NotSureError: a guard cannot be calibrated or attacked.
    """
    course = _Course(guards, settings, kept, optional, progress)
    for number, (others, attacked) in enumerate(_cut(held_out, settings), start=1):
        where = None if folder is None else folder / f"fold-{number}"
        course.calibrate(others)
        course.examine(attacked, where)
        course.settle_the_lead(attacked, where)
        if number < settings.folds:
            course.drop(number)
    return ranked(list(course.results.values())), course.left_out


def _cut(held_out: Images, settings: Settings) -> list[tuple[Images, Images]]:
    """For each fold the images of all others, and some of its own."""
    order = np.random.default_rng(settings.seed).permutation(len(held_out))
    folds = np.array_split(order, settings.folds)
    fewest = len(held_out) - max(len(one) for one in folds)
    if fewest * settings.fpr < 1:
        raise ConfigurationError(
            f"Of {len(held_out)} calibration images {fewest} are left in each of {settings.folds} "
            f"folds, which cannot resolve a false-positive rate of {settings.fpr:g}: that takes "
            f"{math.ceil(1 / settings.fpr)}. Give more images or a larger fpr."
        )
    sizes = [len(one) for one in np.array_split(np.arange(settings.count), settings.folds)]
    found = []
    for place, (own, size) in enumerate(zip(folds, sizes, strict=True)):
        others = np.concatenate([one for at, one in enumerate(folds) if at != place])
        found.append((held_out.select(np.sort(others)), held_out.select(own[:size])))
    return found


class _Course:
    """The candidates on their way through the folds."""

    def __init__(
        self,
        guards: Mapping[str, Guard],
        settings: Settings,
        kept: Sequence[str],
        optional: Sequence[str],
        progress: bool,
    ) -> None:
        self.guards, self.settings = guards, settings
        self.kept, self.optional, self.progress = kept, optional, progress
        self.results: dict[str, Result] = {}
        self.left_out: dict[str, str] = {}

    @property
    def running(self) -> dict[str, Guard]:
        """The guards that take part in a fold."""
        return {
            name: guard
            for name, guard in self.guards.items()
            if name not in self.left_out
            and (name not in self.results or self.results[name].running)
        }

    def _done(self, name: str, work: Callable[[], T]) -> T | None:
        """What work on a candidate yields; None if it is left out because it cannot be done."""
        try:
            return work()
        except CheckpointError:
            raise
        except NotSureError as error:
            if name not in self.optional:
                raise
            self.left_out[name] = str(error)
            self.results.pop(name, None)
            return None

    def calibrate(self, images: Images) -> None:
        """Sets the thresholds on the other folds."""
        for name, guard in self.running.items():
            self._done(name, partial(guard.calibrate, images, fpr=self.settings.fpr))

    def examine(self, images: Images, folder: Path | None) -> None:
        """Attacks all with the suite: together, or if that fails one by one to find out who."""
        guards = self.running
        try:
            found = examined(guards, images, self.settings, folder, self.progress)
        except CheckpointError:
            raise
        except NotSureError:
            if not set(guards) & set(self.optional):
                raise
            found = {}
            for place, (name, guard) in enumerate(guards.items()):
                where = None if folder is None else folder.with_name(f"{folder.name}-{place}")
                one = partial(examined, {name: guard}, images, self.settings, where, self.progress)
                found |= self._done(name, one) or {}
        for name, result in found.items():
            before = self.results.get(name)
            self.results[name] = result if before is None else before.with_fold(result)

    def settle_the_lead(self, images: Images, folder: Path | None) -> None:
        """Looks closer at whoever is ahead, until that is somebody who was looked at."""
        looked: set[str] = set()
        while (name := self._leader()) is not None and name not in looked:
            looked.add(name)
            work = partial(
                looked_closer,
                name,
                self.guards[name],
                images,
                self.settings,
                folder,
                self.progress,
            )
            found = self._done(name, work)
            if found is not None:
                self.results[name] = self.results[name].with_look(*found)

    def _leader(self) -> str | None:
        able = [one for one in self.results.values() if one.running and one.name not in self.kept]
        return max(able, key=lambda one: one.score).name if able else None

    def drop(self, fold: int) -> None:
        """Drops those that the leader is clearly ahead of."""
        name = self._leader()
        if name is None:
            return
        best = self.results[name]
        for one in list(self.results.values()):
            if one is best or not one.running or one.name in self.kept:
                continue
            against = compared(best, one)
            if against.p < SURPRISE:
                told = (
                    f"dropped after fold {fold}: {best.name} withstood more on {against.gained} of "
                    f"{against.n} images and less on {against.lost} (p = {against.p:.1g})"
                )
                self.results[one.name] = replace(one, dropped=told)
