"""Whether an exported guard says what the guard says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from notsure.core.errors import VerificationError
from notsure.core.state import seeded
from notsure.export.running import Answer, ExportedGuard
from notsure.guard import Guard
from notsure.purifiers.base import Shape
from notsure.verdict import Verdict

TOLERANCE = 1e-4
"""How far a score may be off: this, or this share of it where it is larger than 1."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """How an exported guard compares with the guard.

    Attributes:
        count: how many images it was asked about.
        rejected: how many of them the guard rejects.
        largest_difference: between two scores, in their own unit.
        largest_relative_difference: the same, divided by the score where that is larger than 1.
        differing: how many images get another label or are accepted otherwise.
        by_rounding: how many of these are decided by less than the tolerance.
    """

    count: int
    rejected: int
    largest_difference: float
    largest_relative_difference: float
    differing: int
    by_rounding: int

    @property
    def holds(self) -> bool:
        """Whether scores are within the tolerance, and no decision differs by more than it."""
        return self.largest_relative_difference <= TOLERANCE and self.differing == self.by_rounding


def compared(guard: Guard, exported: ExportedGuard, x: torch.Tensor) -> Check:
    """Asks both about images (B, C, H, W) in [0,1] and compares their answers.

    The exported guard is asked in batches of 256, and the first three images once more one by one,
    since a batch of one is where dynamic sizes go wrong.
    """
    verdict = guard.judge(x.to(guard.classifier.device))
    check = _difference(guard, verdict, exported.judge(x.cpu()))
    for row in range(min(3, len(x))):
        single = exported.judge(x[row : row + 1].cpu())
        alone = _difference(guard, verdict.select(slice(row, row + 1)), single)
        if not alone.holds:
            return alone
    return check


def require(check: Check) -> Check:
    """The check, if it holds.

    Raises:
        VerificationError: it does not.
    """
    if not check.holds:
        raise VerificationError(
            f"The exported guard does not say what the guard says: of {check.count} images "
            f"{check.differing} are decided otherwise ({check.by_rounding} of them by rounding), "
            f"and scores differ by up to {check.largest_difference:.3g} "
            f"({check.largest_relative_difference:.3g} relative; allowed is {TOLERANCE:g}). "
            "Nothing was written. A network that amplifies rounding shows this; so does an "
            "operation that the runtime computes otherwise."
        )
    return check


def _difference(guard: Guard, verdict: Verdict, answer: Answer) -> Check:
    largest, relative = 0.0, 0.0
    near = verdict.margin.cpu().abs() <= TOLERANCE
    for name, score in verdict.scores.items():
        own, other = score.double().cpu(), answer.scores[name].double()
        difference = (own - other).abs()
        # equal infinities are no difference; NaN is one
        difference = torch.where(own == other, 0.0, difference).nan_to_num(nan=torch.inf)
        share = difference / own.abs().clamp_min(1)
        largest = max(largest, float(difference.max()))
        relative = max(relative, float(share.max()))
        if guard.calibration is not None:
            distance = (own - guard.calibration.thresholds[name]).abs()
            near |= distance <= TOLERANCE * own.abs().clamp_min(1)
    differing = (verdict.label.cpu() != answer.label) | (verdict.accepted.cpu() != answer.accepted)
    return Check(
        count=len(verdict),
        rejected=int((~verdict.accepted).sum()),
        largest_difference=largest,
        largest_relative_difference=relative,
        differing=int(differing.sum()),
        by_rounding=int((differing & near).sum()),
    )


def random_images(shape: Shape, dtype: torch.dtype, *, count: int = 64) -> torch.Tensor:
    """Images (count, C, H, W) in [0,1]: noise, coarse patterns, and flat ones, always the same."""
    channels, rows, columns = shape
    with seeded(0):
        fine = torch.rand(count, *shape, dtype=dtype)
        blocks = torch.rand(count, channels, 4, 4, dtype=dtype)
        flat = torch.rand(count, channels, 1, 1, dtype=dtype)
    coarse = torch.nn.functional.interpolate(
        blocks, size=(rows, columns), mode="bilinear", align_corners=False
    )
    kinds = torch.stack([fine, coarse, flat.expand_as(fine), 0.8 * coarse + 0.2 * fine])
    which = torch.arange(count) % len(kinds)
    return kinds[which, torch.arange(count)].clamp(0, 1)
