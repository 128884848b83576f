"""Candidates compared by what they withstand on images that set none of their thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from notsure.choosing.attacking import examined, looked_closer
from notsure.choosing.named import file_name
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
    it. So whoever is ahead after a fold is attacked with more effort, on the images of every fold
    so far, until one stays ahead; and who is ahead only under signs that even these attacks are
    weaker than they look is set aside. Candidates that the leader beats so clearly that chance
    hardly does it (p < 0.001, a one-sided paired sign test) are dropped after a fold; if that
    leader is set aside later, they are taken in again, and attacked on what they have missed.

    Args:
        guards: fitted guards by name; they are left calibrated on a part of the images. Of equals
            the earlier one is taken.
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
    for fold in _cut(held_out, settings, folder):
        course.run(fold)
        if fold.number < settings.folds:
            course.drop()
    return ranked(list(course.results.values())), course.left_out


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fold:
    """A part of the images.

    Attributes:
        number: from 1.
        others: the images of all other folds, which set the thresholds.
        attacked: some of its own.
        start: how many images are attacked in the folds before it.
        folder: where records of its attacks are written; None for nowhere.
    """

    number: int
    others: Images
    attacked: Images
    start: int
    folder: Path | None

    def beside(self, ending: str) -> Path | None:
        """A folder for further records of it."""
        return None if self.folder is None else self.folder.with_name(f"{self.folder.name}{ending}")


def check_folds(count: int, settings: Settings) -> None:
    """Checks that so many calibration images do for the folds and the fpr.

    Raises:
        ConfigurationError: they are too few.
    """
    largest = math.ceil(count / settings.folds)
    fewest = count - largest
    if count < settings.folds or fewest * settings.fpr < 1:
        raise ConfigurationError(
            f"Of {count} calibration images {fewest} are left in each of {settings.folds} "
            f"folds, which cannot resolve a false-positive rate of {settings.fpr:g}: that takes "
            f"{math.ceil(1 / settings.fpr)}. Give more images or a larger fpr."
        )


def _cut(held_out: Images, settings: Settings, folder: Path | None) -> list[_Fold]:
    check_folds(len(held_out), settings)
    order = np.random.default_rng(settings.seed).permutation(len(held_out))
    folds = np.array_split(order, settings.folds)
    sizes = [len(one) for one in np.array_split(np.arange(settings.count), settings.folds)]
    found: list[_Fold] = []
    start = 0
    for number, (own, size) in enumerate(zip(folds, sizes, strict=True), start=1):
        others = np.concatenate([one for at, one in enumerate(folds, start=1) if at != number])
        fold = _Fold(
            number=number,
            others=held_out.select(np.sort(others)),
            attacked=held_out.select(own[:size]),
            start=start,
            folder=None if folder is None else folder / f"fold-{number}",
        )
        found.append(fold)
        start += len(fold.attacked)
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
        self.folds: list[_Fold] = []
        self.results: dict[str, Result] = {}
        self.left_out: dict[str, str] = {}
        self._calibrated: dict[str, int] = {}

    def run(self, fold: _Fold) -> None:
        """Attacks on a fold all who are still running, and settles who is ahead."""
        running = [
            name
            for name in self.guards
            if name not in self.left_out
            and (name not in self.results or self.results[name].running)
        ]
        self.folds.append(fold)
        ready = [name for name in running if self._done(name, partial(self._calibrate, name, fold))]
        self._examine(ready, fold)
        self._settle_the_lead()

    def drop(self) -> None:
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
                    f"dropped after fold {self.folds[-1].number}: {best.name} withstood more on "
                    f"{against.gained} of {against.n} images and less on {against.lost} (one-sided "
                    f"paired sign test, p = {against.p:.1g})"
                )
                self.results[one.name] = replace(one, dropped=told, behind=best.name)

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
            self._take_in_again(name)
            return None

    def _calibrate(self, name: str, fold: _Fold) -> bool:
        """Sets a guard's thresholds on the other folds, unless they are set so."""
        if self._calibrated.get(name) != fold.number:
            self.guards[name].calibrate(fold.others, fpr=self.settings.fpr)
            self._calibrated[name] = fold.number
        return True

    def _examine(self, names: Sequence[str], fold: _Fold) -> None:
        """Attacks with the suite: all together, or if that fails one by one to find out who."""
        guards = {name: self.guards[name] for name in names}
        try:
            found = examined(guards, fold.attacked, self.settings, fold.folder, self.progress)
        except CheckpointError:
            raise
        except NotSureError:
            if not set(guards) & set(self.optional):
                raise
            for place, name in enumerate(guards):
                self._examine_alone(name, fold, f"-{place}")
            return
        for name, result in found.items():
            self._enter(name, result)

    def _examine_alone(self, name: str, fold: _Fold, ending: str) -> None:
        where, own = fold.beside(ending), {name: self.guards[name]}
        work = partial(examined, own, fold.attacked, self.settings, where, self.progress)
        found = self._done(name, work)
        if found is not None:
            self._enter(name, found[name])

    def _enter(self, name: str, result: Result) -> None:
        before = self.results.get(name)
        self.results[name] = result if before is None else before.with_fold(result)

    def _settle_the_lead(self) -> None:
        """Looks closer at whoever is ahead, until that is somebody who was looked at throughout."""
        while (name := self._leader()) is not None:
            looked = self.results[name].looked
            fold = next((one for one in self.folds if one.number not in looked), None)
            if fold is None:
                return
            self._look_closer(name, fold)

    def _look_closer(self, name: str, fold: _Fold) -> None:
        self._calibrate(name, fold)
        work = partial(
            looked_closer,
            name,
            self.guards[name],
            fold.attacked,
            self.settings,
            fold.folder,
            self.progress,
        )
        found = self._done(name, work)
        if found is not None:
            outcomes, doubts = found
            self.results[name] = self.results[name].with_look(
                fold.number, fold.start, outcomes, doubts
            )
            if doubts:
                self._take_in_again(name)

    def _take_in_again(self, former: str) -> None:
        """Makes up for what those have missed who were dropped for a leader that is out."""
        back = [one for one in self.results.values() if one.behind == former]
        for one in back:
            self.results[one.name] = replace(one, dropped="", behind="")
            for fold in self.folds[one.folds :]:
                if one.name in self.left_out:
                    break
                self._calibrate(one.name, fold)
                self._examine_alone(one.name, fold, f"-{file_name(one.name)}-again")

    def _leader(self) -> str | None:
        able = [one for one in self.results.values() if one.running and one.name not in self.kept]
        return ranked(able)[0].name if able else None
