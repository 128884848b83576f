"""What the sanity flags look at: records as arrays, run by run, and one test of who is stronger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from notsure.evaluation.grouping import Bools
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import tolerance
from notsure.evaluation.threats import CLEAN

SUBSTITUTES = ("oblivious", "transfer")
"""Threats under which the attacker is not told what the guard answers, but what something else
does: how far the attack came is read from `success`, not from the guard's verdict."""

ENSEMBLES = ("AutoAttack",)
"""Attacks whose parts are not all of one kind: gradients first, queries in the end."""

_KEY = ("guard", "threat", "substitute", "probe", "attack", "attack_id", "norm", "eps")


@dataclass(frozen=True, eq=False)
class RunRows:
    """The rows of one attack, with one budget, on one guard under one threat.

    Attributes:
        guard: the guard's name.
        threat: what the attacker knew; "clean" for the clean images.
        substitute: what was attacked in the guard's place, under the threat "transfer".
        probe: the sanity probe that these are rows of; None for ordinary ones.
        attack: the attack's class name.
        attack_id: the attack's identity.
        norm: of the budget.
        eps: the budget.
        rows: where they stand in the records, int64.
    """

    guard: str
    threat: str
    substitute: str | None
    probe: str | None
    attack: str
    attack_id: str | None
    norm: str | None
    eps: float | None
    rows: npt.NDArray[np.int64]

    def __str__(self) -> str:
        words = [] if self.eps is None else [f"{self.norm} {self.eps:.4g}"]
        words.append(self.threat if self.substitute is None else f"transfer from {self.substitute}")
        words += [] if self.probe is None else [f"as the probe {self.probe!r}"]
        return f"{self.attack} ({', '.join(words)}) against {self.guard!r}"


class Evidence:
    """Records as arrays. Masks of images, bool (N,), are over positions in the test set.

    Args:
        records: ordinary rows and those of probes.
    """

    def __init__(self, records: Records) -> None:
        self.records, self.meta = records, records.meta
        self.runs = _runs(records)
        self._index = self.numbers("index").astype(np.int64)
        self.count = int(self._index.max(initial=-1)) + 1

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A column of numbers, NaN where it is null."""
        return np.asarray(self.records.column(name), np.float64)

    def truths(self, name: str) -> Bools:
        """A column of booleans, False where it is null."""
        column = pc.fill_null(self.records.table[name], False)
        return np.asarray(column.to_numpy(zero_copy_only=False), bool)

    @cached_property
    def gradients(self) -> npt.NDArray[np.float64]:
        """Backward passes of each row; 0 where that is not known."""
        return np.nan_to_num(self.numbers("gradients"))

    @cached_property
    def classified(self) -> Bools:
        """Rows whose clean image is classified rightly, accepted or not."""
        right: Bools = self.numbers("clean_prediction") == self.numbers("y")
        return right

    @cached_property
    def right(self) -> Bools:
        """Rows whose clean image is classified rightly and accepted."""
        return self.classified & self.truths("clean_accepted")

    @cached_property
    def fools(self) -> Bools:
        """Rows whose image is accepted and classified wrongly."""
        wrong: Bools = self.numbers("prediction") != self.numbers("y")
        return self.truths("accepted") & wrong

    @cached_property
    def succeeds(self) -> Bools:
        """Rows whose image does what the attack wanted, to what it attacked."""
        return self.truths("success")

    def attacks(self, *, probe: str | None = None) -> list[RunRows]:
        """The runs of attacks that are ordinary, or of one probe."""
        return [run for run in self.runs if run.threat != CLEAN and run.probe == probe]

    def settings(self, run: RunRows) -> dict[str, Any]:
        """The attack's name and hyperparameters; empty where the records do not tell."""
        return dict(self.meta.get("attacks", {}).get(run.attack_id, {}))

    def told(self, guard: str) -> dict[str, Any]:
        """What the records tell of a guard."""
        return dict(self.meta.get("guards", {}).get(guard, {}))

    def uses_gradients(self, run: RunRows) -> bool:
        """Whether the attack took a backward pass at all."""
        return bool((self.gradients[run.rows] > 0).any())

    def covered(self, runs: Iterable[RunRows]) -> Bools:
        """The images that some of these runs have rows of."""
        return self._images(run.rows for run in runs)

    def newly_fooled(self, runs: Iterable[RunRows], norm: str, eps: float) -> Bools:
        """The images that some of these runs fooled the guard with, from within the budget.

        Fooled is accepted and wrong where the clean image was accepted and right.
        """
        limit = eps + tolerance(norm, eps)
        new = self.fools & self.right & (self.numbers(norm) <= limit)
        return self._images(run.rows[new[run.rows]] for run in runs)

    def breakable(self, runs: Iterable[RunRows]) -> Bools:
        """The images that what was attacked got right, and accepted, before these runs."""
        return self._images(run.rows[self._whole(run)] for run in runs)

    def broken(self, runs: Iterable[RunRows]) -> Bools:
        """Those of `breakable` with which some of these runs reached their goal."""
        return self._images(run.rows[self._whole(run) & self._reached(run)] for run in runs)

    def _whole(self, run: RunRows) -> Bools:
        return (self.classified if run.threat in SUBSTITUTES else self.right)[run.rows]

    def _reached(self, run: RunRows) -> Bools:
        return (self.succeeds if run.threat in SUBSTITUTES else self.fools)[run.rows]

    def _images(self, parts: Iterable[npt.NDArray[np.int64]]) -> Bools:
        """The images of these rows."""
        found = np.zeros(self.count, bool)
        for rows in parts:
            found[self._index[rows]] = True
        return found


def is_bare(told: Mapping[str, Any]) -> bool:
    """Whether the guard is its classifier and nothing else."""
    return not any(told.get(part) for part in ("rejects", "detectors", "purifier", "corrector"))


def _runs(records: Records) -> list[RunRows]:
    """The rows by run, in the order in which the runs begin."""
    if len(records) == 0:
        return []
    codes = np.zeros(len(records), np.int64)
    for name in _KEY:
        column = records.table[name].combine_chunks()
        encoded = pc.dictionary_encode(column, null_encoding="encode")
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy(zero_copy_only=False)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    begins = sorted(zip(first.tolist(), parts, strict=True), key=lambda pair: pair[0])
    return [
        RunRows(**{name: records.table[name][start].as_py() for name in _KEY}, rows=rows)
        for start, rows in begins
    ]


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Two attackers on the same images: one who should not win against one who should.

    Attributes:
        n: the images that both have attacked.
        surprising: with how many the one who should not win succeeded.
        expected: with how many the other did.
        gained: how many fell to the former alone.
        lost: how many fell to the latter alone.
        p: one-sided p-value of the exact McNemar test: how often so many or more of the images on
            which they disagree would fall to the former if both were equally strong.
    """

    n: int
    surprising: int
    expected: int
    gained: int
    lost: int
    p: float

    @property
    def advantage(self) -> float:
        """By what share of the images the surprising attacker is ahead; negative where behind."""
        return (self.gained - self.lost) / self.n if self.n else 0.0

    def won(self, *, p: float, by: float) -> bool:
        """Whether the surprising attacker is ahead by at least that share, and not by chance."""
        # shares of counts: 5 of 100 is 5 %
        return self.p < p and self.advantage >= by - 1e-12


def duel(surprising: Bools, expected: Bools, both: Bools) -> Duel:
    """Compares two attackers over the images that both have attacked, each bool (N,)."""
    from scipy.stats import binom

    first, second = surprising & both, expected & both
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    return Duel(
        n=int(both.sum()),
        surprising=int(first.sum()),
        expected=int(second.sum()),
        gained=gained,
        lost=lost,
        p=float(binom.sf(gained - 1, gained + lost, 0.5)),
    )
