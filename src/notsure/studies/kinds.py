"""From a study to its steps: networks, purifiers, guards, evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path as FilePath

from notsure.core.checks import parse_size
from notsure.core.target import Access
from notsure.evaluation.plan import variants
from notsure.evaluation.suites import check_suite
from notsure.evaluation.threats import NAMES as THREATS
from notsure.studies.declared import Study
from notsure.studies.document import Path, nearest
from notsure.studies.examining import Evaluate, MakeGuard, records_of
from notsure.studies.fitted_attacks import Attacker, FitAttack
from notsure.studies.learning import FitPurifier, Network, Train
from notsure.studies.making import Making
from notsure.studies.parts import Builder, completed, purifiers_named_in
from notsure.studies.retrofitting import Retrofit
from notsure.studies.steps import Step

__all__ = [
    "Evaluate",
    "FitAttack",
    "FitPurifier",
    "MakeGuard",
    "Network",
    "Retrofit",
    "Train",
    "evaluations_first",
    "records_of",
    "study_entries",
    "study_steps",
]

_OPTIONS = ("batch_size", "illustrated", "embedded", "probes", "controlled")

_SHOWN = {"query-scores": Access.SCORES, "query-decisions": Access.DECISIONS}
"""What an attacker sees under threats that show no gradients."""


def study_steps(
    study: Study,
    data_root: str | FilePath | None = None,
    *,
    cache: str | FilePath | None = None,
) -> list[Step]:
    """The steps of a study, each after what it needs; those of the same identity are one.

    Everything that the study declares is checked on the way: that there are such parts, that they
    take such settings, that the data are there and large enough. What a step's identity rests on
    are settings and contents, not names, so that studies share what they both declare.

    Args:
        study: what `load_study` has read.
        data_root: the folder of data sets; None for that which NOTSURE_DATA names.
        cache: a folder that keeps decoded images, see `notsure.studies.decoded`; None for none.

    Raises:
        ConfigurationError: a part or a setting cannot be; the message says where it is written.
        DataError: data are missing or too few; the message says where, and how to get them.
    """
    found: dict[str, Step] = {}
    for step in study_entries(study, data_root, cache=cache).values():
        found.setdefault(step.identity, step)
    return list(found.values())


def study_entries(
    study: Study,
    data_root: str | FilePath | None = None,
    *,
    cache: str | FilePath | None = None,
) -> dict[tuple[str, str], Step]:
    """The steps of a study by section and name, in their order; entries may share an identity.

    Args:
        study: as `study_steps` takes it, as the rest.
        data_root: the folder of data sets.
        cache: a folder that keeps decoded images.

    Raises:
        ConfigurationError: as `study_steps`.
        DataError: as `study_steps`.
    """
    assembly = _Assembly(study, data_root, cache)
    # attacks that nobody runs are looked at all the same
    attacks = {name: assembly.attack(name) for name in study.attacks}
    sections: dict[str, Mapping[str, Step]] = {
        "networks": {name: assembly.network(name) for name in study.networks},
        "attacks": {name: one for name, one in attacks.items() if isinstance(one, FitAttack)},
        "purifiers": {name: assembly.purifier(name) for name in study.purifiers},
        "guards": {name: assembly.guard(name) for name in study.guards},
        "evaluations": {name: assembly.evaluation(name) for name in study.evaluations},
    }
    return {
        (section, name): step for section, own in sections.items() for name, step in own.items()
    }


def evaluations_first(entries: Mapping[tuple[str, str], Step]) -> list[Step]:
    """The steps of a study in the order in which they answer soonest.

    A plan has each step right after what it needs: with the evaluations first, one is done before
    what only the next one needs is trained.

    Args:
        entries: what `study_entries` gave.
    """
    steps = list(entries.values())
    evaluations = [step for step in steps if isinstance(step, Evaluate)]
    return [*evaluations, *(step for step in steps if not isinstance(step, Evaluate))]


class _Assembly(Making):
    """The entries of a study as steps, made when they are asked for first."""

    def guard(self, name: str) -> MakeGuard:
        """The making of the guard of that name."""
        found: MakeGuard = self._once("guards", name, lambda: self._guard(name))
        return found

    def _guard(self, name: str) -> MakeGuard:
        spec, path = self.study.guards[name], ("guards", name)
        network = self.network(spec.network)
        detectors = {key: one.model_dump() for key, one in spec.detectors.items()}
        unfitted = {
            key: Builder(self._where).part(
                "purifier", {"kind": one.kind, "settings": one.settings}, ("purifiers", key)
            )
            for key, one in self.study.purifiers.items()
        }
        builder = Builder(self._where, unfitted)
        built = [
            builder.part("detector", one, (*path, "detectors", key))
            for key, one in detectors.items()
        ]
        corrector = None if spec.corrector is None else spec.corrector.model_dump()
        if corrector is not None:
            built.append(builder.part("corrector", corrector, (*path, "corrector")))
        learns = [type(one).__name__ for one in built if one.needs_adversarial]
        if learns and spec.attack is None:
            raise self.study.error(
                f"{learns[0]} learns from adversarial examples: name the attack that makes them, "
                "attack: ...",
                *path,
            )
        if not learns and spec.attack is not None:
            raise self.study.error(
                "No part of this guard learns from adversarial examples: leave attack out.",
                *path,
                "attack",
                key=True,
            )
        complete = {key: completed("detector", one) for key, one in detectors.items()}
        named = [n for one in complete.values() for n in purifiers_named_in(one)]
        step = MakeGuard(
            name=name,
            network=network,
            detectors=complete,
            purifier=None if spec.purifier is None else self.purifier(spec.purifier),
            reconstructors={one: self.purifier(one) for one in dict.fromkeys(named)},
            corrector=None if corrector is None else completed("corrector", corrector),
            rule=spec.rule,
            fpr=spec.fpr,
            attack=None if spec.attack is None else self.attack(spec.attack),
            examples=spec.examples,
        )
        for need in step.needs[1:]:
            if isinstance(need, FitPurifier | FitAttack):
                self._check_same_data(network.data, need.data, path)
        self._check_rate(step, path)
        return step

    def _check_rate(self, step: MakeGuard, path: Path) -> None:
        count = step.data.counts["calibration"]
        if step.detectors and count * step.fpr < 1:
            raise self.study.error(
                f"{count} calibration images cannot resolve a false-positive rate of "
                f"{step.fpr:g}: that takes at least {math.ceil(1 / step.fpr)}.",
                *path,
                "fpr",
            )

    def evaluation(self, name: str) -> Evaluate:
        """The evaluation of that name."""
        found: Evaluate = self._once("evaluations", name, lambda: self._evaluation(name))
        return found

    def _evaluation(self, name: str) -> Evaluate:
        spec, path = self.study.evaluations[name], ("evaluations", name)
        guards = {one: self.guard(one) for one in spec.guards}
        parts = {one: (step.data.path, step.data.digests["test"]) for one, step in guards.items()}
        first = next(iter(parts))
        for one, content in parts.items():
            if content != parts[first]:
                raise self.study.error(
                    f"The guards {first!r} and {one!r} have other test images: an evaluation is "
                    "of one set.",
                    *path,
                    "guards",
                )
        told: list[tuple[str, Path]] = [
            *((threat, ("attacks", threat)) for threat in spec.attacks or {}),
            *((threat, ("threats", at)) for at, threat in enumerate(spec.threats or ())),
        ]
        for threat, inner in told:
            if threat not in THREATS:
                raise self.study.error(
                    f"There is no threat {threat!r}.{nearest(threat, THREATS)}",
                    *path,
                    *inner,
                    key=True,
                )
        if spec.suite is not None:
            self.builder.guarded(lambda: check_suite(str(spec.suite)), (*path, "suite"))
            for at, eps in enumerate(spec.eps or ()):
                self.builder.guarded(partial(parse_size, eps, what="eps"), (*path, "eps", at))
        attacks: Mapping[str, tuple[Attacker, ...]] | None = None
        if spec.attacks is not None:
            attacks = {
                threat: self._attacks_under(threat, own, spec.eps, (*path, "attacks", threat))
                for threat, own in spec.attacks.items()
            }
            data = guards[first].data
            for threat, made in attacks.items():
                for at, attack in enumerate(made):
                    if isinstance(attack, FitAttack):
                        place = (*path, "attacks", threat, at)
                        self._check_same_data(data, attack.data, place)
        self._check_count(name, first)
        return Evaluate(
            name=name,
            guards=guards,
            attacks=attacks,
            suite=spec.suite,
            threats=spec.threats,
            eps=spec.eps,
            norm=spec.norm,
            count=spec.count,
            substitutes={
                called: self.network(one.network)
                if one.network is not None
                else self.guard(str(one.guard))
                for called, one in spec.substitutes.items()
            },
            parameters={
                one: dict(self.study.guards[one].parameters)
                for one in spec.guards
                if self.study.guards[one].parameters
            },
            seed=spec.seed,
            options={option: getattr(spec, option) for option in _OPTIONS},
        )

    def _attacks_under(
        self, threat: str, names: Sequence[str], eps: Sequence[float | str] | None, path: Path
    ) -> tuple[Attacker, ...]:
        attacks = tuple(self.attack(one) for one in names)
        shown = _SHOWN.get(threat, Access.GRADIENTS)
        for at, one in enumerate(attacks):
            if isinstance(one, FitAttack):
                continue
            needs = one.needs if one.needs < Access.GRADIENTS else one.source.needs
            if needs > shown:
                raise self.study.error(
                    f"{one.name} needs {needs.name.lower()}, and under {threat!r} an attacker sees "
                    f"{shown.name.lower()} only.",
                    *path,
                    at,
                )
        # the same attack twice, or a budget that is none, is told before anything is trained
        plain = [one for one in attacks if not isinstance(one, FitAttack)]
        if plain or not attacks:
            self.builder.guarded(lambda: variants(plain, eps), path)
        fitted = [one.identity for one in attacks if isinstance(one, FitAttack)]
        if len(set(fitted)) < len(fitted):
            raise self.study.error("An attack is given twice with the same settings.", *path)
        return attacks

    def _check_count(self, name: str, guard: str) -> None:
        count = self.study.evaluations[name].count
        there = self.guard(guard).data.counts["test"]
        if count is not None and count > there:
            raise self.study.error(
                f"There are {there} test images, fewer than {count}: ask for fewer, or leave count "
                "out for all.",
                "evaluations",
                name,
                "count",
            )
