"""The bounded family: one loop over a ball, and the attacks that are settings of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from notsure.attacks.base import Budget, GradientAttack
from notsure.attacks.geometry import norm_named
from notsure.attacks.goals import Goal, LeastLikely, NextLikely
from notsure.attacks.objectives import CrossEntropy, DetectorAware, Objective
from notsure.attacks.problem import Best, Problem
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError
from notsure.core.target import Access


@dataclass(frozen=True, kw_only=True)
class BoundedAttack(GradientAttack):
    """Steepest ascent in a ball: the loop behind FGSM, BIM, PGD, MIM and ILCM.

    Each step costs one forward and one backward pass, whose answer tells at once who has fallen;
    one forward pass judges the last step. The best candidate of each sample over steps and
    restarts is returned.

    Attributes:
        norm: "linf", "l2" or "l1".
        eps: the ball's radius in [0,1] pixel units; a number or a string such as "8/255".
        steps: how many steps, at least 1.
        step_size: the length of a step; by default so that the steps together cross the ball
            (each attack says how).
        restarts: how many times the search is started; further starts are random. Against a
            target that can reject, every other one makes for one wrong class, the likeliest
            first: a detector that judges the predicted class lets some classes pass more easily
            than the nearest.
        random_start: start at a random point of the ball in place of the clean image.
        confidence: the logit margin (kappa) that success takes.
        early_stop: leave a sample alone once the goal is reached. Without it every sample takes
            every step and the candidate of the largest objective among the successful ones is
            returned, as an attacker does who does not know how much it takes.
        objective: what is maximised. By default cross-entropy, and `DetectorAware` where the goal
            includes being accepted.
        decay: momentum mu, as MIM uses it; 0 for none.
        steer: a goal to move towards in place of the judged one, as ILCM does; None for none.
    """

    norm: str = "linf"
    eps: float | str = 0.3
    steps: int = 40
    step_size: float | str | None = None
    restarts: int = 1
    random_start: bool = False
    confidence: float = 0.0
    early_stop: bool = True
    objective: Objective | None = None
    decay: float = 0.0
    steer: Goal | None = None

    def __post_init__(self) -> None:
        norm_named(self.norm)
        radius = parse_size(self.eps, what="eps")
        if self.norm == "linf" and radius > 1:
            raise ConfigurationError(
                f"eps={self.eps} in linf exceeds the whole range of a pixel in [0,1]: is it meant "
                f"on the 0..255 scale? Then give eps='{self.eps}/255'."
            )
        if self.step_size is not None and not parse_size(self.step_size, what="step_size") > 0:
            raise ConfigurationError("step_size has to be > 0; leave it out for the default.")
        if not self.confidence >= 0:
            raise ConfigurationError(
                f"confidence (kappa) is a logit margin, at least 0; got {self.confidence}."
            )
        if self.steps < self.fewest_steps or self.restarts < 1:
            raise ConfigurationError(
                f"steps has to be at least {self.fewest_steps} and restarts at least 1; got "
                f"steps={self.steps}, restarts={self.restarts}."
            )
        if self.decay < 0:
            raise ConfigurationError(f"decay has to be at least 0; got {self.decay}.")
        # stored as numbers, so that "8/255" and 8/255 are the same attack
        object.__setattr__(self, "eps", radius)
        if self.step_size is not None:
            object.__setattr__(self, "step_size", parse_size(self.step_size, what="step_size"))

    @property
    def fewest_steps(self) -> int:
        """The smallest number of steps that makes sense."""
        return 1

    @property
    def radius(self) -> float:
        """Eps as a number."""
        return float(self.eps)

    @property
    def default_step_size(self) -> float:
        """2.5 eps / steps, so that the steps reach any point of the ball (Madry et al. 2018)."""
        return 2.5 * self.radius / max(self.steps, 1)

    @property
    def budget(self) -> Budget:
        """The ball."""
        return Budget(norm_named(self.norm), self.radius)

    def search(self, problem: Problem) -> torch.Tensor:
        """Runs the loop from every start."""
        best = Best(problem)
        objective = self.objective or CrossEntropy()
        if problem.goal.undetected and not isinstance(objective, DetectorAware):
            objective = DetectorAware() if self.objective is None else DetectorAware(base=objective)
        # a clean image that reaches the goal needs no attack
        open_rows = (~best.reached).nonzero().flatten()
        for restart in range(self.restarts):
            if self.early_stop:
                open_rows = (~best.reached).nonzero().flatten()
            if len(open_rows) == 0:
                break
            self._ascend_from(problem, best, objective, open_rows, restart)
        return best.x

    def _steer(self, problem: Problem, restart: int) -> Goal | None:
        if self.steer is not None or problem.goal.targeted or not problem.goal.undetected:
            return self.steer
        return NextLikely(rank=(restart + 1) // 2) if restart % 2 else None

    def _start(self, problem: Problem, rows: torch.Tensor, restart: int) -> torch.Tensor:
        x = problem.x[rows]
        if not self.random_start and restart == 0:
            return torch.zeros_like(x)
        streams = problem.streams.select(rows).fork(restart)
        norm = norm_named(self.norm)
        return norm.project(norm.random_point(streams, x, self.radius), self.radius, -x, 1 - x)

    def _ascend_from(
        self,
        problem: Problem,
        best: Best,
        objective: Objective,
        rows: torch.Tensor,
        restart: int,
    ) -> None:
        norm, steer = norm_named(self.norm), self._steer(problem, restart)
        length = self.default_step_size if self.step_size is None else float(self.step_size)
        x = problem.x[rows]
        delta = self._start(problem, rows, restart)
        momentum = torch.zeros_like(x)
        for _ in range(self.steps):
            candidate = x + delta
            ascent = problem.ascend(candidate, rows, objective, steer)
            gradient, reached = ascent.gradient, ascent.reached
            best.offer(candidate, rows, reached, ascent.value)
            if self.early_stop and bool(reached.any()):
                left = ~reached
                rows, x, delta = rows[left], x[left], delta[left]
                gradient, momentum = gradient[left], momentum[left]
                if len(rows) == 0:
                    return
            if self.decay > 0:
                size = gradient.abs().flatten(1).sum(dim=1).view(-1, 1, 1, 1)
                momentum = self.decay * momentum + gradient / size.clamp_min(1e-30)
                gradient = momentum
            low, high = -x, 1 - x
            step = norm.steepest_step(gradient, length, low - delta, high - delta)
            delta = norm.project(delta + step, self.radius, low, high)
        candidate = x + delta
        answer = problem.ask(candidate, rows)
        goal, labels = problem.aim(rows, steer)
        best.offer(candidate, rows, answer.reached, objective(answer.response, labels, goal))

    def with_eps(self, eps: float | str) -> BoundedAttack:
        """The same attack in another ball; a step size that was given keeps its share of eps."""
        radius = parse_size(eps, what="eps")
        step_size = self.step_size
        if step_size is not None and self.radius > 0:
            step_size = float(step_size) * radius / self.radius
        return replace(self, eps=radius, step_size=step_size or None)


@dataclass(frozen=True, kw_only=True)
class RandomNoise(BoundedAttack):
    """Random points of the ball, no gradient: the control that every attack has to beat.

    In linf each pixel moves by a uniform amount in [-eps, eps] (pang B.3); in l2 and l1 the point
    is uniform in the ball. `restarts` is the number of points tried; `steps` is 0.
    """

    needs = Access.DECISIONS
    steps: int = 0
    random_start: bool = True

    @property
    def fewest_steps(self) -> int:
        """0: it takes none."""
        return 0


@dataclass(frozen=True, kw_only=True)
class FGSM(BoundedAttack):
    """Fast gradient sign method: one step of length eps from the clean image.

    Goodfellow et al. 2015; pang 2.3. In l2 and l1 the step is the steepest one of that norm.
    """

    steps: int = 1

    @property
    def default_step_size(self) -> float:
        """Eps / steps."""
        return self.radius / self.steps


@dataclass(frozen=True, kw_only=True)
class BIM(BoundedAttack):
    """Basic iterative method: steps of eps / steps from the clean image.

    Kurakin et al. 2017; pang 2.3. The papers do not project beyond the pixel range since the steps
    cannot leave the ball; here the ball is kept whatever the step size.
    """

    steps: int = 10

    @property
    def default_step_size(self) -> float:
        """Eps / steps."""
        return self.radius / self.steps


@dataclass(frozen=True, kw_only=True)
class PGD(BoundedAttack):
    """Projected gradient descent: steps of 2.5 eps / steps from a random point of the ball.

    Madry et al. 2018; martin equation 4 (whose clip is around the clean image here, as in the
    original). The random start is projected onto ball and [0,1] together.
    """

    random_start: bool = True


@dataclass(frozen=True, kw_only=True)
class MIM(BoundedAttack):
    """Momentum iterative method: BIM along a running sum of l1-normalised gradients.

    Dong et al. 2018; martin section on MIM.
    """

    steps: int = 10
    decay: float = 1.0

    @property
    def default_step_size(self) -> float:
        """Eps / steps."""
        return self.radius / self.steps


@dataclass(frozen=True, kw_only=True)
class ILCM(BoundedAttack):
    """Iterative least-likely class method: BIM towards the class that is least likely at first.

    Kurakin et al. 2017; pang 2.3. Success is judged by the goal, misclassification by default, as
    in pang's Table 2. Deviation: where the least likely class is the true one, the next is taken.
    """

    steps: int = 10
    steer: Goal | None = field(default_factory=LeastLikely)

    @property
    def default_step_size(self) -> float:
        """Eps / steps."""
        return self.radius / self.steps
