"""From a study to its steps: networks, purifiers, guards, evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch

from notsure import models
from notsure.attacks import Attack
from notsure.classifier import Classifier
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError, DataError
from notsure.core.target import Access
from notsure.evaluation.plan import variants
from notsure.evaluation.suites import check_suite
from notsure.evaluation.threats import NAMES as THREATS
from notsure.studies.datasets import PARTS, DataSet
from notsure.studies.declared import Study
from notsure.studies.document import Path, nearest
from notsure.studies.examining import Evaluate, MakeGuard, records_of
from notsure.studies.learning import FitPurifier, Train
from notsure.studies.parts import Builder, completed, purifiers_named_in
from notsure.studies.steps import Step

__all__ = ["Evaluate", "FitPurifier", "MakeGuard", "Train", "records_of", "study_steps"]

_OPTIONS = ("batch_size", "illustrated", "embedded", "probes", "controlled")

_OF_DATA = ("num_classes", "in_channels", "size")
"""What an architecture is told that is read off the data."""

_SHOWN = {"query-scores": Access.SCORES, "query-decisions": Access.DECISIONS}
"""What an attacker sees under threats that show no gradients."""


def study_steps(study: Study, data_root: str | FilePath | None = None) -> list[Step]:
    """The steps of a study, each after what it needs; those of the same identity are one.

    Everything that the study declares is checked on the way: that there are such parts, that they
    take such settings, that the data are there and large enough. What a step's identity rests on
    are settings and contents, not names, so that studies share what they both declare.

    Args:
        study: what `load_study` has read.
        data_root: the folder of data sets; None for that which NOTSURE_DATA names.

    Raises:
        ConfigurationError: a part or a setting cannot be; the message says where it is written.
        DataError: data are missing or too few; the message says where, and how to get them.
    """
    assembly = _Assembly(study, data_root)
    # attacks that nobody runs are looked at all the same
    for name in study.attacks:
        assembly.attack(name)
    found: dict[str, Step] = {}
    for step in (
        *map(assembly.network, study.networks),
        *map(assembly.purifier, study.purifiers),
        *map(assembly.guard, study.guards),
        *map(assembly.evaluation, study.evaluations),
    ):
        found.setdefault(step.identity, step)
    return list(found.values())


class _Assembly:
    """The entries of a study as steps, made when they are asked for first."""

    def __init__(self, study: Study, data_root: str | FilePath | None) -> None:
        self.study, self.data_root = study, data_root
        self.builder = Builder(self._where)
        self._made: dict[tuple[str, str], Any] = {}

    def _where(self, path: Path, key: bool) -> str:
        return self.study.where(*path, key=key)

    def _once(self, section: str, name: str, make: Callable[[], Any]) -> Any:
        if (section, name) not in self._made:
            self._made[section, name] = make()
        return self._made[section, name]

    def data(self, name: str) -> DataSet:
        """The images of that name."""
        found: DataSet = self._once("data", name, lambda: self._data(name))
        return found

    def _data(self, name: str) -> DataSet:
        spec, path = self.study.data[name], ("data", name)
        try:
            found = DataSet.found(spec, self.data_root)
        except (DataError, ConfigurationError) as error:
            asked = next((part for part in PARTS if f"The {part} part" in str(error)), "source")
            raise type(error)(f"{self.study.where(*path, asked)}: {error}") from error
        if found.shape[1] != found.shape[2]:
            raise DataError(
                f"{self.study.where(*path)}: the architectures take square images; these are "
                f"{found.shape[1]}x{found.shape[2]} pixels."
            )
        return found

    def attack(self, name: str) -> Attack:
        """The attack of that name."""
        path: Path = ("attacks", name)
        given = self.study.attacks[name].model_dump()
        found: Attack = self._once(
            "attacks", name, lambda: self.builder.part("attack", given, path)
        )
        return found

    def network(self, name: str) -> Train:
        """The training of the network of that name."""
        found: Train = self._once("networks", name, lambda: self._network(name))
        return found

    def _network(self, name: str) -> Train:
        spec, path = self.study.networks[name], ("networks", name)
        data = self.data(spec.data)
        for key in _OF_DATA:
            if key in spec.arguments:
                raise self.study.error(
                    f"{key} is read off the data: leave it out.", *path, "arguments", key, key=True
                )
        channels, size, _ = data.shape
        of_data = dict(zip(_OF_DATA, (len(data.class_names), channels, size), strict=True))
        step = Train(
            name=name,
            architecture=spec.architecture,
            arguments={**of_data, **spec.arguments},
            objective=self.builder.objective(spec.objective, (*path, "objective")),
            recipe=self.builder.recipe(spec.recipe, (*path, "recipe"), seed=spec.seed),
            data=data,
            seed=spec.seed,
            mean=spec.mean,
            std=spec.std,
        )
        self._try(step, path)
        return step

    def _try(self, step: Train, path: Path) -> None:
        """Builds the network without its weights: what cannot be trained is told at once."""

        def build() -> torch.nn.Module:
            with torch.device("meta"):
                return models.build(step.architecture, **step.arguments)

        told = "arguments" if step.architecture in models.names() else "architecture"
        module = self.builder.guarded(build, (*path, told))
        classifier = self.builder.guarded(
            lambda: Classifier(
                module,
                mean=step.mean,
                std=step.std,
                reverse_logits=bool(step.objective.reverse_logits),
            ),
            (*path, "mean"),
        )
        self.builder.guarded(lambda: step.objective.require(classifier), (*path, "objective"))

    def purifier(self, name: str) -> FitPurifier:
        """The training of the purifier of that name."""
        found: FitPurifier = self._once("purifiers", name, lambda: self._purifier(name))
        return found

    def _purifier(self, name: str) -> FitPurifier:
        spec, path = self.study.purifiers[name], ("purifiers", name)
        given = {"kind": spec.kind, "settings": spec.settings}
        part = self.builder.part("purifier", given, path)
        data = self.data(spec.data)
        if part.needs_classifier and spec.network is None:
            raise self.study.error(
                f"{spec.kind} is trained with a classifier: name one, network: ...", *path
            )
        if not part.needs_classifier and spec.network is not None:
            raise self.study.error(
                f"{spec.kind} is trained without a classifier: leave network out.",
                *path,
                "network",
                key=True,
            )
        network = None if spec.network is None else self.network(spec.network)
        if network is not None:
            self._check_same_data(network.data, data, (*path, "data"))
        return FitPurifier(
            name=name,
            part=completed("purifier", given),
            recipe=self.builder.recipe(spec.recipe, (*path, "recipe")),
            data=data,
            network=network,
        )

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
            if isinstance(need, FitPurifier):
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

    def _check_same_data(self, first: DataSet, second: DataSet, path: Path) -> None:
        """Refuses images of another shape, and other cuts of the same data, which would leak."""
        if first.shape != second.shape:
            raise self.study.error(
                f"The images of {first.name!r} are {first.shape} (channels, height, width), those "
                f"of {second.name!r} {second.shape}: what stands before a network is trained on "
                "images like its own.",
                *path,
            )
        if first.path == second.path and first.seed != second.seed:
            raise self.study.error(
                f"The data are cut out of {first.name!r} with the seeds {first.seed} and "
                f"{second.seed}, so that one part's training images are among the other's test "
                "images: take one cut.",
                *path,
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
        attacks: Mapping[str, tuple[Attack, ...]] | None = None
        if spec.attacks is not None:
            attacks = {
                threat: self._attacks_under(threat, own, spec.eps, (*path, "attacks", threat))
                for threat, own in spec.attacks.items()
            }
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
    ) -> tuple[Attack, ...]:
        attacks = tuple(self.attack(one) for one in names)
        shown = _SHOWN.get(threat, Access.GRADIENTS)
        for at, one in enumerate(attacks):
            needs = one.needs if one.needs < Access.GRADIENTS else one.source.needs
            if needs > shown:
                raise self.study.error(
                    f"{one.name} needs {needs.name.lower()}, and under {threat!r} an attacker sees "
                    f"{shown.name.lower()} only.",
                    *path,
                    at,
                )
        # the same attack twice, or a budget that is none, is told before anything is trained
        self.builder.guarded(lambda: variants(attacks, eps), path)
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
