"""What became of each image of one guard under everything that came within a budget."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from notsure.core.errors import ConfigurationError
from notsure.evaluation.grouping import Array, Bools
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import tolerance
from notsure.evaluation.threats import CLEAN


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of each image, all bool (N,) in the order of the test set.

    Attributes:
        right: accepted and right, unattacked.
        rejected: rejected, unattacked.
        fooled: accepted and wrong, unattacked or after any attack within the budget.
        held: accepted and right, unattacked and after every attack within the budget.
    """

    right: Bools
    rejected: Bools
    fooled: Bools
    held: Bools


def outcomes(
    records: Records,
    *,
    norm: str,
    eps: float,
    threats: Collection[str] | None = None,
    attack_id: str | None = None,
) -> Outcomes:
    """Reads off records what `robustness` counts as the worst case, image by image.

    Args:
        records: of one guard and one seed, over a whole test set.
        norm: in which distances are measured.
        eps: the largest distance of what counts.
        threats: the threats whose attacks count; None for all. The clean image always does.
        attack_id: the attack that counts; None for all.

    Raises:
        ConfigurationError: the records are of several guards.
    """
    if len(records.guards) != 1:
        raise ConfigurationError(
            f"Outcomes are those of one guard; the records are of {len(records.guards)}: "
            "records.where(guard=...)."
        )
    records = records.ordinary()
    index, threat = records.column("index"), records.column("threat")
    accepted = records.column("accepted").astype(bool)
    wrong = np.asarray(records.column("prediction") != records.column("y"))
    clean = np.asarray(threat == CLEAN)
    counts = records.column(norm).astype(np.float64) <= eps + tolerance(norm, eps)
    if threats is not None:
        counts &= np.isin(threat, list(threats))
    if attack_id is not None:
        counts &= records.column("attack_id") == attack_id
    counts |= clean

    def any_of(mask: Array) -> Bools:
        """Which images (N,) have a row in the mask."""
        found = np.zeros(int(records.meta["count"]), bool)
        found[index[mask]] = True
        return found

    fooled = any_of(accepted & wrong & counts)
    return Outcomes(
        right=any_of(clean & accepted & ~wrong),
        rejected=any_of(clean & ~accepted),
        fooled=fooled,
        held=~fooled & ~any_of(~accepted & counts),
    )
