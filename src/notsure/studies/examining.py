"""The steps that guard and examine: a guard is made, guards are evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from notsure.attacks import Attack, Distilled
from notsure.calibration import Rule
from notsure.classifier import Classifier
from notsure.data import Images
from notsure.detectors import Detector
from notsure.evaluation import Records, evaluate
from notsure.evaluation.suites import VERSION as SUITES
from notsure.guard import Guard
from notsure.studies import estimates
from notsure.studies.datasets import DataSet, drawn
from notsure.studies.fitted_attacks import (
    Attacker,
    fitted_first,
    passes_of,
    ready,
    told_of,
)
from notsure.studies.learning import FitPurifier, Network, device, within_time
from notsure.studies.parts import Builder, purifiers_named_in, with_purifiers
from notsure.studies.steps import Context, Step

RECORDS = "records.parquet"


@dataclass(frozen=True, kw_only=True, eq=False)
class MakeGuard(Step):
    """Fits and calibrates a guard; the result is read by `Guard.load`.

    Attributes:
        network: the classifier.
        detectors: by name, their kinds and settings, complete.
        purifier: what cleans the images beforehand.
        reconstructors: what detectors name by `of`, by those names.
        corrector: who answers what is flagged, its kind and settings, complete.
        rule: how the detectors are combined.
        fpr: the share of clean images that may be flagged.
        attack: what makes the adversarial examples that parts learn from.
        examples: from how many images.
    """

    kind: ClassVar[str] = "guard"

    network: Network
    detectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    purifier: FitPurifier | None = None
    reconstructors: Mapping[str, FitPurifier] = field(default_factory=dict)
    corrector: Mapping[str, Any] | None = None
    rule: Rule = "any"
    fpr: float = 0.01
    attack: Attacker | None = None
    examples: int = 2000

    @property
    def needs(self) -> tuple[Step, ...]:
        """The network, the purifier, those that detectors name, and an attack that is fitted."""
        purifiers = [] if self.purifier is None else [self.purifier]
        attacks = [] if self.attack is None else [self.attack]
        return (self.network, *purifiers, *self._named(), *fitted_first(attacks))

    def _named(self) -> list[FitPurifier]:
        """What detectors name, each once, in the order of the detectors."""
        names = dict.fromkeys(n for one in self.detectors.values() for n in purifiers_named_in(one))
        return [self.reconstructors[name] for name in names]

    @property
    def data(self) -> DataSet:
        """The data that it is fitted, calibrated and tested on: the network's."""
        return self.network.data

    def settings(self) -> dict[str, Any]:
        """Everything that the guard depends on besides its network and purifiers."""
        steps = {name: one.identity for name, one in self.reconstructors.items()}
        return {
            "detectors": [
                [name, with_purifiers(one, steps)] for name, one in self.detectors.items()
            ],
            "purified": self.purifier is not None,
            "corrector": None if self.corrector is None else dict(self.corrector),
            "rule": self.rule,
            "fpr": self.fpr,
            "attack": None if self.attack is None else told_of(self.attack),
            "examples": self.examples,
            "train": self.data.content("train"),
            "calibration": self.data.content("calibration"),
        }

    def run(self, context: Context) -> None:
        """Fits, calibrates and saves it."""
        loaded = {name: one.purifier(context) for name, one in self.reconstructors.items()}
        builder = Builder(purifiers=loaded)
        detectors: dict[str, Detector] = {
            name: builder.part("detector", one) for name, one in self.detectors.items()
        }
        corrector = None if self.corrector is None else builder.part("corrector", self.corrector)
        guard = Guard(
            self.network.classifier(context),
            detectors,
            purifier=None if self.purifier is None else self.purifier.purifier(context),
            corrector=corrector,
            rule=self.rule,
        ).to(device())
        guard.fit(
            self.data.images("train"),
            attack=None if self.attack is None else ready(self.attack, context),
            examples=self.examples,
            progress=context.progress,
        )
        if detectors:
            guard.calibrate(self.data.images("calibration"), fpr=self.fpr)
        guard.save(context.folder)

    def guard(self, context: Context) -> Guard:
        """What was made, for a step that needs it."""
        return Guard.load(context.folder_of(self)).to(device())

    def estimate(self) -> float:
        """Seconds, roughly."""
        learnt = 0.0 if self.attack is None else passes_of(self.attack, self.network)
        passes = self.data.counts["train"] + self.data.counts["calibration"]
        return (passes + learnt * self.examples) * self.network.seconds_of_pass()


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluate(Step):
    """Examines guards, see `notsure.evaluate`; the result is their records.

    Attributes:
        guards: by the names that the records call them.
        attacks: by threat; None where a suite chooses them.
        suite: which one.
        threats: of a suite, those that are wanted; None for all.
        eps: budgets to run each bounded attack with.
        norm: of a suite's budgets.
        count: how many test images are attacked; None for all.
        substitutes: what transfers are made from, by name.
        parameters: of the guards, for heat maps.
        seed: of the attacks.
        options: `batch_size`, `illustrated`, `embedded`, `probes` and `controlled`.
    """

    kind: ClassVar[str] = "evaluate"
    resumable: ClassVar[bool] = True

    guards: Mapping[str, MakeGuard]
    attacks: Mapping[str, tuple[Attacker, ...]] | None = None
    suite: str | None = None
    threats: tuple[str, ...] | None = None
    eps: tuple[float | str, ...] | None = None
    norm: str = "linf"
    count: int | None = None
    substitutes: Mapping[str, Network | MakeGuard] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seed: int = 0
    options: Mapping[str, int] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[Step, ...]:
        """The guards, the substitutes, and the attacks that are fitted."""
        attacks = fitted_first(one for own in (self.attacks or {}).values() for one in own)
        return (*self.guards.values(), *self.substitutes.values(), *attacks)

    @property
    def data(self) -> DataSet:
        """The data whose test part is attacked."""
        return next(iter(self.guards.values())).data

    def settings(self) -> dict[str, Any]:
        """Everything that the records hold or depend on besides the guards and substitutes."""
        attacks = None
        if self.attacks is not None:
            attacks = [[threat, [*map(told_of, own)]] for threat, own in self.attacks.items()]
        return {
            "guards": list(self.guards),
            "attacks": attacks,
            "suite": None if self.suite is None else [self.suite, SUITES],
            "threats": None if self.threats is None else list(self.threats),
            "eps": None if self.eps is None else list(self.eps),
            "norm": self.norm,
            "count": self.count,
            "drawn with": None if self.count is None else self.data.seed,
            "substitutes": [[name, one.kind] for name, one in self.substitutes.items()],
            "parameters": {name: dict(told) for name, told in self.parameters.items()},
            "seed": self.seed,
            "options": dict(self.options),
            "data": self.data.name,
            "class names": list(self.data.class_names),
            "test": self.data.content("test"),
        }

    @property
    def images(self) -> int:
        """How many test images are attacked."""
        return self.count or self.data.counts["test"]

    def attacked(self) -> Images:
        """The test images that are attacked."""
        test = self.data.images("test")
        return drawn(test, self.count, self.data.seed, what=f"The test part of {self.data.name!r}")

    def run(self, context: Context) -> None:
        """Attacks, or goes on with it."""
        self.examine(context)

    def examine(
        self,
        context: Context,
        *,
        rows: tuple[int, int] | None = None,
        taught: Mapping[str, Distilled] | None = None,
    ) -> None:
        """Attacks the images, or some of them, or goes on with it.

        Args:
            context: of the step that does it.
            rows: which images (start, stop); None for all.
            taught: by guard, the substitute of a suite where it was taught before.
        """
        test, here = self.attacked(), device()
        attacks: Mapping[str, list[Attack]] | None = None
        if self.attacks is not None:
            attacks = {
                threat: [ready(one, context) for one in own] for threat, own in self.attacks.items()
            }
        with within_time(context):
            evaluate(
                self._loaded(context),
                test.x.to(here),
                test.y.to(here),
                attacks=attacks,
                threats=self.threats if self.attacks is None else list(self.attacks),
                suite=self.suite,
                eps=self.eps,
                norm=self.norm,
                substitutes={
                    name: step.classifier(context)
                    if isinstance(step, Network)
                    else step.guard(context)
                    for name, step in self.substitutes.items()
                },
                parameters=self.parameters,
                seed=self.seed,
                data=self.data.name,
                class_names=test.class_names,
                rows=rows,
                taught=taught,
                out=context.folder,
                progress=context.progress,
                **self.options,
            )

    def _loaded(self, context: Context) -> dict[str, Guard]:
        """The guards; those around one network share it, and so what the oblivious find."""
        guards = {name: step.guard(context) for name, step in self.guards.items()}
        networks: dict[str, Classifier] = {}
        for name, step in self.guards.items():
            guard = guards[name]
            guard.classifier = networks.setdefault(step.network.identity, guard.classifier)
        return guards

    def estimate(self) -> float:
        """Seconds, roughly."""
        every = [
            self._passes_against(step) * step.network.seconds_of_pass()
            for step in self.guards.values()
        ]
        return self.images * sum(every)

    def _passes_against(self, guard: MakeGuard) -> float:
        """How many passes over a guard's network its examination takes for an image."""
        network = guard.network
        if self.suite is not None:
            return estimates.passes_of_suite(
                self.suite,
                self.eps or (),
                norm=self.norm,
                threats=self.threats,
                substitutes=self.substitutes,
                rejects=bool(guard.detectors),
                stochastic=network.stochastic,
                values=math.prod(self.data.shape),
            )
        passes = 0.0
        for attack in (attack for own in (self.attacks or {}).values() for attack in own):
            many = isinstance(attack, Attack) and hasattr(attack, "with_eps")
            budgets = len(self.eps) if self.eps is not None and many else 1
            passes += budgets * passes_of(attack, network)
        return passes


def records_of(folder: Path) -> Records:
    """The records of a finished evaluation.

    Args:
        folder: of its result.
    """
    return Records.read(folder / RECORDS)
