"""PGD against classifier and detector at once: orthogonal and selective."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from notsure.attacks.bounded import SteepestAscent
from notsure.attacks.goals import Goal, lead
from notsure.attacks.objectives import DetectorAware, Objective
from notsure.attacks.problem import Ascent, Problem
from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.target import Access, Response


@dataclass(frozen=True, kw_only=True)
class _TwoGradients(SteepestAscent):
    """PGD on one of two gradients at a time: the class's, or the detector's.

    Attributes:
        slack: the logit margin that the class gradient goes for before the detector's turn.
    """

    goals = "any that has to be accepted"
    paper = "Bryniarski et al. 2021"
    cost = "restarts x (steps x (F + 2 B) + F)"
    steps: int = 100
    random_start: bool = True
    slack: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slack < 0:
            raise ConfigurationError(f"slack has to be at least 0; got {self.slack}.")

    def search(self, problem: Problem) -> torch.Tensor:
        """As every bounded search; the target has to be one that rejects."""
        if not problem.goal.undetected or problem.clean.rejection is None:
            raise UnsupportedError(
                f"{self.name} fools a classifier and a detector, and "
                f"{type(problem.target).__name__} rejects nothing (or the goal does not ask to be "
                "accepted): use PGD."
            )
        return super().search(problem)

    def climb(
        self,
        problem: Problem,
        candidate: torch.Tensor,
        rows: torch.Tensor,
        objective: Objective,
        steer: Goal | None,
    ) -> Ascent:
        """One forward and two backward passes; the direction of whichever has its turn."""
        goal, labels = problem.aim(rows, steer)
        base = objective.base if isinstance(objective, DetectorAware) else objective
        wanted = max(self.slack, problem.goal.kappa)

        def both(response: Response) -> torch.Tensor:
            rejection = response.rejection
            if rejection is None:
                rejection = torch.zeros_like(response.logits[:, 0])
            return torch.stack([base(response, labels, goal), -rejection], dim=1)

        ascent = problem.slope(candidate, rows, both)
        by = lead(ascent.response.logits, labels, goal)
        class_gradient, detector_gradient = ascent.gradient[:, 0], ascent.gradient[:, 1]
        direction = self.direction(by >= wanted, class_gradient, detector_gradient)
        value = objective(ascent.response, labels, goal)
        return Ascent(ascent.response, ascent.reached, value, direction)

    def direction(
        self, crossed: torch.Tensor, class_gradient: torch.Tensor, detector_gradient: torch.Tensor
    ) -> torch.Tensor:
        """Where to go from here, (R, C, H, W); `crossed`, bool (R,), is where the class is won."""
        return torch.where(crossed.view(-1, 1, 1, 1), detector_gradient, class_gradient)


@dataclass(frozen=True, kw_only=True)
class SelectivePGD(_TwoGradients):
    """Selective PGD: the class's gradient until the class is wrong, then the detector's.

    Bryniarski et al. 2021. Never both at once, which would trade one against the other. Each step
    costs one forward and one backward pass, two where the target is stochastic or gradients are
    estimated: there it shows only afterwards whose turn it is. Deviation: the class counts as won
    at a margin of `slack`, so that the two do not take turns at every step on the boundary itself.
    """

    cost = "restarts x (steps x (F + B) + F)"

    def climb(
        self,
        problem: Problem,
        candidate: torch.Tensor,
        rows: torch.Tensor,
        objective: Objective,
        steer: Goal | None,
    ) -> Ascent:
        """The gradient of whichever has its turn."""
        if problem.target.stochastic or problem.source.needs != Access.GRADIENTS:
            return super().climb(problem, candidate, rows, objective, steer)
        goal, labels = problem.aim(rows, steer)
        base = objective.base if isinstance(objective, DetectorAware) else objective
        wanted = max(self.slack, problem.goal.kappa)

        def turn(response: Response) -> torch.Tensor:
            crossed = lead(response.logits.detach(), labels, goal) >= wanted
            values = base(response, labels, goal)
            if response.rejection is None:
                return values
            return torch.where(crossed, -response.rejection, values)

        ascent = problem.slope(candidate, rows, turn)
        value = objective(ascent.response, labels, goal)
        return Ascent(ascent.response, ascent.reached, value, ascent.gradient)


@dataclass(frozen=True, kw_only=True)
class OrthogonalPGD(_TwoGradients):
    """Orthogonal PGD: as the selective one, each gradient without its part along the other's.

    Bryniarski et al. 2021. A step for the class then leaves the detector's score as it is to first
    order, and a step against the detector the class. Each step costs one forward and two backward
    passes. Deviation: as `SelectivePGD`.
    """

    def direction(
        self, crossed: torch.Tensor, class_gradient: torch.Tensor, detector_gradient: torch.Tensor
    ) -> torch.Tensor:
        """The gradient whose turn it is, orthogonal to the other."""
        turn = super().direction(crossed, class_gradient, detector_gradient)
        other = super().direction(~crossed, class_gradient, detector_gradient)
        flat, along = turn.flatten(1), other.flatten(1)
        # scaled first, so that tiny gradients do not vanish when they are squared
        along = along / along.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
        share = (flat * along).sum(dim=1, keepdim=True)
        share = share / along.square().sum(dim=1, keepdim=True).clamp_min(1e-30)
        return (flat - share * along).view_as(turn)
