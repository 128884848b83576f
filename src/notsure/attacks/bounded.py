"""The bounded family: one loop over a ball, and the attacks that are settings of it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace

import torch

from notsure.attacks.base import Budget, GradientAttack, into
from notsure.attacks.geometry import Norm, norm_named
from notsure.attacks.goals import Goal, LeastLikely, NextLikely, check_kappa
from notsure.attacks.objectives import Objective
from notsure.attacks.problem import Ascent, Best, Problem, objective_for
from notsure.core.checks import content_keys, parse_size
from notsure.core.errors import ConfigurationError
from notsure.core.randomness import Streams
from notsure.core.target import Access


@dataclass(frozen=True, kw_only=True)
class BoundedAttack(GradientAttack):
    """A search in a ball from one or more starts.

    The best candidate of each sample over steps and restarts is returned.

    Attributes:
        norm: "linf", "l2" or "l1".
        eps: the ball's radius in [0,1] pixel units; a number or a string such as "8/255".
        steps: how many steps, at least 1.
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
    """

    norm: str = "linf"
    eps: float | str = 0.3
    steps: int = 40
    restarts: int = 1
    random_start: bool = False
    confidence: float = 0.0
    early_stop: bool = True
    objective: Objective | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        norm_named(self.norm)
        radius = parse_size(self.eps, what="eps")
        if self.norm == "linf" and radius > 1:
            raise ConfigurationError(
                f"eps={self.eps} in linf exceeds the whole range of a pixel in [0,1]: is it meant "
                f"on the 0..255 scale? Then give eps='{self.eps}/255'."
            )
        check_kappa(self.confidence)
        if self.steps < self.fewest_steps or self.restarts < 1:
            raise ConfigurationError(
                f"steps has to be at least {self.fewest_steps} and restarts at least 1; got "
                f"steps={self.steps}, restarts={self.restarts}."
            )
        # stored as a number, so that "8/255" and 8/255 are the same attack
        object.__setattr__(self, "eps", radius)

    @property
    def fewest_steps(self) -> int:
        """The smallest number of steps that makes sense."""
        return 1

    @property
    def geometry(self) -> Norm:
        """The norm."""
        return norm_named(self.norm)

    @property
    def radius(self) -> float:
        """Eps as a number."""
        return float(self.eps)

    @property
    def budget(self) -> Budget:
        """The ball."""
        return Budget(self.geometry, self.radius)

    @property
    def starts(self) -> int:
        """How many searches there are."""
        return self.restarts

    def search(self, problem: Problem) -> torch.Tensor:
        """Searches from every start."""
        best = Best(problem)
        objective = objective_for(problem, self.objective)
        # a clean image that reaches the goal needs no attack
        open_rows = (~best.reached).nonzero().flatten()
        for start in range(self.starts):
            if self.early_stop:
                open_rows = (~best.reached).nonzero().flatten()
            if len(open_rows) == 0:
                break
            self.ascend_from(problem, best, objective, open_rows, start)
        return best.x

    @abstractmethod
    def ascend_from(
        self, problem: Problem, best: Best, objective: Objective, rows: torch.Tensor, start: int
    ) -> None:
        """One search for these rows from start number `start`, its finds offered to `best`.

        Args:
            problem: the batch under attack.
            best: takes the finds.
            objective: what is maximised.
            rows: the samples that still stand, int64 (R,).
            start: from 0; later ones are random.
        """

    def steer_of(self, problem: Problem, start: int) -> Goal | None:
        """Which goal the search moves towards in place of the judged one, if any.

        Args:
            problem: the batch under attack.
            start: from 0.
        """
        if problem.goal.targeted or not problem.goal.undetected:
            return None
        return NextLikely(rank=(start + 1) // 2) if start % 2 else None

    def first_step(self, problem: Problem, rows: torch.Tensor, start: int) -> torch.Tensor:
        """Where the search starts, as a perturbation in ball and box.

        Args:
            problem: the batch under attack.
            rows: of it, int64 (R,).
            start: from 0.
        """
        x = problem.x[rows]
        if not self.random_start and start == 0:
            return torch.zeros_like(x)
        streams, norm = problem.streams.select(rows).fork(start), self.geometry
        return norm.project(norm.random_point(streams, x, self.radius), self.radius, -x, 1 - x)

    def judge_last(
        self,
        problem: Problem,
        best: Best,
        objective: Objective,
        rows: torch.Tensor,
        candidate: torch.Tensor,
        steer: Goal | None,
    ) -> torch.Tensor:
        """Offers candidates (R, C, H, W) without their gradient; where they do it, bool (R,).

        Args:
            problem: the batch under attack.
            best: takes what succeeds.
            objective: what is maximised, to tell the better of two.
            rows: the samples of the candidates, int64 (R,).
            candidate: images in ball and box.
            steer: the goal that the search moved towards, where it is not the judged one.

        Returns:
            Where a candidate reaches the judged goal.
        """
        answer = problem.ask(candidate, rows)
        goal, labels = problem.aim(rows, steer)
        best.offer(candidate, rows, answer.reached, objective(answer.response, labels, goal))
        return answer.reached

    def with_eps(self, eps: float | str) -> BoundedAttack:
        """The same attack in another ball."""
        return replace(self, eps=parse_size(eps, what="eps"))


@dataclass(frozen=True, kw_only=True)
class SteepestAscent(BoundedAttack):
    """Steepest ascent in a ball: the loop behind FGSM, BIM, PGD, MIM and ILCM.

    Each step costs one forward and one backward pass, whose answer tells at once who has fallen;
    one forward pass judges the last step.

    Attributes:
        step_size: the length of a step; by default so that the steps together cross the ball
            (each attack says how).
        decay: momentum mu, as MIM uses it; 0 for none.
        steer: a goal to move towards in place of the judged one, as ILCM does; None for none.
        leap: try the far side of the ball along the first gradient before the steps, at one
            forward pass: most samples of an undefended network fall there. Not without
            `early_stop`.
    """

    cost = "restarts x (steps x (F + B) + F)"
    step_size: float | str | None = None
    decay: float = 0.0
    steer: Goal | None = None
    leap: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None:
            length = parse_size(self.step_size, what="step_size")
            if not length > 0:
                raise ConfigurationError("step_size has to be > 0; leave it out for the default.")
            object.__setattr__(self, "step_size", length)
        if self.decay < 0:
            raise ConfigurationError(f"decay has to be at least 0; got {self.decay}.")

    @property
    def default_step_size(self) -> float:
        """2.5 eps / steps, so that the steps reach any point of the ball (Madry et al. 2018)."""
        return 2.5 * self.radius / max(self.steps, 1)

    @property
    def step_length(self) -> float:
        """The length of a step."""
        return self.default_step_size if self.step_size is None else float(self.step_size)

    def steer_of(self, problem: Problem, start: int) -> Goal | None:
        """The goal that was given, if any."""
        return self.steer or super().steer_of(problem, start)

    def climb(
        self,
        problem: Problem,
        candidate: torch.Tensor,
        rows: torch.Tensor,
        objective: Objective,
        steer: Goal | None,
    ) -> Ascent:
        """The answer at the candidates, its value, and the direction to go from there."""
        return problem.ascend(candidate, rows, objective, steer)

    def ascend_from(
        self, problem: Problem, best: Best, objective: Objective, rows: torch.Tensor, start: int
    ) -> None:
        """Steps along the gradient, back into the ball after each."""
        norm, steer = self.geometry, self.steer_of(problem, start)
        x = problem.x[rows]
        delta = self.first_step(problem, rows, start)
        momentum = torch.zeros_like(x)
        for step_number in range(self.steps):
            candidate = x + delta
            ascent = self.climb(problem, candidate, rows, objective, steer)
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
            if step_number == 0 and self.leap and self.early_stop and self.steps > 1:
                left = ~self._leapt(problem, best, objective, rows, delta, gradient, steer)
                rows, x, delta = rows[left], x[left], delta[left]
                gradient, momentum = gradient[left], momentum[left]
                if len(rows) == 0:
                    return
            low, high = -x, 1 - x
            step = norm.steepest_step(gradient, self.step_length, low - delta, high - delta)
            delta = norm.project(delta + step, self.radius, low, high)
        if not problem.judged and self.steps <= 1 and self.starts == 1:
            # to look at the only candidate would make a single step half as dear again
            best.x[rows] = x + delta
            return
        self.judge_last(problem, best, objective, rows, x + delta, steer)

    def _leapt(
        self,
        problem: Problem,
        best: Best,
        objective: Objective,
        rows: torch.Tensor,
        delta: torch.Tensor,
        gradient: torch.Tensor,
        steer: Goal | None,
    ) -> torch.Tensor:
        """Tries the far side of the ball; where that reaches the goal, bool (R,)."""
        norm, x = self.geometry, problem.x[rows]
        low, high = -x, 1 - x
        step = norm.steepest_step(gradient, 2 * self.radius, low - delta, high - delta)
        candidate = x + norm.project(delta + step, self.radius, low, high)
        return self.judge_last(problem, best, objective, rows, candidate, steer)

    def with_eps(self, eps: float | str) -> SteepestAscent:
        """The same attack in another ball; a step size that was given keeps its share of eps."""
        radius, step_size = parse_size(eps, what="eps"), self.step_size
        if step_size is not None and self.radius > 0:
            step_size = float(step_size) * radius / self.radius
        return replace(self, eps=radius, step_size=step_size or None)


@dataclass(frozen=True, kw_only=True)
class RandomNoise(SteepestAscent):
    """Random points of the ball, no gradient: the control that every attack has to beat.

    In linf each pixel moves by a uniform amount in [-eps, eps] (pang B.3); in l2 and l1 the point
    is uniform in the ball. `restarts` is the number of points tried; `steps` is 0.
    """

    needs = Access.DECISIONS
    paper = "pang B.3"
    cost = "restarts F"
    steps: int = 0
    random_start: bool = True

    @property
    def fewest_steps(self) -> int:
        """0: it takes none."""
        return 0

    def noisy(self, x: torch.Tensor, *, seed: int = 0) -> torch.Tensor:
        """One noisy version of each image (B, C, H, W) in [0,1], whether it fools anybody or not.

        It depends on the image and the seed alone.

        Args:
            x: the images.
            seed: of the noise.
        """
        streams = Streams.of(content_keys(x), seed)
        noise = self.geometry.random_point(streams, x, self.radius)
        return into(self.budget, x + noise, x)


@dataclass(frozen=True, kw_only=True)
class FGSM(SteepestAscent):
    """Fast gradient sign method: one step of length eps from the clean image.

    Goodfellow et al. 2015; pang 2.3. In l2 and l1 the step is the steepest one of that norm.
    """

    paper = "Goodfellow et al. 2015"
    steps: int = 1

    @property
    def default_step_size(self) -> float:
        """Eps / steps."""
        return self.radius / self.steps


@dataclass(frozen=True, kw_only=True)
class BIM(SteepestAscent):
    """Basic iterative method: steps of eps / steps from the clean image.

    Kurakin et al. 2017; pang 2.3. The papers do not project beyond the pixel range since the steps
    cannot leave the ball; here the ball is kept whatever the step size.
    """

    paper = "Kurakin et al. 2017"
    steps: int = 10

    @property
    def default_step_size(self) -> float:
        """Eps / steps."""
        return self.radius / self.steps


@dataclass(frozen=True, kw_only=True)
class PGD(SteepestAscent):
    """Projected gradient descent: steps of 2.5 eps / steps from a random point of the ball.

    Madry et al. 2018; martin equation 4 (whose clip is around the clean image here, as in the
    original). The random start is projected onto ball and [0,1] together. Deviation: with
    `early_stop` a leap to the far side of the ball comes before the second step; it can only add to
    what falls, and on undefended networks it saves most of the steps. leap=False leaves it out.
    """

    paper = "Madry et al. 2018"
    random_start: bool = True
    leap: bool = True


@dataclass(frozen=True, kw_only=True)
class MIM(SteepestAscent):
    """Momentum iterative method: BIM along a running sum of l1-normalised gradients.

    Dong et al. 2018; martin section on MIM.
    """

    paper = "Dong et al. 2018"
    steps: int = 10
    decay: float = 1.0

    @property
    def default_step_size(self) -> float:
        """Eps / steps."""
        return self.radius / self.steps


@dataclass(frozen=True, kw_only=True)
class ILCM(SteepestAscent):
    """Iterative least-likely class method: BIM towards the class that is least likely at first.

    Kurakin et al. 2017; pang 2.3. Success is judged by the goal, misclassification by default, as
    in pang's Table 2. Deviation: where the least likely class is the true one, the next is taken.
    """

    paper = "Kurakin et al. 2017"
    steps: int = 10
    steer: Goal | None = field(default_factory=LeastLikely)

    @property
    def default_step_size(self) -> float:
        """Eps / steps."""
        return self.radius / self.steps
