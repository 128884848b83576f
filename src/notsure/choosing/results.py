"""What cross-validation asks and what it says of each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from notsure.core.errors import ConfigurationError
from notsure.evaluation import Rate
from notsure.evaluation.evidence import Duel, duel
from notsure.evaluation.grouping import Bools
from notsure.evaluation.intervals import rate_of
from notsure.evaluation.outcomes import Outcomes
from notsure.evaluation.suites import check_suite


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How candidates are compared.

    Attributes:
        fpr: the share of clean images that a guard may reject.
        eps: the budgets in [0,1] pixel units, ascending.
        norm: of the budgets, "linf" or "l2".
        suite: whose attacks are run, under the oblivious and the white-box threat.
        folds: in how many parts the calibration images are cut.
        count: how many images are attacked in all folds together.
        seed: of the cut and the attacks.
        batch_size: how many images are attacked at a time.

    Raises:
        ConfigurationError: there is no such suite, there are fewer than 2 folds, or fewer images
            than folds.
    """

    fpr: float
    eps: tuple[float, ...]
    norm: str = "linf"
    suite: str = "quick"
    folds: int = 3
    count: int = 200
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_suite(self.suite)
        if self.folds < 2:
            raise ConfigurationError(f"Cross-validation takes at least 2 folds; got {self.folds}.")
        if self.count < self.folds:
            raise ConfigurationError(
                f"Each of {self.folds} folds needs an image to attack; got count={self.count}."
            )


@dataclass(frozen=True, eq=False)
class Result:
    """What cross-validation says of one candidate.

    Attributes:
        name: the candidate's.
        oblivious: at each eps, what the attacks that know nothing of the guard leave.
        white_box: at each eps, what all attacks leave, those that know the guard included.
        folds: in how many it took part.
        looked: the numbers of those in which it was attacked with more effort, for being ahead.
        dropped: why it was dropped after a fold; empty where it was not.
        behind: the name of the one that it was dropped for; empty where it was not.
        doubts: the signs that even then the attacks were weaker than they look.
    """

    name: str
    oblivious: tuple[Outcomes, ...]
    white_box: tuple[Outcomes, ...]
    folds: int = 1
    looked: tuple[int, ...] = ()
    dropped: str = ""
    behind: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether it takes part in the next fold."""
        return not self.dropped and not self.doubts

    @property
    def clean_accuracy(self) -> Rate:
        """Clean images that are accepted and right, over all."""
        return rate_of(self.white_box[0].right)

    @property
    def clean_rejection(self) -> Rate:
        """Clean images that are rejected, over all."""
        return rate_of(self.white_box[0].rejected)

    @property
    def share(self) -> Fraction:
        """Robust accuracy, lenient, in the worst case over all attacks, a mean over the eps."""
        cases = len(self.white_box) * len(self.white_box[0].fooled)
        return Fraction(int(self.withstood().sum()), cases)

    @property
    def score(self) -> float:
        """The same as a float."""
        return float(self.share)

    def withstood(self) -> npt.NDArray[np.int64]:
        """At how many of the eps each image is withstood, int64 (n,)."""
        return np.asarray(sum((~one.fooled).astype(np.int64) for one in self.white_box))

    def with_fold(self, other: Result) -> Result:
        """With what another fold has come to."""
        return replace(
            self,
            oblivious=tuple(map(_joined, self.oblivious, other.oblivious)),
            white_box=tuple(map(_joined, self.white_box, other.white_box)),
            folds=self.folds + other.folds,
        )

    def with_look(
        self, fold: int, start: int, found: tuple[Outcomes, ...], doubts: tuple[str, ...]
    ) -> Result:
        """With what more effort has come to on the images of a fold, which begin at `start`.

        Args:
            fold: its number.
            start: the first of its images.
            found: by budget, what was found on them.
            doubts: signs that this was not enough either.
        """
        return replace(
            self,
            white_box=tuple(
                _worse(before, own, start)
                for before, own in zip(self.white_box, found, strict=True)
            ),
            looked=(*self.looked, fold),
            doubts=(*self.doubts, *doubts),
        )


def compared(first: Result, second: Result) -> Duel:
    """Two candidates on the images that both were attacked with.

    `gained` counts the images that the first withstands at more of the eps, `lost` those that the
    second does; p is that of the paired sign test, one-sided: how often the first would be ahead
    by as much if both were equally good.
    """
    n = min(len(first.withstood()), len(second.withstood()))
    one, other = first.withstood()[:n], second.withstood()[:n]
    return duel(one > other, other > one, np.ones(n, bool))


def ranked(results: Sequence[Result]) -> list[Result]:
    """Best first: those that were believed to the end, those that were dropped, the doubtful.

    Of two that withstand the same the one is first that gets more clean images right; of equals in
    that as well the one that came first.
    """
    return sorted(
        results,
        key=lambda one: (
            bool(one.doubts),
            bool(one.dropped),
            -one.share,
            -one.clean_accuracy.value,
        ),
    )


def _joined(first: Outcomes, second: Outcomes) -> Outcomes:
    def both(name: str) -> Bools:
        return np.concatenate([getattr(first, name), getattr(second, name)])

    return Outcomes(both("right"), both("rejected"), both("fooled"), both("held"))


def _worse(before: Outcomes, found: Outcomes, start: int) -> Outcomes:
    """What is left where the images from `start` on met further attacks."""
    fooled, held = before.fooled.copy(), before.held.copy()
    own = slice(start, start + len(found.fooled))
    fooled[own] |= found.fooled
    held[own] &= found.held
    return Outcomes(before.right, before.rejected, fooled, held)
