"""What a caller wants to be run: attacks or a suite, threats, budgets and substitutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from notsure.attacks import Attack, Distilled
from notsure.classifier import as_target
from notsure.core.errors import ConfigurationError
from notsure.core.state import weights_hash
from notsure.core.target import Target
from notsure.evaluation.plan import Plan, crossed
from notsure.evaluation.pupils import Pupil
from notsure.evaluation.suites import DISTILLED, check_suite, suite_plan, taught_by
from notsure.evaluation.threats import NAMES, Threat, TransferFrom, threat_named
from notsure.guard import Guard

Substitutes = Mapping[str, Target | nn.Module]
"""By name, what transfers are made from."""


class Wanted:
    """What the caller of `notsure.evaluate` asked for, see there."""

    def __init__(
        self,
        attacks: Sequence[Attack] | Mapping[str, Sequence[Attack]] | None,
        threats: str | Sequence[str | Threat] | None,
        suite: str | None,
        eps: Sequence[float | str] | None,
        norm: str,
        substitutes: Substitutes,
        taught: Mapping[str, Distilled],
    ) -> None:
        if attacks is not None and (suite is not None or threats == "all"):
            raise ConfigurationError(
                "A suite and threats='all' choose the attacks themselves: leave attacks out, or "
                "name the threats that they are to be run under."
            )
        if isinstance(threats, str) and threats != "all":
            raise ConfigurationError(f"threats is 'all' or a list, such as [{threats!r}].")
        self.suite = check_suite(suite or "standard") if attacks is None else None
        self.attacks, self.eps, self.norm = attacks, eps, norm
        self.substitutes, self.taught = substitutes, taught
        # one target for all guards, so that they share what is made on it
        self.targets = {name: as_target(one) for name, one in substitutes.items()}
        self.threats = threats
        self.pupils: dict[str, Pupil] = {}
        if self.suite is not None and DISTILLED in substitutes:
            raise ConfigurationError(
                f"{DISTILLED!r} is what a suite calls the substitute that it teaches itself: give "
                "yours another name."
            )

    def plan_for(self, name: str, guard: Guard, x: torch.Tensor, seed: int) -> Plan:
        """What is run against a guard."""
        if self.suite is None:
            return crossed(self._threats(), self.attacks or (), self.eps)
        chosen = NAMES if self.threats in (None, "all") else self._names()
        substitutes: dict[str, Target] = dict(self.targets)
        if TransferFrom.name in chosen:
            before, suite = self.taught.get(name), self.suite
            pupil = Pupil(lambda: before or taught_by(guard, x, suite, seed))
            substitutes[DISTILLED] = self.pupils[name] = pupil
        return suite_plan(
            guard,
            self.suite,
            self.eps or (),
            norm=self.norm,
            threats=chosen,
            substitutes=substitutes,
        )

    def _names(self) -> list[str]:
        given = [one for one in self.threats or () if not isinstance(one, str)]
        if given:
            raise ConfigurationError(
                "A suite takes the names of threats; substitutes are given by substitutes={...}."
            )
        return [str(one) for one in self.threats or ()]

    def _threats(self) -> list[Threat]:
        threats = self.threats
        if threats is None:
            carried = [TransferFrom.name] if self.substitutes else []
            threats = ["oblivious", "white-box", *carried]
        found: list[Threat] = []
        for one in threats:
            if one == TransferFrom.name and self.substitutes:
                found += [TransferFrom(by, called) for called, by in self.targets.items()]
            else:
                found.append(threat_named(one))
        return found

    def description(self, *, taught: bool) -> dict[str, Any]:
        """The substitutes for the records' meta: their weights, or how well they were taught.

        Args:
            taught: whether the suite's own may be taught now, where they are not yet.
        """
        found: dict[str, Any] = {
            name: weights_hash(one) if isinstance(one, nn.Module) else type(one).__name__
            for name, one in self.substitutes.items()
        }
        for name, pupil in self.pupils.items():
            found[f"{DISTILLED} from {name}"] = _how_well(pupil.taught) if taught else None
        return found


def _how_well(taught: Distilled) -> dict[str, Any]:
    return {"agreement": taught.agreement, "queries": taught.queries}
