"""Threats: what an attacker knows decides which target is attacked, and for how long."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from notsure.attacks import BPDA, EOT, Attack
from notsure.attacks.problem import AUTOGRAD, GradientSource
from notsure.core.errors import ConfigurationError
from notsure.core.target import Access, Target
from notsure.guard import Guard

CLEAN = "clean"
"""The threat column of the records of clean images."""


@dataclass(frozen=True)
class Threat(ABC):
    """What an attacker knows of a guard."""

    name: ClassVar[str]
    knowledge: ClassVar[int]
    """Who knows more can do all that one who knows less can."""

    @abstractmethod
    def target(self, guard: Guard) -> Target:
        """What the attacker sees of the guard."""

    def adapt(self, attack: Attack, guard: Guard) -> Attack:
        """The attack as such an attacker runs it.

        Who sees gradients goes through what declares itself hard (BPDA) and averages over chance
        (EOT), unless the attack was given a gradient source of its own.
        """
        return _suited(attack, self.target(guard))


def _suited(attack: Attack, target: Target) -> Attack:
    if attack.needs < Access.GRADIENTS or getattr(attack, "gradient", None) != AUTOGRAD:
        return attack
    source: GradientSource = AUTOGRAD if target.differentiable else BPDA()
    if target.stochastic:
        source = EOT(of=source)
    return replace(attack, gradient=source) if source != AUTOGRAD else attack  # type: ignore[call-arg]


@dataclass(frozen=True)
class Oblivious(Threat):
    """Sees the bare classifier and does not know that anything may be rejected.

    Such an attacker has no reason to stop at the decision boundary, so against a guard with
    detectors the search goes on to its end (`early_stop=False`): images that were left just across
    the boundary are easy to detect, and would flatter every detector.
    """

    name: ClassVar[str] = "oblivious"
    knowledge: ClassVar[int] = 0

    def target(self, guard: Guard) -> Target:
        """The classifier."""
        return guard.classifier

    def adapt(self, attack: Attack, guard: Guard) -> Attack:
        """Runs to its end."""
        attack = super().adapt(attack, guard)
        if guard.rejects and getattr(attack, "early_stop", False):
            return replace(attack, early_stop=False)  # type: ignore[call-arg]
        return attack


@dataclass(frozen=True)
class WhiteBox(Threat):
    """Sees the whole guard: detectors, thresholds and gradients; has to be accepted as well."""

    name: ClassVar[str] = "white-box"
    knowledge: ClassVar[int] = 2

    def target(self, guard: Guard) -> Target:
        """The guard."""
        return guard


THREATS: dict[str, Threat] = {threat.name: threat for threat in (Oblivious(), WhiteBox())}


def knowledge_of(threat: str) -> int:
    """How much the attacker of the threat of that name knows; 0 for one that is not known here."""
    return THREATS[threat].knowledge if threat in THREATS else 0


def threat_named(threat: str | Threat) -> Threat:
    """The threat of that name, or the one that was given.

    Raises:
        ConfigurationError: there is no such threat.
    """
    if isinstance(threat, Threat):
        return threat
    if threat not in THREATS:
        raise ConfigurationError(f"There is no threat {threat!r}. There are: {', '.join(THREATS)}.")
    return THREATS[threat]
