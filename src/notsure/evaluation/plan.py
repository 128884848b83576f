"""What is to be run: which attack, under which threat, against which guards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from notsure.attacks import PGD, Attack, RandomNoise
from notsure.attacks.bounded import BoundedAttack
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError
from notsure.core.target import Access
from notsure.evaluation.records import LONGER, NOISE, UNBOUNDED
from notsure.evaluation.threats import Oblivious, Threat, WhiteBox
from notsure.guard import Guard

Plan = list[tuple[Threat, Attack]]
"""Attacks, each with what the attacker knows."""

_LONGER = 4
_UNBOUNDED_STEPS = 40
_NOISES = 10


@dataclass(frozen=True)
class Job:
    """One attack under one threat.

    Attributes:
        threat: what the attacker knows.
        attack: as such an attacker runs it, see `Threat.adapt`.
        probe: which probe it is of; None for an ordinary attack, over all images.
        probe_of: the identity of the attack that a probe of the kind "longer" is compared with.
    """

    threat: Threat
    attack: Attack
    probe: str | None = None
    probe_of: str | None = None

    @property
    def identity(self) -> tuple[str, str | None, str | None, str]:
        """What tells it from the other jobs of a run."""
        threat = self.threat
        return threat.name, threat.substitute_name, self.probe, self.attack.identity


def variants(attacks: Sequence[Attack], eps: Sequence[float | str] | None) -> list[Attack]:
    """Each attack, a bounded one with each of the budgets, in place of its own.

    Raises:
        ConfigurationError: there is none, or something else among them, or one is there twice.
    """
    if isinstance(attacks, Attack):
        raise ConfigurationError(f"attacks is a list, such as [{attacks.name}(...)].")
    check_list(eps)
    found: list[Attack] = []
    for attack in attacks:
        if not isinstance(attack, Attack):
            raise ConfigurationError(
                f"{attack!r} is no attack: give instances such as notsure.attacks.PGD(eps=0.3)."
            )
        with_eps = getattr(attack, "with_eps", None)
        if eps is not None and attack.budget is not None and with_eps is not None:
            found.extend(with_eps(parse_size(one, what="eps")) for one in eps)
        else:
            found.append(attack)
    if not found:
        raise ConfigurationError("There is no attack: give at least one, such as PGD(eps=0.3).")
    if len({one.identity for one in found}) < len(found):
        raise ConfigurationError("An attack is given twice with the same settings.")
    return found


def check_list(eps: Sequence[float | str] | None) -> None:
    """Refuses a single budget where a list is meant.

    Raises:
        ConfigurationError: it is one.
    """
    if isinstance(eps, int | float | str):
        raise ConfigurationError(f"eps is a list, such as [{eps!r}].")


def crossed(
    threats: Sequence[Threat],
    attacks: Sequence[Attack] | Mapping[str, Sequence[Attack]],
    eps: Sequence[float | str] | None,
) -> Plan:
    """Every attack under every threat, or under each those that are given for it.

    Raises:
        ConfigurationError: there is no threat, or no attack for one, or two are the same.
    """
    if not threats:
        raise ConfigurationError("There is no threat: give 'oblivious', 'white-box' or both.")
    if len({(one.name, one.substitute_name) for one in threats}) < len(threats):
        raise ConfigurationError("A threat is given twice: give each once.")
    if not isinstance(attacks, Mapping):
        return [(threat, attack) for threat in threats for attack in variants(attacks, eps)]
    names = [threat.name for threat in threats]
    for name in attacks:
        if name not in names:
            raise ConfigurationError(
                f"There are attacks for the threat {name!r}, which is not among those that are "
                f"run: {', '.join(names)}."
            )
    return [
        (threat, attack)
        for threat in threats
        for attack in variants(attacks.get(threat.name, ()), eps)
    ]


def jobs_of(guard: Guard, plan: Plan, probes: int) -> list[Job]:
    """What is run against a guard: the plan, and the probes if any images are to be probed."""
    jobs = [Job(threat, threat.adapt(attack, guard)) for threat, attack in plan]
    found = list({job.identity: job for job in jobs}.values())
    return [*found, *_probes(found)] if probes else found


def _probes(jobs: Sequence[Job]) -> list[Job]:
    """The attacks that only the flags look at.

    All belong to the threat of those with the most knowledge who use gradients. "unbounded" is the
    most patient of its bounded attacks with the largest eps there is, "longer" the same with its
    own eps and four times the steps, "noise" random noise of each eps.
    """
    bounded = [
        (job.threat, job.attack)
        for job in jobs
        if isinstance(job.attack, BoundedAttack) and job.attack.needs == Access.GRADIENTS
    ]
    for name in (WhiteBox.name, Oblivious.name):
        own = [attack for threat, attack in bounded if threat.name == name]
        if own:
            break
    else:
        return []
    threat = next(threat for threat, _ in bounded if threat.name == name)
    strongest = max(own, key=lambda attack: (attack.steps * attack.restarts, attack.radius))
    budgets = dict.fromkeys((attack.norm, attack.radius) for attack in own)
    return [
        Job(threat, _unbounded(strongest), UNBOUNDED),
        Job(
            threat,
            replace(strongest, steps=_LONGER * strongest.steps),
            LONGER,
            strongest.identity,
        ),
        *(
            Job(threat, RandomNoise(norm=norm, eps=eps, restarts=_NOISES), NOISE)
            for norm, eps in budgets
        ),
    ]


def _unbounded(attack: BoundedAttack) -> Attack:
    """The attack in linf with eps 1, where every image is within reach."""
    steps = max(attack.steps, _UNBOUNDED_STEPS)
    if attack.norm != "linf":
        return PGD(eps=1.0, steps=steps, gradient=attack.gradient)
    return replace(attack.with_eps(1.0), steps=steps)


def description(jobs: Sequence[Job]) -> dict[str, Any]:
    """The attacks with all their settings, for the records' meta."""
    told: dict[str, Any] = {}
    for job in jobs:
        told[job.attack.identity] = {"name": job.attack.name, **job.attack.settings()}
        if job.probe_of is not None:
            told[job.attack.identity]["probe_of"] = job.probe_of
    return told
