"""FAB: the nearest adversarial image by projections onto linearised decision boundaries."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from notsure.attacks.geometry import Norm
from notsure.attacks.minimal import (
    MinimumNormAttack,
    Nearest,
    candidates_of,
    margins_to,
    next_boundary,
)
from notsure.attacks.problem import Problem
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class FAB(MinimumNormAttack):
    """Fast adaptive boundary attack: stays on the boundary, biased towards the clean image.

    Croce & Hein 2020 a. Each step projects the iterate and the clean image onto the nearest
    linearised boundary (exactly, within the box) and mixes the two; where the goal is reached, it
    goes a tenth of the way back. A step costs two forward passes and one backward pass per class
    looked at: all the candidates, or one where `targets` is given (FAB-T). Deviation: where the
    target rejects, an image of the wrong class that is rejected is projected onto the linearised
    threshold of the rejection.

    Attributes:
        steps: how many steps from each start.
        restarts: starts; further ones are random points around the clean image, at half the
            distance found so far (or half of `eps`).
        targets: 0 looks at all classes in each step; n > 0 makes n runs for one class each, the
            likeliest wrong ones, at the cost of one backward pass a step.
        candidates: how many classes are looked at where `targets` is 0, the likeliest ones.
        eps: a radius to stop at, for who asks no more than whether a sample falls within it;
            None to go on for the nearest image.
        alpha_max: how much of the clean image's projection may be mixed in.
        eta: how far beyond the boundary the projections go.
        beta: where a step succeeded, which share of the way from the clean image is kept.
        walk: forward passes for the way back at the end; 0 for none.
    """

    norms = ("linf", "l2", "l1")
    paper = "Croce & Hein 2020 (FAB, ICML)"
    cost = "restarts x steps x (2 F + candidates B), or restarts x targets x steps x (2 F + B)"
    norm: str = "linf"
    restarts: int = 1
    targets: int = 0
    candidates: int = 10
    eps: float | str | None = None
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    walk: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restarts < 1 or self.targets < 0 or self.candidates < 1 or self.walk < 0:
            raise ConfigurationError(
                "restarts and candidates have to be at least 1, targets and walk at least 0."
            )
        if not (0 <= self.alpha_max <= 1 <= self.eta and 0 < self.beta < 1):
            raise ConfigurationError(
                "alpha_max has to be in [0, 1], eta >= 1 and beta in (0, 1); got "
                f"{self.alpha_max}, {self.eta}, {self.beta}."
            )
        if self.eps is not None:
            object.__setattr__(self, "eps", parse_size(self.eps, what="eps"))

    @property
    def radius(self) -> float:
        """The radius to stop at; infinite for none."""
        return torch.inf if self.eps is None else float(self.eps)

    def search(self, problem: Problem) -> torch.Tensor:
        """Runs from every start for every target class."""
        nearest = Nearest(problem, self.geometry)
        everything = torch.arange(len(problem.x), device=problem.x.device)
        classes = candidates_of(problem, everything, self.targets or self.candidates)
        runs = classes[:, None] if self.targets == 0 else classes[:, :, None]
        for restart in range(self.restarts):
            for run in range(runs.shape[1]):
                open_rows = ~problem.untouched
                if self.eps is not None:
                    open_rows &= nearest.distance > self.radius
                rows = open_rows.nonzero().flatten()
                if len(rows):
                    self._run(problem, nearest, rows, runs[rows, run], restart)
        if self.eps is None:
            nearest.walk_back(self.walk)
        return nearest.x

    def _start(
        self, problem: Problem, nearest: Nearest, rows: torch.Tensor, restart: int
    ) -> torch.Tensor:
        x = problem.x[rows]
        if restart == 0:
            return x
        norm = self.geometry
        direction = norm.random_point(problem.streams.select(rows).fork(restart), x, 1.0)
        reach = nearest.distance[rows].clamp(
            max=min(self.radius, norm.largest_radius(x[0].numel()))
        )
        length = (reach / 2 / norm.distance(direction).clamp_min(1e-30)).view(-1, 1, 1, 1)
        return (x + length * direction).clamp(0, 1)

    def _run(
        self,
        problem: Problem,
        nearest: Nearest,
        rows: torch.Tensor,
        classes: torch.Tensor,
        restart: int,
    ) -> None:
        norm, x = self.geometry, problem.x[rows]
        current = self._start(problem, nearest, rows, restart)
        for _ in range(self.steps):
            function = margins_to(problem, rows, classes, self.kappa(problem))
            ascent = problem.slope(current, rows, function)
            slope, rise = next_boundary(norm, ascent.value, ascent.gradient, classes.shape[1])
            # what the linearised function has to grow by from the clean image
            clean_rise = rise + (slope * (current - x)).flatten(1).sum(dim=1)
            step = _signed(norm, slope, rise, current)
            clean_step = _signed(norm, slope, clean_rise, x)
            far, clean_far = norm.distance(step), norm.distance(clean_step)
            share = (far / (far + clean_far).clamp_min(1e-12)).clamp(max=self.alpha_max)
            share = share.view(-1, 1, 1, 1)
            current = (1 - share) * (current + self.eta * step) + share * (
                x + self.eta * clean_step
            )
            current = current.clamp(0, 1)
            reached = problem.ask(current, rows).reached
            nearest.offer(current, rows, reached)
            back = x + self.beta * (current - x)
            current = torch.where(reached.view(-1, 1, 1, 1), back, current)
            if self.eps is not None and bool(reached.any()):
                left = nearest.distance[rows] > self.radius
                rows, x, current, classes = rows[left], x[left], current[left], classes[left]
                if len(rows) == 0:
                    return


def _signed(norm: Norm, slope: torch.Tensor, rise: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The shortest step within the box that changes the linear function by `rise`, up or down."""
    sign = torch.where(rise < 0, -1.0, 1.0).to(slope).view(-1, 1, 1, 1)
    return norm.shortest_step(slope * sign, rise.abs(), -x, 1 - x)
