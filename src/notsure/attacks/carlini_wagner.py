"""C&W: the nearest adversarial image as a trade-off that a binary search settles."""

from __future__ import annotations

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
    Deviations: each sample leaves a round by itself once it no longer improves, and starts its next
    one at once, where it has come to, so that the batch stays full; f2 counts only from the
    decision boundary on, since a detector that judges the predicted class would pull the image back
    to its own; a walk back along the line to the clean image ends the search.

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
        state = _State(problem.x[rows], self.initial_constant)
        while len(rows):
            candidate = state.candidate
            ascent = problem.slope(candidate, rows, self._hinge(problem, rows))
            nearest.offer(candidate, rows, ascent.reached)
            state.succeeded |= ascent.reached
            state.step += 1
            done = state.step == self.steps
            looked_at = state.step % self.patience == 0
            if self.abort_early and bool(looked_at.any()):
                done |= looked_at & ~state.improves(ascent.value, looked_at, self.tolerance)
            state.descend(ascent.gradient, self.learning_rate)
            if bool(done.any()):
                self._next_round(problem, nearest, state, rows, done, candidate)
                going = state.round < self.binary_search_steps
                rows = rows[going]
                state.keep(going)
        nearest.walk_back(self.walk)
        return nearest.x

    def _next_round(
        self,
        problem: Problem,
        nearest: Nearest,
        state: _State,
        rows: torch.Tensor,
        done: torch.Tensor,
        candidate: torch.Tensor,
    ) -> None:
        """Gives those who are done with a round, bool (R,), their next c and their next start."""
        own = rows[done]
        start = problem.x[own]
        if self.warm_start:
            found = nearest.reached[own].view(-1, 1, 1, 1)
            start = torch.where(found, nearest.x[own], candidate[done])
        state.restart(done, start)

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


class _State:
    """Where each sample stands, each in a round and at a step of its own.

    Attributes:
        x: the clean images (R, C, H, W).
        w: the candidates in tanh-space, and `tanh` of it.
        constant: c (R,), between `lower`, which was too small, and `upper`, which succeeded.
        step: how many steps of its round a sample has taken, and `round` the number of the round.
        succeeded: whether the goal was reached in this round.
    """

    def __init__(self, x: torch.Tensor, constant: float) -> None:
        def per_sample(value: float) -> torch.Tensor:
            return torch.full((len(x),), value, dtype=x.dtype, device=x.device)

        self.x, self.w = x, _to_tanh(x)
        self.tanh = torch.tanh(self.w)
        self.mean, self.square = torch.zeros_like(x), torch.zeros_like(x)
        self.constant = per_sample(constant)
        self.lower, self.upper = per_sample(0.0), per_sample(_CONSTANT_LIMIT)
        self.lowest = per_sample(torch.inf)
        self.step = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.round = torch.zeros_like(self.step)
        self.succeeded = torch.zeros_like(self.step, dtype=torch.bool)

    @property
    def candidate(self) -> torch.Tensor:
        """The images, (R, C, H, W) in [0,1]."""
        return (self.tanh + 1) / 2

    def improves(
        self, missing: torch.Tensor, looked_at: torch.Tensor, tolerance: float
    ) -> torch.Tensor:
        """Where the loss has fallen since the last look, bool (R,); remembers what it is now."""
        delta = self.candidate - self.x
        loss = delta.flatten(1).square().sum(dim=1) + self.constant * missing
        improving = loss < self.lowest * (1 - tolerance)
        self.lowest = torch.where(looked_at, self.lowest.minimum(loss), self.lowest)
        return improving

    def descend(self, gradient: torch.Tensor, learning_rate: float) -> None:
        """One step of Adam."""
        slope = self.tanh + 1 - 2 * self.x + self.constant.view(-1, 1, 1, 1) * gradient
        slope *= (1 - self.tanh.square()) / 2
        self.mean.lerp_(slope, 1 - _BETA_1)
        self.square.mul_(_BETA_2).addcmul_(slope, slope, value=1 - _BETA_2)
        step = self.step.to(self.w.dtype)
        rate = learning_rate * (1 - _BETA_2**step).sqrt() / (1 - _BETA_1**step)
        move = self.mean / self.square.sqrt().add_(_EPSILON)
        self.w = self.w - rate.view(-1, 1, 1, 1) * move
        self.tanh = torch.tanh(self.w)

    def restart(self, done: torch.Tensor, start: torch.Tensor) -> None:
        """The next round of some samples, bool (R,), from these images."""
        c, succeeded = self.constant[done], self.succeeded[done]
        upper = torch.where(succeeded, c.minimum(self.upper[done]), self.upper[done])
        lower = torch.where(succeeded, self.lower[done], c.maximum(self.lower[done]))
        between = (lower + upper) / 2
        self.constant[done] = torch.where(upper < _CONSTANT_LIMIT, between, c * 10)
        self.upper[done], self.lower[done] = upper, lower
        self.w[done] = _to_tanh(start)
        self.tanh[done] = torch.tanh(self.w[done])
        self.mean[done], self.square[done], self.lowest[done] = 0, 0, torch.inf
        self.step[done], self.succeeded[done] = 0, False
        self.round[done] += 1

    def keep(self, going: torch.Tensor) -> None:
        """Forgets the samples that are done."""
        for name, part in vars(self).items():
            setattr(self, name, part[going])


def _to_tanh(images: torch.Tensor) -> torch.Tensor:
    return torch.atanh((2 * images - 1) * _INSIDE)
