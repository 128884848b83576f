"""The rows of records that a figure is over: one guard's, under one attack and threat."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from notsure.attacks import Attack
from notsure.core.errors import ConfigurationError
from notsure.evaluation import Records
from notsure.evaluation.threats import CLEAN

_ADAPTED: Mapping[str, Any] = {"gradient": {"name": "Autograd"}, "early_stop": True}
"""The settings of which a threat changes these values to what suits the guard."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """An attack as a study declares it, to be found again among the attacks of records.

    Attributes:
        name: its class's name.
        attack: the attack; None for one that is fitted first.
        settings: of one that is fitted first, those that the study gives.
    """

    name: str
    attack: Attack | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, attack: Attack) -> Declared:
        """That of an attack."""
        return cls(name=attack.name, attack=attack)

    def changes(self, told: Mapping[str, Any], eps: float | None) -> int | None:
        """How many settings a threat has changed; None where it is another attack.

        Args:
            told: the name and the settings of an attack, as records' meta has them.
            eps: the budget that it was run with.
        """
        if told.get("name") != self.name:
            return None
        found = [_changes(settings, told) for settings in self._settings(eps)]
        return min((count for count in found if count is not None), default=None)

    def _settings(self, eps: float | None) -> Iterator[Mapping[str, Any]]:
        """Its settings, and those that it has in an evaluation's budget."""
        if self.attack is None:
            yield self.settings
            return
        yield self.attack.settings()
        with_eps = getattr(self.attack, "with_eps", None)
        if eps is not None and with_eps is not None:
            yield with_eps(eps).settings()


def _changes(settings: Mapping[str, Any], told: Mapping[str, Any]) -> int | None:
    # records' meta has gone through JSON
    ours = json.loads(json.dumps(dict(settings)))
    different = [key for key, value in ours.items() if told.get(key) != value]
    if any(ours[key] != _ADAPTED.get(key) for key in different):
        return None
    return len(different)


def clean_rows(records: Records, guard: str) -> Records:
    """The clean images of a guard.

    Raises:
        ConfigurationError: the records hold none.
    """
    found = records.where(guard=guard, threat=CLEAN, probe=None)
    if len(found) == 0:
        raise ConfigurationError(
            f"The records hold no clean images of the guard {guard!r}; they hold those of "
            f"{', '.join(records.guards) or 'none'}."
        )
    return found


def attacked_rows(
    records: Records,
    *,
    guard: str,
    threat: str,
    attack: Declared,
    eps: float | None = None,
    substitute: str | None = None,
) -> list[Records]:
    """The images of one attack on a guard, each time with the clean ones, by rising budget.

    Args:
        records: of one seed.
        guard: its name.
        threat: what the attacker knew.
        attack: which attack; as a threat may have changed it, the one that is most like it.
        eps: which budget; None for all that there are.
        substitute: what a transfer was made from; None where there is one only.

    Returns:
        Clean and attacked images, one table for each budget; of an attack without a budget one.

    Raises:
        ConfigurationError: there are no such rows, or they are of several attacks or substitutes.
    """
    clean = clean_rows(records, guard)
    own = records.where(guard=guard, threat=threat, probe=None)
    if substitute is not None:
        own = own.where(substitute=substitute)
    found = _budgets(own, attack)
    if any(size is not None for size in found) and eps is not None:
        found = {size: its for size, its in found.items() if math.isclose(size or 0.0, eps)}
    if not found:
        at = "" if eps is None else f" within eps {eps:g}"
        raise ConfigurationError(
            f"The records hold no {attack.name} with the settings of the study against {guard!r} "
            f"under {threat}{at}; they hold {_listed(own)}."
        )
    return [
        _together(clean, own.where(attack_id=its, eps=size))
        for size, its in sorted(found.items(), key=lambda one: one[0] or 0.0)
    ]


def _budgets(own: Records, attack: Declared) -> dict[float | None, str]:
    """The budgets that an attack was run with, and its identity with each."""
    likeness: dict[float | None, dict[str, int]] = {}
    sources: dict[str, set[str | None]] = {}
    for identity, eps, source in own.distinct("attack_id", "eps", "substitute"):
        changed = attack.changes(own.meta["attacks"].get(identity, {}), eps)
        if changed is not None:
            likeness.setdefault(eps, {})[identity] = changed
            sources.setdefault(identity, set()).add(source)
    found = {}
    for eps, its in likeness.items():
        least = min(its.values())
        best = [identity for identity, changed in its.items() if changed == least]
        if len(best) > 1:
            raise ConfigurationError(
                f"The records hold several {attack.name} that may be the one that the study "
                "declares: the threat has changed their settings to the same or to others. Leave "
                "one out, or put it into an evaluation of its own."
            )
        if len(sources[best[0]]) > 1:
            raise ConfigurationError(
                f"The images of {attack.name} come from {', '.join(map(str, sources[best[0]]))}: "
                "say from which, substitute: ..."
            )
        found[eps] = best[0]
    return found


def _listed(own: Records) -> str:
    there = [
        name if eps is None else f"{name} within eps {eps:g}"
        for name, eps in own.distinct("attack", "eps")
    ]
    return ", ".join(there) or "nothing"


def _together(clean: Records, attacked: Records) -> Records:
    table = pa.concat_tables([clean.table, attacked.table])
    return Records(table, clean.meta)
