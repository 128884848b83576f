"""APGD: steepest ascent with momentum whose step size adapts to each sample's progress."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from notsure.attacks.bounded import BoundedAttack
from notsure.attacks.goals import Goal, NextLikely
from notsure.attacks.objectives import Objective
from notsure.attacks.problem import Best, Problem
from notsure.core.errors import ConfigurationError

_MOMENTUM = 0.75


@dataclass(frozen=True, kw_only=True)
class APGD(BoundedAttack):
    """Auto-PGD: no step size to choose.

    Croce & Hein 2020 b. The step starts at 2 eps; at checkpoints that come ever closer a sample
    whose objective did not grow in three quarters of the steps, or not at all since the last one,
    halves its step and goes back to its best point. `objective` is `CrossEntropy()` (APGD-CE, the
    default) or `DLR()`. Each step costs a forward and a backward pass. Deviations: in l2 the step
    spends nothing on pixels at the end of the box; l1 takes the steepest step of that norm, not
    Croce & Hein 2021's sparse one.

    Attributes:
        steps: how many steps, at least 1.
        random_start: start at a random point of the ball, as published.
        targets: n > 0 makes n runs, each towards one wrong class, the likeliest first (APGD-T
            with `DLR()` and 9 targets).
        rho: the share of steps that have to make progress for a step size to be kept.
    """

    paper = "Croce & Hein 2020 (ICML)"
    cost = "restarts x max(targets, 1) x (steps x (F + B) + F)"
    steps: int = 100
    random_start: bool = True
    targets: int = 0
    rho: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 0 or not 0 < self.rho < 1:
            raise ConfigurationError("targets has to be at least 0 and rho in (0, 1).")

    @property
    def starts(self) -> int:
        """Restarts, each for every target class."""
        return self.restarts * max(self.targets, 1)

    def steer_of(self, problem: Problem, start: int) -> Goal | None:
        """The wrong class of this start, if each makes for one."""
        if self.targets == 0 or problem.goal.targeted:
            return super().steer_of(problem, start)
        return NextLikely(rank=start % self.targets + 1)

    @property
    def checkpoints(self) -> set[int]:
        """The steps after which the step size may be halved."""
        share, previous, found = 0.22, 0.0, set()
        while share < 1:
            found.add(math.ceil(share * self.steps - 1e-6))
            previous, share = share, share + max(share - previous - 0.03, 0.06)
        return found

    def ascend_from(
        self, problem: Problem, best: Best, objective: Objective, rows: torch.Tensor, start: int
    ) -> None:
        """Steps with momentum, the step halved where there is no progress."""
        norm, steer = self.geometry, self.steer_of(problem, start)
        x = problem.x[rows]
        state = _State(x, self.first_step(problem, rows, start), 2 * self.radius)
        checkpoints, last_checkpoint = self.checkpoints, 0
        for step in range(self.steps):
            candidate = x + state.delta
            ascent = problem.ascend(candidate, rows, objective, steer)
            best.offer(candidate, rows, ascent.reached, ascent.value)
            state.note(ascent.value, ascent.gradient)
            if self.early_stop and bool(ascent.reached.any()):
                left = ~ascent.reached
                rows, x = rows[left], x[left]
                state.keep(left)
                if len(rows) == 0:
                    return
            if step in checkpoints:
                state.adapt(step - last_checkpoint, self.rho)
                last_checkpoint = step
            low, high = -x, 1 - x
            length = state.length.view(-1, 1, 1, 1)
            move = norm.steepest_step(state.gradient, length, low - state.delta, high - state.delta)
            ahead = norm.project(state.delta + move, self.radius, low, high)
            if step > 0:
                drift = (1 - _MOMENTUM) * (state.delta - state.previous)
                ahead = state.delta + _MOMENTUM * (ahead - state.delta) + drift
                ahead = norm.project(ahead, self.radius, low, high)
            state.previous, state.delta = state.delta, ahead
        self.judge_last(problem, best, objective, rows, x + state.delta, steer)


class _State:
    """Where each sample of a run stands.

    Attributes:
        delta: the perturbation (R, C, H, W), and `previous` the one before.
        gradient: at `delta`.
        length: the step size (R,).
    """

    def __init__(self, x: torch.Tensor, delta: torch.Tensor, length: float) -> None:
        def per_sample(value: float) -> torch.Tensor:
            return torch.full((len(x),), value, dtype=x.dtype, device=x.device)

        self.delta, self.previous, self.gradient = delta, delta, torch.zeros_like(delta)
        self.best_delta, self.best_gradient = delta, self.gradient
        # the start is no progress
        self.length, self.value = per_sample(length), per_sample(torch.inf)
        self.best_value, self.best_before = per_sample(-torch.inf), per_sample(-torch.inf)
        self.progress = per_sample(0.0)
        self.kept_length = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def note(self, value: torch.Tensor, gradient: torch.Tensor) -> None:
        """Takes in what the target says at `delta`."""
        value = value.to(self.value.dtype)
        self.progress += (value > self.value).to(self.progress)
        self.value, self.gradient = value, gradient
        better = value > self.best_value
        mask = better.view(-1, 1, 1, 1)
        self.best_value = torch.where(better, value, self.best_value)
        self.best_delta = torch.where(mask, self.delta, self.best_delta)
        self.best_gradient = torch.where(mask, gradient, self.best_gradient)

    def adapt(self, steps: int, rho: float) -> None:
        """Halves the step of samples that made no headway, and sends them back to their best."""
        stuck = self.progress < rho * steps
        # a step that was kept at the last checkpoint and has not raised the best value since
        stuck |= self.kept_length & (self.best_value <= self.best_before)
        mask = stuck.view(-1, 1, 1, 1)
        self.length = torch.where(stuck, self.length / 2, self.length)
        self.delta = torch.where(mask, self.best_delta, self.delta)
        self.gradient = torch.where(mask, self.best_gradient, self.gradient)
        self.value = torch.where(stuck, self.best_value, self.value)
        self.kept_length, self.best_before = ~stuck, self.best_value
        self.progress = torch.zeros_like(self.progress)

    def keep(self, left: torch.Tensor) -> None:
        """Forgets the samples that are done."""
        for name, part in vars(self).items():
            setattr(self, name, part[left])
