"""AutoAttack: four attacks that nobody has to tune, one after the other on who still stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from notsure.attacks.apgd import APGD
from notsure.attacks.base import Attack, Budget, GradientAttack, into
from notsure.attacks.fab import FAB
from notsure.attacks.geometry import check_norm, norm_named
from notsure.attacks.gradients import EOT
from notsure.attacks.objectives import DLR, CrossEntropy
from notsure.attacks.problem import Problem
from notsure.attacks.query import Square
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError

Version = Literal["standard", "rand"]

_TARGETS = 9
_DRAWS = 20


@dataclass(frozen=True, kw_only=True)
class AutoAttack(GradientAttack):
    """The ensemble that robust accuracy is compared by.

    Croce & Hein 2020 b. "standard" runs APGD-CE, APGD-T (DLR, 9 targets), FAB-T (9 targets) and
    Square (5,000 queries), each with 100 steps and one start; "rand", for stochastic targets, runs
    APGD-CE and APGD-DLR on gradients averaged over 20 draws. Only samples that still stand go on
    to the next attack. With fewer than ten classes there are as many targets as wrong classes, and
    DLR gives way to the margin below four. Deviation: every attack judges the goal as it is, so
    that against a guard all of them have to be accepted too.

    Attributes:
        norm: "linf" or "l2".
        eps: the ball's radius in [0,1] pixel units; a number or a string such as "8/255".
        version: "standard" or "rand".
        steps: of APGD and FAB.
        queries: of Square.
    """

    norms = ("linf", "l2")
    paper = "Croce & Hein 2020 (ICML)"
    cost = "its parts' on the samples that stand: APGD, APGD-T, FAB-T, Square"
    norm: str = "linf"
    eps: float | str = 0.3
    version: Version = "standard"
    steps: int = 100
    queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.name, self.norm, self.norms)
        if self.version not in get_args(Version):
            raise ConfigurationError(
                f"version is {' or '.join(get_args(Version))}; got {self.version!r}."
            )
        # the parts check the rest
        radius = APGD(norm=self.norm, eps=self.eps, steps=self.steps).radius
        object.__setattr__(self, "eps", radius)

    @property
    def budget(self) -> Budget:
        """The ball."""
        return Budget(norm_named(self.norm), float(self.eps))

    @property
    def parts(self) -> list[Attack]:
        """The attacks, in their order."""
        common: dict[str, Any] = {"norm": self.norm, "eps": self.eps, "steps": self.steps}
        if self.version == "rand":
            source = EOT(n=_DRAWS, of=self.gradient)
            return [
                APGD(objective=objective, gradient=source, **common)
                for objective in (CrossEntropy(), DLR())
            ]
        common["gradient"] = self.gradient
        return [
            APGD(objective=CrossEntropy(), **common),
            APGD(objective=DLR(), targets=_TARGETS, **common),
            FAB(targets=_TARGETS, **common),
            Square(norm=self.norm, eps=self.eps, queries=self.queries),
        ]

    def search(self, problem: Problem) -> torch.Tensor:
        """Runs the parts, each on the samples that stand."""
        found = problem.x.clone()
        rows = (~problem.untouched).nonzero().flatten()
        for attack in self.parts:
            if len(rows) == 0:
                break
            part = problem.part(rows, source=attack.source, budget=attack.query_budget)
            proposal = attack.search(part)
            proposal = into(self.budget, proposal, part.x)
            part.query_budget = None
            reached = part.ask(proposal, torch.arange(len(rows), device=rows.device)).reached
            problem.absorb(part, rows)
            found[rows[reached]] = proposal[reached]
            rows = rows[~reached]
        return found

    def with_eps(self, eps: float | str) -> AutoAttack:
        """The same attack in another ball."""
        return replace(self, eps=parse_size(eps, what="eps"))
