"""The black-box road: attack a substitute, and carry the images over to the target."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import nn

from notsure.attacks.base import Attack, Budget
from notsure.attacks.distillation import Distilled, distill
from notsure.attacks.goals import Goal, Undetected
from notsure.attacks.problem import Problem
from notsure.classifier import Classifier, as_target
from notsure.core.errors import ConfigurationError
from notsure.core.state import undisturbed, weights_hash
from notsure.core.target import Access, Target
from notsure.views import checked_images

__all__ = ["Distilled", "Transfer", "distill"]

_PURPOSE = 0x5452
"""Keeps what a stochastic substitute draws apart from what the target is judged by."""


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Attacks a substitute and lets the target judge what comes out.

    Papernot et al. 2017; pang section 4.5; martin section 5.1.2. Nothing of the target is needed
    but its decision. The attacker cannot see when the target falls, so that the search does not end
    when the substitute does: a sample that the substitute gets wrong without any attack is attacked
    all the same, and what did not fool the substitute is proposed as well.

    The goal on the substitute speaks of the same labels as the judged one. It includes being
    accepted where both that goal does and the substitute may reject, and it takes the attack's
    `confidence`, which the target does not have to show.

    Costs: one answer of the target per sample, for the clean image. `queries` and `gradients` count
    passes over the target only; those over the substitute are free to the attacker.

    Attributes:
        attack: what is run against the substitute; its budget bounds the result. A minimum-norm
            attack ends at the substitute's decision boundary: give it a `confidence`.
        substitute: a Classifier, a Guard, any other Target, or a bare module on [0,1] images, of
            as many classes as the target, on the images' device and of their dtype.
        early_stop: whether an attack that can stops once the substitute is fooled; it takes the
            place of the attack's own setting.

    Raises:
        ConfigurationError: `attack` is no attack.
        UnsupportedError: the attack does not apply to the substitute.
    """

    needs = Access.DECISIONS
    paper = "Papernot et al. 2017"
    cost = "F; the substitute's passes are free"
    attack: Attack
    substitute: Target | nn.Module
    early_stop: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise ConfigurationError(
                f"attack={self.attack!r} is no attack: give an instance such as PGD(eps=0.3)."
            )
        substitute = as_target(self.substitute)
        self.attack.require(substitute)
        object.__setattr__(self, "substitute", substitute)
        if any(one.name == "early_stop" for one in fields(self.attack)):
            setting: dict[str, Any] = {"early_stop": self.early_stop}
            object.__setattr__(self, "attack", replace(self.attack, **setting))

    @property
    def name(self) -> str:
        """The class's name with that of the attack which is carried over."""
        return f"{type(self).__name__}({self.attack.name})"

    @property
    def budget(self) -> Budget | None:
        """As the attack's."""
        return self.attack.budget

    def settings(self) -> dict[str, Any]:
        """The attack with its settings, and what tells one substitute from another."""
        return {
            "attack": {"name": self.attack.name, **self.attack.settings()},
            "substitute": _description(as_target(self.substitute)),
            "early_stop": self.early_stop,
        }

    def with_eps(self, eps: float | str) -> Transfer:
        """The same transfer of the attack in another ball.

        Raises:
            ConfigurationError: the attack is not bounded by a ball.
        """
        with_eps = getattr(self.attack, "with_eps", None)
        if with_eps is None:
            raise ConfigurationError(f"{self.attack.name} has no eps to change.")
        return replace(self, attack=with_eps(eps))

    def search(self, problem: Problem) -> torch.Tensor:
        """Runs the attack on the substitute."""
        substitute = as_target(self.substitute)
        x = checked_images(substitute, problem.x)
        with undisturbed(substitute, x.device):
            inner = Problem(
                substitute,
                x,
                problem.y,
                self._goal_on(substitute, problem.goal),
                problem.streams.fork(_PURPOSE),
                source=self.attack.source,
                query_budget=self.attack.query_budget,
                votes=problem.votes,
                precision=self.attack.search_precision,
            )
            theirs, ours = problem.clean.logits.shape[1], inner.clean.logits.shape[1]
            if ours != theirs:
                raise ConfigurationError(
                    f"The substitute tells {ours} classes apart, the target {theirs}: give a "
                    "substitute of the same classes, such as distill(target, x) yields."
                )
            # a goal may find its labels in the clean logits: the target's are those judged by
            inner.labels = problem.labels
            # whom there is nothing to do for is known from the target, not from the substitute
            inner.untouched = problem.untouched
            return self.attack.search(inner)

    def _goal_on(self, substitute: Target, goal: Goal) -> Goal:
        if isinstance(goal, Undetected):
            bare = self._goal_on(substitute, goal.goal)
            return replace(goal, goal=bare) if substitute.rejects else bare
        if not hasattr(goal, "confidence") or self.attack.asked_margin <= goal.kappa:
            return goal
        setting: dict[str, Any] = {"confidence": self.attack.asked_margin}
        return replace(goal, **setting)


def _description(target: Target) -> dict[str, Any]:
    """What a substitute's answers depend on, as JSON-ready values."""
    parts = list(target.modules()) if isinstance(target, nn.Module) else []
    found: dict[str, Any] = {
        "name": type(target).__name__,
        "weights": weights_hash(target) if isinstance(target, nn.Module) else None,
        "classifiers": [
            {"module": type(part.module).__name__, **part.settings()}
            for part in parts
            if isinstance(part, Classifier)
        ],
    }
    thresholds = getattr(target, "calibration", None)
    if is_dataclass(thresholds) and not isinstance(thresholds, type):
        found["calibration"] = asdict(thresholds)
    return found
