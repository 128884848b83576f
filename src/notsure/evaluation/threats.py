"""Threats: what an attacker knows decides which target is attacked, and for how long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from notsure.attacks import BPDA, EOT, Attack
from notsure.attacks.problem import AUTOGRAD, GradientSource
from notsure.classifier import as_target
from notsure.core.errors import ConfigurationError
from notsure.core.target import Access, Target
from notsure.guard import Guard
from notsure.views import DecisionsOnly, ScoresOnly

CLEAN = "clean"
"""The threat column of the records of clean images."""


@dataclass(frozen=True)
class Threat(ABC):
    """What an attacker knows of a guard.

    Threats are ordered in part: one includes another if its attacker can do all that the other's
    can. The worst case under a threat counts the attacks of those that it includes.
    """

    name: ClassVar[str]
    includes: ClassVar[tuple[str, ...]] = ()
    """The names of the threats whose attackers can do no more than this one's."""
    sees_verdict: ClassVar[bool]
    """Whether the attacker is told what the guard answers, and goes on until that is wrong."""

    @property
    def substitute_name(self) -> str | None:
        """What the substitute is called, where one is attacked in the guard's place."""
        return None

    @abstractmethod
    def target(self, guard: Guard) -> Target:
        """What the attacker sees of the guard."""

    def adapt(self, attack: Attack, guard: Guard) -> Attack:
        """The attack as such an attacker runs it.

        Who sees gradients goes through what declares itself hard (BPDA) and averages over chance
        (EOT), unless the attack was given a gradient source of its own.

        Args:
            attack: as it was given.
            guard: what is attacked.
        """
        return _suited(attack, self.target(guard))


def _suited(attack: Attack, target: Target) -> Attack:
    if attack.needs < Access.GRADIENTS or getattr(attack, "gradient", None) != AUTOGRAD:
        return attack
    source: GradientSource = AUTOGRAD if target.differentiable else BPDA()
    if target.stochastic:
        source = EOT(of=source)
    return replace(attack, gradient=source) if source != AUTOGRAD else attack  # type: ignore[call-arg]


def _to_its_end(attack: Attack) -> Attack:
    if getattr(attack, "early_stop", False):
        return replace(attack, early_stop=False)  # type: ignore[call-arg]
    return attack


@dataclass(frozen=True)
class Oblivious(Threat):
    """Sees the bare classifier and does not know that anything may be rejected.

    Such an attacker has no reason to stop at the decision boundary, so against a guard with
    detectors the search goes on to its end (`early_stop=False`): images that were left just across
    the boundary are easy to detect, and would flatter every detector.
    """

    name: ClassVar[str] = "oblivious"
    sees_verdict: ClassVar[bool] = False

    def target(self, guard: Guard) -> Target:
        """The classifier."""
        return guard.classifier

    def adapt(self, attack: Attack, guard: Guard) -> Attack:
        """Runs to its end."""
        attack = super().adapt(attack, guard)
        return _to_its_end(attack) if guard.rejects else attack


@dataclass(frozen=True)
class WhiteBox(Threat):
    """Sees the whole guard: detectors, thresholds and gradients; has to be accepted as well."""

    name: ClassVar[str] = "white-box"
    includes: ClassVar[tuple[str, ...]] = (
        "oblivious",
        "transfer",
        "query-scores",
        "query-decisions",
    )
    sees_verdict: ClassVar[bool] = True

    def target(self, guard: Guard) -> Target:
        """The guard."""
        return guard


@dataclass(frozen=True)
class TransferFrom(Threat):
    """Sees a substitute, and sends what fools that one (pang 4.5; martin 5.1.2).

    Nothing tells such an attacker when the guard falls, so the search goes on to its end. A
    minimum-norm attack ends at the substitute's boundary: give it a `confidence`.

    Attributes:
        substitute: another network or guard of the same classes, on images in [0,1].
        called: its name in the records.
    """

    name: ClassVar[str] = "transfer"
    sees_verdict: ClassVar[bool] = False
    substitute: Target | nn.Module
    called: str = "substitute"

    @property
    def substitute_name(self) -> str | None:
        """Its name."""
        return self.called

    @cached_property
    def _target(self) -> Target:
        return as_target(self.substitute)

    def target(self, guard: Guard) -> Target:
        """The substitute."""
        return self._target

    def adapt(self, attack: Attack, guard: Guard) -> Attack:
        """Runs to its end."""
        return _to_its_end(super().adapt(attack, guard))


@dataclass(frozen=True)
class _Query(Threat):
    budget: int | None = None
    """How many queries an image may take; None for what the attack asks for by itself."""
    sees_verdict: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 2:
            raise ConfigurationError(
                f"A budget is at least 2 queries, one of which is the clean image's; got "
                f"{self.budget}."
            )

    def adapt(self, attack: Attack, guard: Guard) -> Attack:
        """The attack within the budget."""
        attack = super().adapt(attack, guard)
        if self.budget is None:
            return attack
        if attack.query_budget is None:
            raise ConfigurationError(
                f"{attack.name} has no budget of queries to hold it to: under {self.name} give "
                "Square, NES or HopSkipJump, or leave the budget out."
            )
        setting: dict[str, Any] = {"queries": min(self.budget, attack.query_budget)}
        return replace(attack, **setting)


@dataclass(frozen=True)
class QueryScores(_Query):
    """Sees the guard's scores and whether it stands by them, and no gradients."""

    name: ClassVar[str] = "query-scores"
    includes: ClassVar[tuple[str, ...]] = ("query-decisions",)

    def target(self, guard: Guard) -> Target:
        """A view of the guard."""
        return ScoresOnly(guard)


@dataclass(frozen=True)
class QueryDecisions(_Query):
    """Sees the guard's label or NOT SURE, and nothing else."""

    name: ClassVar[str] = "query-decisions"

    def target(self, guard: Guard) -> Target:
        """A view of the guard."""
        return DecisionsOnly(guard)


THREATS: dict[str, Threat] = {
    threat.name: threat for threat in (Oblivious(), WhiteBox(), QueryScores(), QueryDecisions())
}
"""The threats that can be had by name; a transfer needs a substitute."""

NAMES = ("oblivious", "transfer", "query-decisions", "query-scores", "white-box")
"""All threats there are, from those who know least."""


def knowledge_of(threat: str) -> int:
    """Where the threat of that name comes in a listing; those of the user's own come first."""
    return NAMES.index(threat) + 1 if threat in NAMES else 0


def threat_named(threat: str | Threat) -> Threat:
    """The threat of that name, or the one that was given.

    Raises:
        ConfigurationError: there is no such threat.
    """
    if isinstance(threat, Threat):
        return threat
    if threat == TransferFrom.name:
        raise ConfigurationError(
            "A transfer needs a substitute: give TransferFrom(network, 'name') as the threat, or "
            "substitutes={'name': network}."
        )
    if threat not in THREATS:
        raise ConfigurationError(f"There is no threat {threat!r}. There are: {', '.join(NAMES)}.")
    return THREATS[threat]
