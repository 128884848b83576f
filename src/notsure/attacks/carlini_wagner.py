"""C&W: the nearest adversarial image as a trade-off that a binary search settles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from notsure.attacks.goals import lead
from notsure.attacks.minimal import MinimumNormAttack, Nearest
from notsure.attacks.problem import Function, Problem
from notsure.core.errors import ConfigurationError
from notsure.core.target import Response

_INSIDE = 1 - 1e-6
"""Pixels of 0 and 1 start this little inside the box: at its end tanh could not move them."""

_CONSTANT_LIMIT = 1e10
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(MinimumNormAttack):
    """Minimises |x' - x|^2 + c * f(x') over tanh-space by Adam, c by a binary search.

    Carlini & Wagner 2017 a; pang 2.3, martin. f = max(kappa - m, 0), with m how far the wanted
    decision is ahead in logits: 0 where the goal is reached. With `confidence` 10 it is pang's
    C&W-hc. Against a target that rejects it is pang's C&W-wb (section 4.4, after Carlini & Wagner
    2017 b): once the decision is the wanted one, f2 = max(rejection + rejection_slack, 0) joins f,
    for any rejection that can be differentiated; in a guard's units a slack of 1 is the score of
    the median clean image, pang's eta (there the median of the training set).

    Each step costs a forward and a backward pass: `binary_search_steps` * `steps` of them at most.
    Deviations: each sample leaves a round by itself once it no longer improves, and starts the
    next one where it has come to; f2 counts only from the decision boundary on, since a detector
    that judges the predicted class would pull the image back to its own; a walk back along the
    line to the clean image ends the search.

    Attributes:
        steps: Adam's steps in a round, at most (pang: 10,000).
        binary_search_steps: rounds.
        learning_rate: Adam's.
        initial_constant: the first c.
        abort_early: whether a sample leaves a round that no longer improves.
        patience: after how many steps that is looked at.
        tolerance: by which share the loss has to have fallen since the last look.
        warm_start: whether a round starts where the ones before have come: at the nearest image
            found, or else at their end. Without it every round starts at the clean image, as
            published, and takes hundreds of steps to move pixels of 0 and 1 at all.
        rejection_slack: how far below the threshold the rejection is pushed.
        walk: forward passes for the way back; 0 for none.
    """

    paper = "Carlini & Wagner 2017"
    cost = "binary_search_steps x steps x (F + B) + walk F"
    steps: int = 1000
    binary_search_steps: int = 9
    learning_rate: float = 0.01
    initial_constant: float = 1e-3
    abort_early: bool = True
    patience: int = 50
    tolerance: float = 1e-3
    warm_start: bool = True
    rejection_slack: float = 1.0
    walk: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.binary_search_steps < 1 or self.walk < 0:
            raise ConfigurationError(
                "binary_search_steps has to be at least 1 and walk at least 0; got "
                f"{self.binary_search_steps} and {self.walk}."
            )
        if self.patience < 1 or not 0 <= self.tolerance < 1:
            raise ConfigurationError(
                "patience has to be at least 1 and tolerance in [0, 1); got "
                f"{self.patience} and {self.tolerance}."
            )
        if not (self.learning_rate > 0 and self.initial_constant > 0 <= self.rejection_slack):
            raise ConfigurationError(
                "learning_rate and initial_constant have to be > 0, rejection_slack >= 0; got "
                f"{self.learning_rate}, {self.initial_constant}, {self.rejection_slack}."
            )

    def search(self, problem: Problem) -> torch.Tensor:
        """One optimisation for each c; c falls after a success and grows after a failure."""
        nearest = Nearest(problem, self.geometry)
        rows = (~problem.untouched).nonzero().flatten()
        constant = torch.full_like(nearest.distance, self.initial_constant)
        lower, upper = torch.zeros_like(constant), torch.full_like(constant, _CONSTANT_LIMIT)
        last = problem.x.clone()
        for _ in range(self.binary_search_steps):
            if len(rows) == 0:
                break
            succeeded = self._minimise(problem, nearest, rows, constant[rows], last)
            c = constant[rows]
            upper[rows] = torch.where(succeeded, c.minimum(upper[rows]), upper[rows])
            lower[rows] = torch.where(succeeded, lower[rows], c.maximum(lower[rows]))
            bracketed = upper[rows] < _CONSTANT_LIMIT
            constant[rows] = torch.where(bracketed, (lower[rows] + upper[rows]) / 2, c * 10)
            if self.warm_start:
                best = nearest.reached.view(-1, 1, 1, 1)
                last = torch.where(best, nearest.x, last)
            else:
                last = problem.x.clone()
        nearest.walk_back(self.walk)
        return nearest.x

    def _minimise(
        self,
        problem: Problem,
        nearest: Nearest,
        rows: torch.Tensor,
        constant: torch.Tensor,
        last: torch.Tensor,
    ) -> torch.Tensor:
        """Adam from `last`, which is moved to where it ends; where it succeeded, bool (R,)."""
        succeeded = torch.zeros(len(nearest.x), dtype=torch.bool, device=rows.device)
        first = rows
        x = problem.x[rows]
        w = torch.atanh((2 * last[rows] - 1) * _INSIDE)
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        lowest = torch.full_like(constant, torch.inf)
        for step in range(1, self.steps + 1):
            tanh = torch.tanh(w)
            candidate = (tanh + 1) / 2
            ascent = problem.slope(candidate, rows, self._hinge(problem, rows))
            nearest.offer(candidate, rows, ascent.reached)
            succeeded[rows] |= ascent.reached
            delta, gradient = candidate - x, ascent.gradient
            if step % self.patience == 0 or step == self.steps:
                loss = delta.flatten(1).square().sum(dim=1) + constant * ascent.value
                going = loss < lowest * (1 - self.tolerance)
                lowest = lowest.minimum(loss)
                last[rows] = candidate
                if self.abort_early and not bool(going.all()):
                    rows, x, w, tanh, delta = (part[going] for part in (rows, x, w, tanh, delta))
                    mean, square, gradient = mean[going], square[going], gradient[going]
                    constant, lowest = constant[going], lowest[going]
                    if len(rows) == 0:
                        break
            slope = 2 * delta + constant.view(-1, 1, 1, 1) * gradient
            slope *= (1 - tanh.square()) / 2
            mean.lerp_(slope, 1 - _BETA_1)
            square.mul_(_BETA_2).addcmul_(slope, slope, value=1 - _BETA_2)
            rate = self.learning_rate * math.sqrt(1 - _BETA_2**step) / (1 - _BETA_1**step)
            w = w.addcdiv_(mean, square.sqrt().add_(_EPSILON), value=-rate)
        return succeeded[first]

    def _hinge(self, problem: Problem, rows: torch.Tensor) -> Function:
        """What c multiplies: how much of the margin is missing, then of the acceptance."""
        goal, labels = problem.goal, problem.labels[rows]
        slack = max(self.rejection_slack, goal.rejection_slack)
        kappa = self.kappa(problem)

        def hinge(response: Response) -> torch.Tensor:
            by = lead(response.logits, labels, goal)
            missing = (kappa - by).clamp_min(0)
            if goal.undetected and response.rejection is not None:
                detected = (response.rejection + slack).clamp_min(0)
                missing = missing + torch.where(by > 0, detected, 0)
            return missing

        return hinge
