"""What is left of a guard under attack: robust accuracy, lenient and strict, and worst cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from notsure.evaluation.grouping import Bools, Group, Grouped
from notsure.evaluation.intervals import Rate, rate_of
from notsure.evaluation.records import Records

WORST_CASE = "worst case"
"""The attack column of rows that take, sample by sample, the worst over all attacks."""

TOLERANCE = 1e-6
"""How far an image may be beyond a budget and still count, as the attacks' own judge has it."""
ROUNDING = 1e-5
"""The same for sums over all values of an image, l1 and l2, as a share of the budget."""


@dataclass(frozen=True)
class Run:
    """What a row of figures is about.

    Attributes:
        guard: the guard's name.
        threat: what the attacker knew.
        attack: the attack's class name, or "worst case".
        attack_id: the identity of attack and settings; None for the worst case.
        norm: of the budget; None for attacks without one.
        eps: the budget; None for attacks without one.
    """

    guard: str
    threat: str
    attack: str
    attack_id: str | None
    norm: str | None
    eps: float | None


@dataclass(frozen=True, kw_only=True)
class RobustnessRow(Run):
    """What is left of a guard under one attack, or under the worst of all, sample by sample.

    The worst case within a budget takes all that the attacker can send: the clean image, and
    whatever any attack found under this threat or one that it includes, at this eps or a smaller
    one, with or without a budget, in this norm or another, as far as its distance in this norm is
    within the eps. Where an attack was carried over from several substitutes, the attacker tries
    them all, and its row is the worst of them.

    Attributes:
        clean_accuracy: clean images that are accepted and right, over all.
        clean_rejection: clean images that are rejected, over all.
        lenient: robust accuracy counting a rejected input as safe: not (accepted and wrong).
        strict: robust accuracy counting a rejected input as lost: accepted and right.
        success: fooled (accepted and wrong) over the images that were accepted and right.
        right: accepted and right, over all; in a worst case, under every attack. With `wrong` and
            `flagged` it makes up all images (wester's split, Fig. 8).
        wrong: accepted and wrong, over all; in a worst case, under any attack.
        flagged: the others, over all: rejected; in a worst case, by any attack's doing.
    """

    clean_accuracy: Rate
    clean_rejection: Rate
    lenient: Rate
    strict: Rate
    success: Rate
    right: Rate
    wrong: Rate
    flagged: Rate


def robustness(records: Records) -> list[RobustnessRow]:
    """Robust accuracy of every guard under every threat, attack and eps.

    The worst cases come last under each threat: one for every budget, by rising eps, that was tried
    under it or under a threat that it includes. An attack without a budget tries all that the guard
    was attacked with; what nobody has tried has no row, since it would look like robustness. Under
    a threat that knows minimum-norm attacks alone there is one more without a budget (norm and eps
    are None), over images at any distance.

    Args:
        records: of one seed; rows of probes are left out.

    Raises:
        ConfigurationError: an attack does not cover the clean images one to one.
    """
    grouped = Grouped(records)
    return [row for guard in grouped.guards for row in _of_guard(grouped, guard)]


def _of_guard(grouped: Grouped, guard: str) -> list[RobustnessRow]:
    outcomes = _Outcomes(grouped, guard)
    groups = grouped.attacked(guard)
    budgets = _rising(groups)
    rows = []
    for threat in grouped.threats(guard):
        own = [group for group in groups if group.threat == threat]
        rows += [
            outcomes.row(
                Run(*group.key),
                np.any(grouped.fooled(group), axis=0),
                np.any(grouped.rejected(group), axis=0),
            )
            for group in own
        ]
        known = grouped.includes(threat)
        tried = {(group.norm, group.eps) for group in groups if group.threat in known}
        anywhere = any(eps is None for _, eps in tried)
        unbounded = all(group.eps is None for group in own)
        for norm, eps in [
            *(budget for budget in budgets if anywhere or budget in tried),
            *([(None, None)] if unbounded else []),
        ]:
            fooled, rejected = outcomes.worst(known, norm, eps)
            run = Run(guard, threat, WORST_CASE, None, norm, eps)
            rows.append(outcomes.row(run, fooled, rejected))
    return rows


def _rising(groups: Sequence[Group]) -> list[tuple[str | None, float]]:
    """The budgets of some groups: norms in the order of the groups, each by rising eps."""
    norms = list(dict.fromkeys(group.norm for group in groups))
    budgets = {(group.norm, group.eps) for group in groups if group.eps is not None}
    return sorted(budgets, key=lambda budget: (norms.index(budget[0]), budget[1]))


class _Outcomes:
    """What became of every image of one guard under everything that it was attacked with."""

    def __init__(self, grouped: Grouped, guard: str) -> None:
        self.grouped, self.clean = grouped, grouped.clean(guard)
        self.groups = grouped.attacked(guard)
        self.right = grouped.clean_right(guard)
        self.clean_accuracy = rate_of(self.right)
        self.clean_rejection = rate_of(grouped.rejected(self.clean)[0])
        self.fooled = [grouped.fooled(group) for group in self.groups]
        self.rejected = [grouped.rejected(group) for group in self.groups]

    def worst(self, threats: set[str], norm: str | None, eps: float | None) -> tuple[Bools, Bools]:
        """Which images (n,) are fooled, and which rejected, by anything within the budget."""
        fooled = self.grouped.fooled(self.clean)[0]
        rejected = self.grouped.rejected(self.clean)[0]
        for group, wrong, flagged in zip(self.groups, self.fooled, self.rejected, strict=True):
            if group.threat in threats:
                within = self._within(group, norm, eps)
                fooled |= (wrong & within).any(axis=0)
                rejected |= (flagged & within).any(axis=0)
        return fooled, rejected

    def _within(self, group: Group, norm: str | None, eps: float | None) -> Bools:
        if norm is None or eps is None:
            return np.ones(group.rows.shape, bool)
        distance = self.grouped.of(group, norm).astype(np.float64)
        return np.asarray(distance <= eps + tolerance(norm, eps))

    def row(self, run: Run, fooled: Bools, rejected: Bools) -> RobustnessRow:
        """The figures of images (n,) that are fooled or rejected."""
        held = ~fooled & ~rejected
        return RobustnessRow(
            **vars(run),
            clean_accuracy=self.clean_accuracy,
            clean_rejection=self.clean_rejection,
            lenient=rate_of(~fooled),
            strict=rate_of(held),
            success=rate_of(fooled[self.right]),
            right=rate_of(held),
            wrong=rate_of(fooled),
            flagged=rate_of(rejected & ~fooled),
        )


def tolerance(norm: str, eps: float) -> float:
    """How far a distance in float32 may be beyond a budget by rounding alone."""
    return TOLERANCE + (ROUNDING * eps if norm in {"l1", "l2"} else 0.0)


def accuracy_against_eps(
    records: Records, *, attack: str = WORST_CASE
) -> dict[tuple[str, str, str], list[RobustnessRow]]:
    """Rows by eps for each (guard, threat, norm), starting from the clean images at eps 0.

    Args:
        records: as `robustness` takes them.
        attack: the class name of the attack whose rows are meant; by default the worst case.
    """
    grouped = Grouped(records)
    curves: dict[tuple[str, str, str], list[RobustnessRow]] = {}
    for guard in grouped.guards:
        for row in _of_guard(grouped, guard):
            if row.attack == attack and row.norm is not None:
                curves.setdefault((row.guard, row.threat, row.norm), []).append(row)
    for (guard, threat, norm), rows in curves.items():
        rows.sort(key=lambda row: row.eps or 0.0)
        if rows[0].eps:
            outcomes = _Outcomes(grouped, guard)
            start = Run(guard, threat, attack, None, norm, 0.0)
            rows.insert(0, outcomes.row(start, *outcomes.worst(set(), None, None)))
    return curves
