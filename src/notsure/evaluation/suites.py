"""Suites: attacks that are chosen by what a guard is, under a version that reports pin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch

from notsure.attacks import (
    APGD,
    BIM,
    DDN,
    FGSM,
    ILCM,
    JSMA,
    MIM,
    NES,
    PGD,
    Attack,
    AutoAttack,
    CarliniWagner,
    DeepFool,
    Distilled,
    HopSkipJump,
    NewtonFool,
    OrthogonalPGD,
    RandomNoise,
    SelectivePGD,
    Square,
    distill,
)
from notsure.attacks.objectives import DLR
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError
from notsure.evaluation.plan import Plan, check_list
from notsure.evaluation.threats import (
    NAMES,
    Oblivious,
    QueryDecisions,
    QueryScores,
    Threat,
    TransferFrom,
    WhiteBox,
)
from notsure.guard import Guard
from notsure.views import ScoresOnly

VERSION = "2"
"""Changes whenever a suite would give other numbers."""

Suite = Literal["quick", "standard", "full"]

DISTILLED = "distilled"
"""What the substitute is called that is taught by the guard's own answers."""


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """How much work a suite takes.

    Attributes:
        steps: of gradient attacks in a ball.
        restarts: of the white-box attacks.
        minimum_steps: of DDN.
        scores: queries of Square.
        decisions: queries of HopSkipJump.
        rounds: how often the images are augmented that a substitute is taught with.
        epochs: passes over them in each round.
    """

    steps: int
    restarts: int
    minimum_steps: int
    scores: int
    decisions: int
    rounds: int
    epochs: int


_SETTINGS: Mapping[str, _Settings] = {
    "quick": _Settings(
        steps=10, restarts=1, minimum_steps=40, scores=50, decisions=50, rounds=0, epochs=10
    ),
    "standard": _Settings(
        steps=40, restarts=3, minimum_steps=100, scores=1000, decisions=1000, rounds=2, epochs=20
    ),
    "full": _Settings(
        steps=100, restarts=5, minimum_steps=200, scores=5000, decisions=5000, rounds=2, epochs=20
    ),
}


_LEAST_SEEN = 4000
"""So many images a substitute sees at least, each as often as it takes."""


def check_suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        ConfigurationError: there is no such suite.
    """
    if name not in get_args(Suite):
        raise ConfigurationError(
            f"There is no suite {name!r}. There are: {', '.join(get_args(Suite))}."
        )
    return cast("Suite", name)


def taught_by(guard: Guard, x: torch.Tensor, suite: Suite, seed: int) -> Distilled:
    """The substitute of a suite: taught by the guard's scores for images (N, C, H, W)."""
    own = _SETTINGS[suite]
    # of few images as much is learnt by more passes
    epochs = max(own.epochs, math.ceil(_LEAST_SEEN / max(1, len(x))))
    return distill(ScoresOnly(guard), x, rounds=own.rounds, epochs=epochs, seed=seed, batch_size=32)


def rounds_and_epochs(suite: Suite) -> tuple[int, int]:
    """How a suite's substitute is taught: rounds of augmentation, and epochs in each."""
    return _SETTINGS[suite].rounds, _SETTINGS[suite].epochs


def suite_plan(
    guard: Guard,
    suite: Suite,
    eps: Sequence[float | str],
    *,
    norm: str = "linf",
    threats: Sequence[str] = NAMES,
    substitutes: Mapping[str, Any] | None = None,
) -> Plan:
    """The attacks that suit a guard, each under its threat.

    Gradient attacks on whatever rejects are the detector-aware ones, among them C&W with the
    detector in its objective; chance is met with averaged gradients and hard parts with BPDA by the
    threats themselves. All eps get the gradient attacks; those that are dear (queries, ensembles)
    the largest. Minimum-norm attacks need no eps and count at every eps that they come under.

    Args:
        guard: what is examined.
        suite: how much work is put in.
        eps: budgets in [0,1] pixel units.
        norm: of the budgets, "linf" or "l2".
        threats: the names of those that are wanted.
        substitutes: what transfers are made from, by name.

    Raises:
        ConfigurationError: there is no eps or threat, or no such norm or threat, or one twice.
    """
    if norm not in ("linf", "l2"):
        raise ConfigurationError(f"Suites are for linf and l2; got norm={norm!r}.")
    check_list(eps)
    if not threats or len(set(threats)) < len(threats):
        raise ConfigurationError(
            f"A suite takes the names of threats, each once; got {list(threats)}. There are: "
            f"{', '.join(NAMES)}."
        )
    if not eps:
        raise ConfigurationError("A suite takes budgets: eps=[0.1, 0.2, 0.3] or eps=['8/255'].")
    unknown = [name for name in threats if name not in NAMES]
    if unknown:
        raise ConfigurationError(
            f"There is no threat {unknown[0]!r}. There are: {', '.join(NAMES)}."
        )
    radii = sorted({parse_size(one, what="eps") for one in eps})
    suited = _Suited(guard, suite, radii, norm)
    plan: Plan = []
    for name in threats:
        if name == TransferFrom.name:
            for called, substitute in (substitutes or {}).items():
                threat: Threat = TransferFrom(substitute, called)
                plan.extend((threat, attack) for attack in suited.transferred())
            continue
        made: dict[str, tuple[Threat, list[Attack]]] = {
            "oblivious": (Oblivious(), suited.oblivious()),
            "white-box": (WhiteBox(), suited.white_box()),
            "query-scores": (QueryScores(), suited.by_scores()),
            "query-decisions": (QueryDecisions(), suited.by_decisions()),
        }
        threat, attacks = made[name]
        plan.extend((threat, attack) for attack in attacks)
    return plan


class _Suited:
    """The attacks of one suite against one guard."""

    def __init__(self, guard: Guard, suite: Suite, radii: list[float], norm: str) -> None:
        self.guard, self.suite, self.radii, self.norm = guard, suite, radii, norm
        self.settings = _SETTINGS[suite]
        self.quick, self.full = suite == "quick", suite == "full"

    def _each(self, kind: type[Attack], **settings: Any) -> list[Attack]:
        return [kind(norm=self.norm, eps=eps, **settings) for eps in self.radii]  # type: ignore[call-arg]

    def oblivious(self) -> list[Attack]:
        """Those of the reports, noise of the same size among them."""
        own = self.settings
        found = self._each(RandomNoise, restarts=5 if self.quick else 10)
        found += self._each(FGSM) + self._each(PGD, steps=own.steps)
        if self.quick:
            return found
        found += self._each(BIM) + self._each(MIM)
        found += [DeepFool(), DDN(steps=own.minimum_steps)]
        if self.full:
            found += self._each(ILCM)
            found += [
                CarliniWagner(),
                CarliniWagner(confidence=10.0),
                NewtonFool(),
                JSMA(gamma=0.1),
            ]
        return found

    def white_box(self) -> list[Attack]:
        """Everything that sees the detector, or the strongest that there is where there is none."""
        own, largest = self.settings, self.radii[-1]
        common: dict[str, Any] = {"steps": own.steps, "restarts": own.restarts}
        found = self._each(PGD, **common)
        if self.guard.rejects:
            found += self._each(SelectivePGD, **common)
            if not self.quick:
                found += self._each(OrthogonalPGD, **common)
                found += [CarliniWagner(steps=1000 if self.full else 300)]
            return found
        found += [APGD(norm=self.norm, eps=largest, steps=own.steps, objective=DLR())]
        if not self.quick:
            found += [
                AutoAttack(
                    norm=self.norm,
                    eps=largest,
                    version="rand" if self.guard.stochastic else "standard",
                    queries=own.scores,
                ),
                DDN(steps=own.minimum_steps),
            ]
        if self.full:
            found += [CarliniWagner(), DeepFool(norm=self.norm)]
        return found

    def transferred(self) -> list[Attack]:
        """Those that carry over best: with momentum, and with confidence."""
        found: list[Attack] = [MIM(norm=self.norm, eps=self.radii[-1])]
        if not self.quick:
            found += [PGD(norm=self.norm, eps=self.radii[-1], steps=self.settings.steps)]
        if self.full:
            found += [CarliniWagner(confidence=10.0, steps=300)]
        return found

    def by_scores(self) -> list[Attack]:
        """Square; with more time NES as well."""
        own, largest = self.settings, self.radii[-1]
        found: list[Attack] = [Square(norm=self.norm, eps=largest, queries=own.scores)]
        if self.full:
            found += [NES(norm=self.norm, eps=largest, queries=own.scores)]
        return found

    def by_decisions(self) -> list[Attack]:
        """HopSkipJump, which needs no eps."""
        return [HopSkipJump(norm=self.norm, queries=self.settings.decisions)]
