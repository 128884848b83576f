"""Rates and areas under the ROC curve, each with its n and its 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from notsure.core.errors import ConfigurationError

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution, for two-sided 95 % intervals."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of n samples with its 95 % Wilson interval; all in [0,1], NaN where n is 0.

    Attributes:
        count: how many.
        n: of how many.
        value: count / n.
        low: where the interval begins.
        high: where it ends.
    """

    count: int
    n: int
    value: float
    low: float
    high: float


def wilson(count: int, n: int) -> Rate:
    """A rate with Wilson's score interval at 95 %.

    Args:
        count: how many samples have it.
        n: of how many.

    Raises:
        ConfigurationError: count is not between 0 and n.
    """
    if not 0 <= count <= n:
        raise ConfigurationError(f"A rate needs 0 <= count <= n; got {count} of {n}.")
    if n == 0:
        return Rate(count=0, n=0, value=math.nan, low=math.nan, high=math.nan)
    share = count / n
    centre = share + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return Rate(
        count=count,
        n=n,
        value=share,
        low=max(0.0, (centre - half) / scale) if count else 0.0,
        high=min(1.0, (centre + half) / scale) if count < n else 1.0,
    )


def rate_of(mask: npt.NDArray[np.bool_]) -> Rate:
    """The share of true entries of a mask (n,)."""
    return wilson(int(mask.sum()), len(mask))


@dataclass(frozen=True, kw_only=True)
class Area:
    """An area under the ROC curve with adversarial as the positive class.

    Attributes:
        value: chance that an adversarial image scores higher than a clean one, ties half; NaN
            where there is none of either.
        low: end of the 95 % interval, Newcombe's score interval (2006, his method 5): an area whose
            own variance, after Hanley & McNeil 1982, puts the value 1.96 standard deviations away.
            Other than an interval by the variance of the value it has a width at 0 and 1, too.
        high: other end.
        positives: number of adversarial images.
        negatives: number of clean images.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int


def area_under_roc(clean: npt.ArrayLike, adversarial: npt.ArrayLike) -> Area:
    """The area under the ROC curve of scores, higher = more adversarial.

    Args:
        clean: scores of clean images, (N,).
        adversarial: scores of adversarial ones, (M,), the positive class.

    Raises:
        ConfigurationError: a score is NaN.
    """
    negatives, positives = _scores(clean), _scores(adversarial)
    m, n = len(positives), len(negatives)
    if m == 0 or n == 0:
        return Area(value=math.nan, low=math.nan, high=math.nan, positives=m, negatives=n)
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left")
    not_above = np.searchsorted(ordered, positives, "right")
    value = float((below + not_above).mean() / (2 * n))
    return Area(
        value=value,
        low=_low_end(value, m, n),
        high=1 - _low_end(1 - value, m, n),
        positives=m,
        negatives=n,
    )


def _low_end(value: float, m: int, n: int) -> float:
    """The smallest area that m positives and n negatives may well show as this one."""
    mean = (m + n) / 2 - 1

    def beyond(area: float) -> float:
        spread = 1 + mean * ((1 - area) / (2 - area) + area / (1 + area))
        return (value - area) ** 2 * m * n - Z95**2 * area * (1 - area) * spread

    low, high = 0.0, value
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > 0 else (low, middle)
    return low


def false_positive_rate_at(
    clean: npt.ArrayLike, adversarial: npt.ArrayLike, tpr: float = 0.95
) -> Rate:
    """The share of clean images that are flagged where `tpr` of the adversarial ones are.

    The threshold is the highest that at least `tpr` of the adversarial scores are above or at; the
    rate is the share of clean scores above or at it. The interval takes the threshold as given.

    Args:
        clean: scores (n,), higher = more adversarial.
        adversarial: scores (m,).
        tpr: share in (0,1] of adversarial images to be flagged.

    Returns:
        The rate over the clean images; over none where there is no adversarial one.

    Raises:
        ConfigurationError: a score is NaN, or tpr is not in (0,1].
    """
    if not 0 < tpr <= 1:
        raise ConfigurationError(f"tpr is a share in (0,1], such as 0.95; got {tpr}.")
    negatives, positives = _scores(clean), _scores(adversarial)
    if len(positives) == 0:
        return wilson(0, 0)
    # 0.07 * 100 is a little more than 7 in floating point
    flagged = math.ceil(tpr * len(positives) - 1e-9)
    threshold = np.sort(positives)[len(positives) - flagged]
    return rate_of(negatives >= threshold)


def _scores(values: npt.ArrayLike) -> _Floats:
    scores = np.asarray(values, np.float64)
    missing = int(np.isnan(scores).sum())
    if missing:
        raise ConfigurationError(
            f"{missing} of {len(scores)} scores are NaN: no order can be made of them. A detector "
            "that yields NaN is broken, or the rows are of a guard without that detector."
        )
    return scores
