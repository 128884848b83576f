"""NewtonFool: gradient steps that bring down the probability of a class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from notsure.attacks.goals import Undetected
from notsure.attacks.minimal import MinimumNormAttack, Nearest, next_boundary
from notsure.attacks.problem import Ascent, Function, Problem
from notsure.core.errors import ConfigurationError
from notsure.core.target import Response

_BEYOND = 0.02
"""By how much a step goes beyond what it aims at, where exactly there would not do."""


@dataclass(frozen=True, kw_only=True)
class NewtonFool(MinimumNormAttack):
    """Small gradient steps that lower the probability of the class until it is lost.

    Jang et al. 2017; martin. With F the softmax probability of the label, g its gradient at the
    iterate and x0 the clean image, a step is -delta * g / |g|^2 for
    delta = min(eta * |x0| * |g|, F - 1/K): no longer than eta * |x0|, and no longer than what
    brings the linearised F down to 1/K, where the class cannot be the likeliest. Each step costs
    one forward and one backward pass (two backward passes where the goal includes being
    accepted), the last step one more forward pass.

    Deviations: the paper takes a fixed number of steps; here a sample stops when its goal is
    reached, and a walk back along the line to the clean image may follow. Iterates are clipped
    to [0,1]. For |x0| at least 1 is taken, since a black image would not move. With a confidence
    kappa > 0, 1/K becomes 1 / (1 + (K - 1) * exp(kappa)), below which some other logit is kappa
    ahead. A targeted goal raises the target's probability in the same way, to
    1 / (1 + exp(-kappa)) at most. Each step takes at least 2 % of what is left of F (of 1 - F for
    a target), as far as eta allows: at 1/K itself it would be 0. Where the target rejects, an
    image of a right class that is rejected moves on across the linearised threshold of the
    rejection, along its class's boundary, by steps of the same longest length.

    The slope is taken of log(F / (1 - F)) and converted by the chain rule: in exact arithmetic
    the steps are the same, but F itself rounds to 1 on confident networks and has no slope there.

    Attributes:
        steps: how many steps at most.
        eta: the longest step, as a share of the length of the clean image.
        walk: forward passes for the way back; 0 for none, as in the paper. The last step overshoots
            by eta * |x0| at most, so that it gains little unless eta is large.
    """

    paper = "Jang et al. 2017"
    cost = "steps x (F + B) + (1 + walk) F"
    eta: float = 0.01
    walk: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eta < float("inf"):
            raise ConfigurationError(
                f"eta is the longest step as a share of the image's length, > 0; got {self.eta}."
            )
        if self.walk < 0:
            raise ConfigurationError(
                f"walk is a number of forward passes, at least 0; got {self.walk}."
            )

    def search(self, problem: Problem) -> torch.Tensor:
        """Steps until the goal is reached, then walks back."""
        norm, nearest = self.geometry, Nearest(problem, self.geometry)
        rows = (~problem.untouched).nonzero().flatten()
        x = problem.x[rows]
        longest = self.eta * norm.distance(x).clamp_min(1)
        for _ in range(self.steps):
            if len(rows) == 0:
                break
            ascent = problem.slope(x, rows, _log_odds(problem, rows))
            nearest.offer(x, rows, ascent.reached)
            left = ~ascent.reached
            slope, rise = self._next_step(problem, rows, ascent)
            rows, x, longest = rows[left], x[left], longest[left]
            slope, rise = slope[left], rise[left]
            size = norm.distance(slope).clamp_min(1e-30)
            length = longest.minimum(rise.clamp_min(0) / size)
            x = (x + (length / size).view(-1, 1, 1, 1) * slope).clamp_(0, 1)
        if len(rows):
            nearest.offer(x, rows, problem.ask(x, rows).reached)
        nearest.walk_back(self.walk)
        return nearest.x

    def _next_step(
        self, problem: Problem, rows: torch.Tensor, ascent: Ascent
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The linear function to raise, (R, C, H, W), and by how much, (R,)."""
        goal, response = problem.goal, ascent.response
        inner = goal.goal if isinstance(goal, Undetected) else goal
        kappa = self.kappa(problem)
        rivals = 1 if goal.targeted else response.logits.shape[1] - 1
        # what the label may keep, or the rest beside a target: 1 / (1 + rivals * exp(kappa))
        spare = math.exp(-kappa) / (math.exp(-kappa) + rivals)
        odds = ascent.value[:, 0]
        chance, rest = torch.sigmoid(odds), torch.sigmoid(-odds)
        missing = (rest - spare).maximum(_BEYOND * rest) / (chance * rest)
        values = [torch.where(inner.reached(response, problem.labels[rows]), 0, -missing)]
        if ascent.value.shape[1] > 1:
            values.append((1 + _BEYOND) * ascent.value[:, 1])
        return next_boundary(self.geometry, torch.stack(values, dim=1), ascent.gradient, 1)


def _log_odds(problem: Problem, rows: torch.Tensor) -> Function:
    """log(P / (1 - P)) of a target, or of all classes but the label, (R, 1).

    A goal that includes being accepted adds a column: how far the rejection is below its limit.
    """
    labels, goal = problem.labels[rows, None], problem.goal

    def function(response: Response) -> torch.Tensor:
        logits = response.logits
        others = logits.scatter(1, labels, -torch.inf).logsumexp(dim=1)
        odds = logits.gather(1, labels)[:, 0] - others
        values = [odds if goal.targeted else -odds]
        if goal.undetected and response.rejection is not None:
            values.append(-response.rejection - goal.rejection_slack)
        return torch.stack(values, dim=1)

    return function
