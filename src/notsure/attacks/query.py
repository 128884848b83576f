"""Query attacks: Square from scores, HopSkipJump from decisions; no gradient is ever taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from notsure.attacks.base import Attack, Budget
from notsure.attacks.boundary import (
    blended_starts,
    check_confidence,
    check_queries,
    draw_nearer,
    queries_left,
)
from notsure.attacks.geometry import L2, check_norm, norm_named
from notsure.attacks.goals import Goal, check_kappa
from notsure.attacks.minimal import Nearest
from notsure.attacks.objectives import MARGIN, CrossEntropy, Objective
from notsure.attacks.problem import Best, Problem, objective_for
from notsure.attacks.squares import grid, recoloured, shifted, stripes
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError
from notsure.core.randomness import Streams
from notsure.core.target import Access, Response

_SQUARE, _JUMP = 0x5351, 0x484F
"""Keep what one part draws apart from whatever else a sample draws."""

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After which of 10000 steps Square halves the share of pixels that it changes."""

_SMALL = 15
"""Below this many pixels of width or height, the windows of l2 may be 2 pixels wide."""

_MOST_HALVINGS = 25


@dataclass(frozen=True, kw_only=True)
class InDouble(Objective):
    """An objective computed in float64, whatever the target answers in.

    Queries compare values that differ by little, and float32 would swallow it: of cross-entropy
    where the network is sure, and of `DetectorAware`, whose first stage counts from -1e6.

    Attributes:
        of: the objective.
    """

    of: Objective

    def __call__(self, response: Response, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """The value of each sample, float64 (B,)."""
        rejection = response.rejection
        exact = Response(
            response.logits.double(), None if rejection is None else rejection.double()
        )
        return self.of(exact, labels, goal)


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random search by squares: a change of one square is kept if it comes closer to the goal.

    Andriushchenko et al. 2020. It needs scores; a step is one forward pass, and no gradient is
    taken, so that it also tells a network that hides its gradients from one that is robust. In
    linf it starts from vertical stripes of +-eps and recolours squares with +-eps; in l2 it starts
    from a grid of pushes and pulls and moves the perturbation's mass from one window to another.
    The squares shrink along the published schedule, stretched to the number of steps. As in the
    paper the margin is minimised to leave a class and the cross-entropy to reach one.

    Deviations: a square that would change nothing gets the opposite colours in place of new
    random ones; squares may lie at the image's last row and column; in l2 the perturbation is
    scaled so that it fills the ball although [0,1] takes part of it away, and in images narrower
    than 15 pixels windows shrink to 2 pixels, not 3; restarts share the budget.
    Where the goal includes being accepted the objective is `DetectorAware`, and changes that leave
    it equal are kept as well, since a target that shows no more than its verdict leaves plateaus.

    Attributes:
        norm: "linf" or "l2".
        eps: the ball's radius in [0,1] pixel units; a number or a string such as "8/255".
        queries: forward passes a sample may take, the clean image's included, at least 2.
        p_init: the share of pixels that the first squares change, in (0, 1].
        restarts: into how many searches the queries are divided.
        confidence: the logit margin (kappa) that success takes.
        early_stop: leave a sample alone once the goal is reached. Without it every query is spent
            and the candidate of the largest objective among the successful ones is returned.
    """

    needs = Access.SCORES
    norms = ("linf", "l2")
    paper = "Andriushchenko et al. 2020"
    cost = "queries F"

    norm: str = "linf"
    eps: float | str = 0.3
    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    confidence: float = 0.0
    early_stop: bool = True

    def __post_init__(self) -> None:
        check_norm(self.name, self.norm, self.norms)
        check_kappa(self.confidence)
        if not 0 < self.p_init <= 1:
            raise ConfigurationError(f"p_init is a share of pixels in (0, 1]; got {self.p_init}.")
        if self.restarts < 1 or self.queries < 1 + self.restarts:
            raise ConfigurationError(
                "restarts has to be at least 1, and queries at least 1 for the clean image and 1 "
                f"for each restart; got queries={self.queries}, restarts={self.restarts}."
            )
        # stored as a number, so that "8/255" and 8/255 are the same attack
        object.__setattr__(self, "eps", parse_size(self.eps, what="eps"))

    @property
    def radius(self) -> float:
        """Eps as a number."""
        return float(self.eps)

    @property
    def budget(self) -> Budget:
        """The ball."""
        return Budget(norm_named(self.norm), self.radius)

    @property
    def query_budget(self) -> int:
        """The queries."""
        return self.queries

    def with_eps(self, eps: float | str) -> Square:
        """The same attack in another ball."""
        return replace(self, eps=eps)

    def search(self, problem: Problem) -> torch.Tensor:
        """Searches from every start, each with its share of the queries."""
        best = Best(problem)
        rows = (~best.reached).nonzero().flatten()
        if len(rows) == 0 or self.radius == 0:
            return best.x
        left, cost = queries_left(problem, rows, self.queries), problem.draws * self.restarts
        check_queries(left, cost, "a candidate of each restart")
        steps = left // cost
        for restart in range(self.restarts):
            if self.early_stop:
                rows = rows[~best.reached[rows]]
            self._search_from(problem, best, rows, restart, steps)
        return best.x

    def _search_from(
        self, problem: Problem, best: Best, rows: torch.Tensor, restart: int, steps: int
    ) -> None:
        goal = problem.goal
        base = CrossEntropy() if goal.targeted else MARGIN
        objective = InDouble(of=objective_for(problem, base))
        linf = self.norm == "linf"
        start, change = (stripes, recoloured) if linf else (grid, shifted)
        own = problem.streams.fork(_SQUARE).fork(restart)
        x = problem.x[rows]
        current = x
        value = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=x.device)
        for step in range(steps):
            if len(rows) == 0:
                return
            streams = own.select(rows).fork(step)
            if step == 0:
                candidate = start(streams, x, self.radius)
            else:
                side = self._side(step - 1, steps, x.shape[2], x.shape[3])
                candidate = change(streams, x, current, self.radius, side)
            answer = problem.ask(candidate, rows)
            new = objective(answer.response, problem.labels[rows], goal)
            best.offer(candidate, rows, answer.reached, new)
            kept = (new > value) | (goal.undetected & (new == value))
            current = torch.where(kept.view(-1, 1, 1, 1), candidate, current)
            value = torch.where(kept, new, value)
            if self.early_stop and bool(answer.reached.any()):
                left = ~answer.reached
                rows, x, current, value = rows[left], x[left], current[left], value[left]

    def _side(self, step: int, steps: int, height: int, width: int) -> int:
        """The side of the squares at a step, in pixels."""
        published = step * 10_000 // steps
        share = self.p_init / 2 ** sum(published > mark for mark in _HALVINGS)
        side = round(math.sqrt(share * height * width))
        shorter = min(height, width)
        if self.norm == "linf":
            return max(1, min(side, shorter - 1))
        if shorter < _SMALL:
            return min(max(side, 2), shorter)
        # odd, so that the pattern has a centre
        return min(max(side, 3) | 1, shorter)


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack):
    """Walks along the decision boundary towards the clean image, from decisions alone.

    Chen, Jordan & Wainwright 2020. Each step estimates the boundary's normal from the decisions at
    random points around the current one, jumps along it (in linf: along its sign) as far as the
    goal allows, and bisects the way back towards the clean image. It looks for the nearest image:
    `Adversarial.robust_accuracy` reads the whole curve from one run. Step j takes
    `initial_evaluations` sqrt(j) forward passes, and some 15 to 25 for the jump and the bisection.

    The start is noise blended with the clean image, from the sample's own stream, so that no other
    image is needed; a sample for which no noise reaches the goal stands. That is common for a
    target class that no noise is taken for; more `initial_tries` seldom help.

    Deviations: the noise is of blocks as well as of pixels, which reach more classes; the bisection
    is never coarser than a thousandth, which matters for images of fewer than a hundred values;
    the points around are at least some rounding errors away, which matters for large float32
    images; the last step makes do with the queries that are left.

    Attributes:
        norm: "l2" or "linf".
        steps: how many steps at most.
        queries: forward passes a sample may take, the clean image's included. With less than what
            a start and a step cost, some 150, the start is all that comes of it.
        initial_evaluations: points around the first iterate.
        max_evaluations: points around any iterate at most.
        initial_tries: noise images tried for the start.
        gamma: scales the distance of the points around and the bisection's tolerance; the paper
            has 1.
        confidence: the logit margin (kappa) that success takes; a target that shows decisions only
            has none.
    """

    needs = Access.DECISIONS
    norms = ("l2", "linf")
    paper = "Chen, Jordan & Wainwright 2020"
    cost = "queries F"

    norm: str = "l2"
    steps: int = 64
    queries: int = 10_000
    initial_evaluations: int = 100
    max_evaluations: int = 10_000
    initial_tries: int = 100
    gamma: float = 1.0
    confidence: float = 0.0

    def __post_init__(self) -> None:
        check_norm(self.name, self.norm, self.norms)
        check_kappa(self.confidence)
        if self.steps < 1 or self.initial_tries < 1:
            raise ConfigurationError("steps and initial_tries have to be at least 1.")
        if not 2 <= self.initial_evaluations <= self.max_evaluations:
            raise ConfigurationError(
                "initial_evaluations has to be at least 2 and at most max_evaluations; got "
                f"{self.initial_evaluations} and {self.max_evaluations}."
            )
        if not self.gamma > 0:
            raise ConfigurationError(f"gamma has to be > 0; got {self.gamma}.")
        if self.queries < 2:
            raise ConfigurationError(
                f"queries has to be at least 2, the clean image's included; got {self.queries}."
            )

    @property
    def query_budget(self) -> int:
        """The queries."""
        return self.queries

    def search(self, problem: Problem) -> torch.Tensor:
        """Finds a start, then steps until steps or queries are spent."""
        check_confidence(self.confidence, problem)
        norm, nearest = norm_named(self.norm), Nearest(problem, norm_named(self.norm))
        rows = (~problem.untouched).nonzero().flatten()
        if len(rows) == 0:
            return nearest.x
        check_queries(queries_left(problem, rows, self.queries), problem.draws, "a start")
        size, rounds = problem.x[0].numel(), self._rounds(problem.x[0].numel())
        rows, images = blended_starts(problem, rows, self.initial_tries)
        images = draw_nearer(problem, norm, rows, images, rounds=rounds)
        nearest.offer(images, rows, torch.ones_like(rows, dtype=torch.bool))
        smallest = 8 * torch.finfo(images.dtype).eps * math.sqrt(size)
        spread = torch.full((len(rows),), 0.1, dtype=images.dtype, device=images.device)
        for step in range(1, self.steps + 1):
            planned = min(int(self.initial_evaluations * math.sqrt(step)), self.max_evaluations)
            # what the jump and the way back take is set aside
            evaluations = (problem.left(rows) - rounds - 5).clamp(max=planned)
            able = evaluations >= self.initial_evaluations
            rows, images, spread = rows[able], images[able], spread[able]
            if len(rows) == 0:
                break
            normal = self._normal(problem, rows, images, spread, evaluations[able])
            length = norm.distance(images - problem.x[rows]) / math.sqrt(step)
            images = self._jump(problem, rows, images, normal, length)
            distance = norm.distance(images - problem.x[rows])
            spread = (self.gamma * distance / size).clamp_min(smallest)
            images = draw_nearer(problem, norm, rows, images, rounds=rounds)
            nearest.offer(images, rows, torch.ones_like(rows, dtype=torch.bool))
        return nearest.x

    def _rounds(self, size: int) -> int:
        """How often the way to the clean image is halved: down to the paper's theta."""
        theta = self.gamma / size ** (1.5 if self.norm == "l2" else 2.0)
        return math.ceil(-math.log2(min(theta, 1e-3)))

    def _normal(
        self,
        problem: Problem,
        rows: torch.Tensor,
        images: torch.Tensor,
        spread: torch.Tensor,
        evaluations: torch.Tensor,
    ) -> torch.Tensor:
        """The estimated direction into the region that reaches the goal, of length 1 (in l2).

        One point around every image a pass, so that memory does not grow with `evaluations` (R,).
        """
        total, agreed = torch.zeros_like(images), torch.zeros_like(images)
        votes = torch.zeros_like(spread)
        for turn in range(int(evaluations.max())):
            todo = (evaluations > turn).nonzero().flatten()
            center, radius = images[todo], spread[todo].view(-1, 1, 1, 1)
            streams = (
                problem.streams.select(rows[todo]).fork(_JUMP).fork(problem.queries[rows[todo]])
            )
            point = (center + radius * self._direction(streams, center)).clamp_(0, 1)
            sign = torch.where(problem.ask(point, rows[todo]).reached, 1, -1).to(center.dtype)
            direction = (point - center) / radius
            total[todo] += direction
            agreed[todo] += sign.view(-1, 1, 1, 1) * direction
            votes[todo] += sign
        mean = votes / evaluations
        # where all agree there is nothing to compare with: their mean, or away from it
        baseline = torch.where(mean.abs() == 1, 0, mean).view(-1, 1, 1, 1)
        normal = agreed - baseline * total
        return normal / L2().distance(normal).clamp_min(1e-30).view(-1, 1, 1, 1)

    def _direction(self, streams: Streams, like: torch.Tensor) -> torch.Tensor:
        """A random direction of length 1 each (in l2)."""
        shape = like.shape[1:]
        if self.norm == "l2":
            direction = streams.normal(shape, dtype=like.dtype)
        else:
            direction = streams.uniform(shape, dtype=like.dtype) * 2 - 1
        return direction / L2().distance(direction).view(-1, 1, 1, 1)

    def _jump(
        self,
        problem: Problem,
        rows: torch.Tensor,
        images: torch.Tensor,
        normal: torch.Tensor,
        length: torch.Tensor,
    ) -> torch.Tensor:
        """The images moved by the length, or by half of it, a quarter, ..., whatever succeeds."""
        step = normal if self.norm == "l2" else normal.sign()
        jumped, length = images.clone(), length.clone()
        waiting = torch.ones_like(rows, dtype=torch.bool)
        for _ in range(_MOST_HALVINGS):
            todo = (waiting & (problem.left(rows) > 0)).nonzero().flatten()
            if len(todo) == 0:
                break
            candidate = images[todo] + length[todo].view(-1, 1, 1, 1) * step[todo]
            candidate = candidate.clamp_(0, 1)
            reached = problem.ask(candidate, rows[todo]).reached
            jumped[todo[reached]] = candidate[reached]
            waiting[todo[reached]] = False
            length[todo] /= 2
        return jumped
