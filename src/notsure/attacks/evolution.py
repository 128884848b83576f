"""NES: ascent along gradients that are estimated from queries, of scores or of labels alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from notsure.attacks.boundary import (
    blended_starts,
    check_confidence,
    check_queries,
    draw_nearer,
    project_each,
    queries_left,
)
from notsure.attacks.bounded import SteepestAscent
from notsure.attacks.gradients import NaturalEvolution
from notsure.attacks.objectives import Objective
from notsure.attacks.problem import AUTOGRAD, Best, GradientSource, Problem
from notsure.attacks.query import InDouble
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError
from notsure.core.target import Access, access_of

_PURPOSE = 0x4C42
"""Keeps what the label-only search draws apart from whatever else a sample draws."""

_SHRINKS = 10
"""How often the way back to the boundary is halved, at one answer each."""

_STRIDES = 10
"""How often a stride is halved at most until the goal holds."""


@dataclass(frozen=True, kw_only=True)
class NES(SteepestAscent):
    """Natural evolution strategies: the gradient is estimated from queries, none is ever taken.

    Ilyas et al. 2018; preaut equation 5. What it does depends on what the target shows.

    Scores: steepest ascent with momentum (the loop of MIM) on the estimates of `NaturalEvolution`;
    a step costs `samples` + 1 forward passes.

    Labels only: the value at a point is the share of random points around it that reach the goal,
    at most `mu` away in each pixel, `proxies` of them. The search starts at noise blended with the
    clean image, which reaches the goal but lies outside the ball, and moves in: it steps along the
    estimated gradient of that share on the sphere around the clean image, then shrinks the sphere
    towards eps while the goal holds, until it gets there. A step costs `samples` x `proxies`
    forward passes and some 15 more. `steps` counts these steps; `step_size`, `objective`,
    `restarts`, `random_start`, `steer` and `early_stop` are without effect there.

    Deviations from the paper: directions are taken both ways in pairs; of labels alone the radius
    is bisected in place of being lowered by a constant, the directions reach as far as `mu`, for a
    change far below that does not show in a share, and the start is noise, as no images of other
    classes are at hand.

    Against a stochastic target an answer is the mean of `votes` passes and costs as many.

    Attributes:
        steps: how many steps at most in each restart; 0 for as many as the queries allow.
        step_size: the length of a step; by default eps / 10.
        decay: momentum mu, as MIM uses it, which also averages the estimates over the steps.
        samples: forward passes an estimate, even (of labels alone: times `proxies`).
        sigma: how far the directions of an estimate from scores reach, in [0,1] pixel units. A
            target that shows its rejection as a mere verdict takes more, such as 0.05: an
            estimate sees of its threshold only what lies within reach.
        queries: forward passes a sample may take, the clean image's included; restarts share them.
        proxies: random points that stand for one of a label-only target.
        mu: how far these lie away, in [0,1] pixel units.
        initial_tries: noise images tried for the start of a label-only search.
    """

    needs = Access.DECISIONS
    paper = "Ilyas et al. 2018; preaut (5)"
    cost = "queries F; a step takes (samples + 1) F, from labels about samples x proxies F"

    steps: int = 0
    decay: float = 0.9
    samples: int = 50
    sigma: float = 1e-3
    queries: int = 10_000
    proxies: int = 1
    mu: float | str = 0.01
    initial_tries: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient != AUTOGRAD or self.precision != "fp32":
            raise ConfigurationError(
                "NES differentiates nothing: leave `gradient` and `precision` out. For other ways "
                "to a gradient give them to PGD."
            )
        # checks samples and sigma
        cost = NaturalEvolution(samples=self.samples, sigma=self.sigma).cost
        if self.proxies < 1 or self.initial_tries < 1:
            raise ConfigurationError("proxies and initial_tries have to be at least 1.")
        object.__setattr__(self, "mu", parse_size(self.mu, what="mu"))
        if not float(self.mu) > 0:
            raise ConfigurationError(f"mu has to be > 0; got {self.mu}.")
        least = 1 + self.restarts * (cost + 1)
        if self.queries < least:
            raise ConfigurationError(
                f"queries={self.queries} do not suffice: the clean image takes 1, a step costs "
                f"{cost} and judging what it leads to 1, in each restart. Give queries={least} or "
                "more, or fewer samples."
            )

    @property
    def fewest_steps(self) -> int:
        """0, which stands for as many as the queries allow."""
        return 0

    @property
    def source(self) -> GradientSource:
        """The estimates from scores."""
        return NaturalEvolution(samples=self.samples, sigma=self.sigma)

    @property
    def query_budget(self) -> int:
        """The queries."""
        return self.queries

    @property
    def default_step_size(self) -> float:
        """Eps / 10: estimates are dear, so that the steps are long."""
        return self.radius / 10

    def search(self, problem: Problem) -> torch.Tensor:
        """From scores where the target shows them, otherwise from labels."""
        rows = (~problem.untouched).nonzero().flatten()
        if len(rows) == 0 or self.radius == 0:
            return problem.x
        if access_of(problem.target) == Access.DECISIONS:
            return self._search_by_label(problem, rows)
        # a step of a stochastic target may have to ask twice whether it reached the goal
        step = self.samples + problem.draws * (2 if problem.target.stochastic else 1)
        left = queries_left(problem, rows, self.queries)
        check_queries(left, self.restarts * (step + problem.draws), "a step of each restart")
        affordable = (left // self.restarts - problem.draws) // step
        steps = min(self.steps or affordable, affordable)
        return SteepestAscent.search(replace(self, steps=steps), problem)

    def ascend_from(
        self, problem: Problem, best: Best, objective: Objective, rows: torch.Tensor, start: int
    ) -> None:
        """The usual loop; the objective in float64, for it is its differences that count."""
        super().ascend_from(problem, best, InDouble(of=objective), rows, start)

    def _search_by_label(self, problem: Problem, rows: torch.Tensor) -> torch.Tensor:
        """From an image that reaches the goal into the ball around the clean one."""
        check_confidence(self.confidence, problem)
        norm, found = self.geometry, problem.x.clone()
        # an estimate is of use only with a stride, and the way back, after it
        estimate = self.samples * self.proxies * problem.draws
        cost = estimate + 3 * problem.draws
        check_queries(queries_left(problem, rows, self.queries), cost, "a step from labels alone")
        rows, images = blended_starts(problem, rows, self.initial_tries)
        images = self._shrink(problem, rows, images)
        stride = torch.ones(len(rows), dtype=images.dtype, device=images.device)
        momentum = torch.zeros_like(images)
        taken = 0
        while True:
            distance = norm.distance(images - problem.x[rows])
            inside = distance <= self.radius * (1 + 1e-6)
            found[rows[inside]] = images[inside]
            if taken == self.steps > 0:
                break
            taken += 1
            able = ~inside & (problem.left(rows) * problem.draws >= cost)
            rows, images, stride = rows[able], images[able], stride[able]
            if len(rows) == 0:
                break
            slope = self._slope_of_share(problem, rows, images)
            size = slope.abs().flatten(1).sum(dim=1).view(-1, 1, 1, 1)
            momentum = self.decay * momentum[able] + slope / size.clamp_min(1e-30)
            images, stride = self._stride(problem, rows, images, momentum, stride)
            images = self._shrink(problem, rows, images)
        return found

    def _shrink(self, problem: Problem, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """As near to the clean images as the goal holds, eps at the nearest."""
        return draw_nearer(problem, self.geometry, rows, images, rounds=_SHRINKS, least=self.radius)

    def _slope_of_share(
        self, problem: Problem, rows: torch.Tensor, images: torch.Tensor
    ) -> torch.Tensor:
        """How the share of points around that reach the goal changes along each pixel."""
        gradient, shape = torch.zeros_like(images), images.shape[1:]
        for _ in range(self.samples // 2):
            streams = problem.streams.select(rows).fork(_PURPOSE).fork(problem.queries[rows])
            direction = streams.fork(1).normal(shape, dtype=images.dtype)
            rise = torch.zeros(len(rows), dtype=images.dtype, device=images.device)
            for proxy in range(self.proxies):
                # the same noise on both sides, so that it cancels
                noise = streams.fork(2 + proxy).uniform(shape, dtype=images.dtype) * 2 - 1
                for side in (1, -1):
                    point = images + float(self.mu) * (noise + side * direction)
                    rise += side * problem.ask(point.clamp_(0, 1), rows).reached
            gradient += rise.view(-1, 1, 1, 1) * direction
        return gradient / (self.samples * self.proxies * float(self.mu))

    def _stride(
        self,
        problem: Problem,
        rows: torch.Tensor,
        images: torch.Tensor,
        gradient: torch.Tensor,
        stride: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps on the sphere that each image lies on, halved until the goal holds.

        A stride (R,) is a share of the sphere's radius; four times what was found to do is
        tried next time. An image for which no stride does, or whose gradient is 0, stays.
        """
        norm, x = self.geometry, problem.x[rows]
        delta, images, given, stride = images - x, images.clone(), stride, stride.clone()
        radius = norm.distance(delta)
        waiting = (gradient != 0).flatten(1).any(dim=1)
        for _ in range(_STRIDES):
            todo = (waiting & (problem.left(rows) > 0)).nonzero().flatten()
            if len(todo) == 0:
                break
            here, from_ = x[todo], delta[todo]
            length = (stride[todo] * radius[todo]).view(-1, 1, 1, 1)
            low, high = -here - from_, 1 - here - from_
            step = norm.steepest_step(gradient[todo], length, low, high)
            candidate = here + project_each(norm, from_ + step, radius[todo], here)
            reached = problem.ask(candidate, rows[todo]).reached
            images[todo[reached]] = candidate[reached]
            stride[todo] = torch.where(reached, (4 * stride[todo]).clamp(max=1), stride[todo] / 2)
            waiting[todo[reached]] = False
        # where nothing did, the direction is at fault, not the stride
        return images, torch.where(waiting, given, stride)
