"""What fools a substitute, sent to every guard: the transfer matrix (pang Table 4)."""

from __future__ import annotations

from dataclasses import dataclass

from notsure.evaluation.detection import OBLIVIOUS
from notsure.evaluation.grouping import Grouped
from notsure.evaluation.intervals import Rate, rate_of
from notsure.evaluation.records import Records

TRANSFER, ITSELF = "transfer", "itself"


@dataclass(frozen=True, kw_only=True)
class TransferCell:
    """What images made on one network do to one guard.

    Attributes:
        substitute: what the attacker saw; "itself" where it was the guard's own classifier.
        guard: the guard's name.
        attack: the attack's class name.
        attack_id: the identity of attack and settings.
        norm: of the budget; None for attacks without one.
        eps: the budget; None for attacks without one.
        success: fooled (accepted and wrong), over the images that were accepted and right.
        flagged: rejected, over the same images.
    """

    substitute: str
    guard: str
    attack: str
    attack_id: str | None
    norm: str | None
    eps: float | None
    success: Rate
    flagged: Rate


def transfer_matrix(records: Records) -> list[TransferCell]:
    """Every guard under every attack carried over from every substitute.

    Beside them stand, as "itself", the oblivious results of the attacks of the same class, norm and
    eps on the guard's own classifier: what a transfer can come to at best.

    Args:
        records: of one seed; rows of probes are left out.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one.
    """
    grouped = Grouped(records)
    cells = []
    for guard in grouped.guards:
        groups = grouped.attacked(guard)
        carried = {(g.attack, g.norm, g.eps) for g in groups if g.threat == TRANSFER}
        right = grouped.clean_right(guard)
        for group in groups:
            own = group.threat == OBLIVIOUS and (group.attack, group.norm, group.eps) in carried
            if group.threat != TRANSFER and not own:
                continue
            fooled, rejected = grouped.fooled(group), grouped.rejected(group)
            cells += [
                TransferCell(
                    substitute=ITSELF if own else name or "unnamed",
                    guard=guard,
                    attack=group.attack,
                    attack_id=group.attack_id,
                    norm=group.norm,
                    eps=group.eps,
                    success=rate_of(fooled[part][right]),
                    flagged=rate_of(rejected[part][right]),
                )
                for part, name in enumerate(group.substitutes)
            ]
    return cells
