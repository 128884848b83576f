"""One attack on one batch: the target, what is wanted of it, and what it has cost so far."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch

from notsure.attacks.goals import Goal
from notsure.attacks.objectives import MARGIN, CrossEntropy, DetectorAware, Objective
from notsure.core.checks import check_labels
from notsure.core.errors import ConfigurationError, UnsupportedError, VerificationError
from notsure.core.randomness import Streams, drawing_from
from notsure.core.target import Access, Response, Target

Function = Callable[[Response], torch.Tensor]
"""What is differentiated: an answer for R images to values (R,), or (R, M) for M of them."""

Precision = Literal["fp32", "bf16"]
"""What the search computes in; whether a goal is reached is always found out in full."""

VOTES = 15
"""How many draws of a stochastic target decide whether a goal is reached."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What the target says of some rows of the batch.

    Attributes:
        response: logits and rejection; the mean over the draws of a stochastic target.
        reached: bool (R,), where the goal is reached; by most draws of a stochastic target.
    """

    response: Response
    reached: torch.Tensor


@dataclass(frozen=True, eq=False)
class Ascent(Answer):
    """What a forward and a backward pass tell about some rows of the batch.

    Attributes:
        value: what was differentiated, (R,) or (R, M).
        gradient: its derivative, (R, C, H, W) or (R, M, C, H, W).
    """

    value: torch.Tensor
    gradient: torch.Tensor


class GradientSource(ABC):
    """Where a gradient comes from: differentiation, averages of it, or queries."""

    needs: ClassVar[Access] = Access.GRADIENTS

    @abstractmethod
    def ascend(
        self, problem: Problem, images: torch.Tensor, rows: torch.Tensor, function: Function
    ) -> Ascent:
        """Answer, value and gradient at candidates (R, C, H, W) for these rows, int64 (R,).

        Args:
            problem: the batch under attack, which counts the passes.
            images: the candidates.
            rows: of which samples they are.
            function: the value of each candidate, (R,), from the target's response.
        """

    def fits(self, target: Target) -> bool:
        """Whether the target shows what this source needs."""
        return target.differentiable


@dataclass(frozen=True, kw_only=True)
class Autograd(GradientSource):
    """One forward and one backward pass."""

    def ascend(
        self, problem: Problem, images: torch.Tensor, rows: torch.Tensor, function: Function
    ) -> Ascent:
        """Answer, value and gradient at the candidates."""
        return problem.differentiate(images, rows, function)


AUTOGRAD = Autograd()
"""The usual source."""


@dataclass(eq=False)
class Problem:
    """The batch under attack; every pass over the target goes through here and is counted.

    Attributes:
        target: what is attacked.
        x: the clean images (B, C, H, W).
        y: the true labels (B,).
        goal: what counts as success.
        labels: the labels that the goal speaks of (B,).
        clean: the target's answer to the clean images.
        streams: the samples' random streams.
        source: where gradients come from.
        query_budget: how many forward passes a sample may take, the clean one included; None for
            any.
        votes: how many draws of a stochastic target decide.
        precision: what gradients are computed in.
        untouched: where the clean image reaches the goal already, bool (B,).
        queries: forward passes per sample (B,).
        gradients: backward passes per sample (B,).
        dead_gradients: backward passes whose gradient was zero or not finite, per sample (B,).
        non_finite_gradients: those of them that were not finite, per sample (B,).
    """

    judged: ClassVar[bool] = True
    """Whether it matters who reaches the goal, or the value of the objective alone."""

    target: Target
    x: torch.Tensor
    y: torch.Tensor
    goal: Goal
    streams: Streams
    source: GradientSource = AUTOGRAD
    query_budget: int | None = None
    votes: int = VOTES
    precision: Precision = "fp32"
    labels: torch.Tensor = field(init=False)
    clean: Response = field(init=False)
    untouched: torch.Tensor = field(init=False)
    queries: torch.Tensor = field(init=False)
    gradients: torch.Tensor = field(init=False)
    dead_gradients: torch.Tensor = field(init=False)
    non_finite_gradients: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._start_counting()
        everything = torch.arange(len(self.x), device=self.x.device)
        if self.query_budget is not None and self.query_budget <= self.draws:
            raise ConfigurationError(
                f"A budget of {self.query_budget} queries does not go beyond the answer for the "
                f"clean image, which takes {self.draws} of this target: give more."
            )
        # the goal's labels follow from the first answer, so that it cannot be judged before
        answers = [self.draw(self.x, everything) for _ in range(self.draws)]
        self.clean = _mean(answers)
        self.y = check_labels(self.y, count=len(self.x), num_classes=self.clean.logits.shape[1])
        self.labels = self.goal.labels(self.clean.logits, self.y)
        self.untouched = _majority([self.goal.reached(one, self.labels) for one in answers])

    def _start_counting(self) -> None:
        count = torch.zeros(len(self.x), dtype=torch.int64, device=self.x.device)
        self.queries, self.gradients = count, count.clone()
        self.dead_gradients, self.non_finite_gradients = count.clone(), count.clone()

    @property
    def draws(self) -> int:
        """How many forward passes one answer takes."""
        return self.votes if self.target.stochastic else 1

    def part(self, rows: torch.Tensor, *, source: GradientSource, budget: int | None) -> Problem:
        """The problem of some rows, int64 (R,), with counters of its own (see `absorb`).

        Args:
            rows: which samples.
            source: where the gradients of whoever works on it come from.
            budget: how many further forward passes each of the samples may take.
        """
        part = copy.copy(self)
        part.x, part.y, part.labels = self.x[rows], self.y[rows], self.labels[rows]
        part.streams, part.clean = self.streams.select(rows), self.clean.select(rows)
        part.untouched, part.source, part.query_budget = self.untouched[rows], source, budget
        zero = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        part.queries, part.gradients = zero, zero.clone()
        part.dead_gradients, part.non_finite_gradients = zero.clone(), zero.clone()
        return part

    def absorb(self, part: Problem, rows: torch.Tensor) -> None:
        """Adds what the part has cost."""
        self.queries[rows] += part.queries
        self.gradients[rows] += part.gradients
        self.dead_gradients[rows] += part.dead_gradients
        self.non_finite_gradients[rows] += part.non_finite_gradients

    def left(self, rows: torch.Tensor) -> torch.Tensor:
        """How many answers each of these rows may still ask for, int64 (R,)."""
        if self.query_budget is None:
            return torch.full_like(rows, torch.iinfo(torch.int64).max)
        return (self.query_budget - self.queries[rows]) // self.draws

    def ask(self, images: torch.Tensor, rows: torch.Tensor) -> Answer:
        """The target's answer to candidates (R, C, H, W) for these rows, without gradients."""
        answers = [self.draw(images, rows) for _ in range(self.draws)]
        labels = self.labels[rows]
        return Answer(_mean(answers), _majority([self.goal.reached(a, labels) for a in answers]))

    def aim(self, rows: torch.Tensor, steer: Goal | None) -> tuple[Goal, torch.Tensor]:
        """What to move towards, `steer` or the judged goal, and its labels for these rows."""
        if steer is None:
            return self.goal, self.labels[rows]
        return steer, steer.labels(self.clean.logits, self.y)[rows]

    def ascend(
        self,
        images: torch.Tensor,
        rows: torch.Tensor,
        objective: Objective,
        steer: Goal | None = None,
    ) -> Ascent:
        """Answer, objective and its gradient at candidates for these rows.

        Args:
            images: the candidates (R, C, H, W).
            rows: which samples they belong to, int64 (R,).
            objective: what to differentiate.
            steer: a goal to move towards in place of the one that is judged, if any.
        """
        goal, labels = self.aim(rows, steer)
        return self.slope(images, rows, lambda response: objective(response, labels, goal))

    def slope(self, images: torch.Tensor, rows: torch.Tensor, function: Function) -> Ascent:
        """Answer, any function of it and its gradients at candidates for these rows."""
        ascent = self.source.ascend(self, images, rows, function)
        doubtful = self.target.stochastic or self.precision != "fp32"
        if doubtful and self.judged and bool(ascent.reached.any()):
            # draws of the gradient may be few, or lucky, and low precision errs: ask in earnest
            hits = ascent.reached.nonzero().flatten()
            ascent.reached[hits] = self.ask(images[hits], rows[hits]).reached
        return ascent

    def differentiate(self, images: torch.Tensor, rows: torch.Tensor, function: Function) -> Ascent:
        """One draw of the answer and the gradients of a function of it, by autograd.

        A function of M values a sample costs one forward and M backward passes, in one sweep.
        """
        with torch.inference_mode(False), torch.enable_grad():
            variable = images.detach().clone().requires_grad_()
            with torch.autocast(
                variable.device.type, torch.bfloat16, enabled=self.precision == "bf16"
            ):
                response = _in_type_of(variable, self._respond(variable, rows))
            value = function(response)
            if not value.requires_grad:
                raise UnsupportedError(
                    f"No gradient of {type(self.target).__name__} reaches the input: the network "
                    "detaches it or works outside torch. Declare differentiable = False on the "
                    "part that does and use BPDA, or a query attack such as Square."
                )
            gradient = _gradients(value, variable)
        # one cheap reduction tells of zeros, NaN and infinities alike
        size = torch.linalg.vector_norm(gradient.flatten(value.ndim), ord=torch.inf, dim=-1)
        finite = torch.isfinite(size)
        alive = finite & (size > 0)
        if not bool(finite.all()):
            mask = finite.view(*finite.shape, *([1] * (gradient.ndim - finite.ndim)))
            gradient = torch.where(mask, gradient, 0)
            self.non_finite_gradients[rows] += (~finite).long().view(len(rows), -1).sum(dim=1)
        self.queries[rows] += 1
        passes = 1 if value.ndim == 1 else value.shape[1]
        self.gradients[rows] += passes
        self.dead_gradients[rows] += (~alive).long().view(len(rows), -1).sum(dim=1)
        answer = _detached(response)
        reached = self.goal.reached(answer, self.labels[rows])
        return Ascent(answer, reached, value.detach(), gradient)

    def judge(self, images: torch.Tensor) -> torch.Tensor:
        """Where the goal is reached, bool (B,), by fresh draws that are not the attacker's."""
        before, limit = self.queries.clone(), self.query_budget
        self.query_budget = None
        everything = torch.arange(len(images), device=images.device)
        reached = self.ask(images, everything).reached
        self.queries, self.query_budget = before, limit
        return reached

    def draw(self, images: torch.Tensor, rows: torch.Tensor) -> Response:
        """One forward pass without gradients; of a stochastic target one of many answers."""
        if self.query_budget is not None and bool((self.queries[rows] >= self.query_budget).any()):
            raise VerificationError(
                f"An attack asked for more than its budget of {self.query_budget} queries a sample."
            )
        with torch.inference_mode():
            response = self._respond(images, rows)
        self.queries[rows] += 1
        # clones made outside are ordinary tensors again, which may be changed in place
        rejection = response.rejection
        return Response(response.logits.clone(), None if rejection is None else rejection.clone())

    def _respond(self, images: torch.Tensor, rows: torch.Tensor) -> Response:
        if not self.target.stochastic:
            return self.target.respond(images)
        # a draw is a function of the sample and of how many it has had, not of its batch mates
        with drawing_from(self.streams.select(rows).fork(-1).fork(self.queries[rows])):
            return self.target.respond(images)


class Unjudged(Problem):
    """The batch of a training step: the objective is to grow, whoever is fooled.

    Every sample is worth attacking, and of its candidates the one of the largest objective counts.
    The clean images cost a pass only where a search looks at their answer.
    """

    judged: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._start_counting()
        self.y = self.labels = check_labels(self.y, count=len(self.x))
        self.untouched = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)

    @cached_property
    def clean(self) -> Response:  # type: ignore[override]
        """The target's answer to the clean images."""
        return self.draw(self.x, torch.arange(len(self.x), device=self.x.device))


def objective_for(problem: Problem, given: Objective | None) -> Objective:
    """What to maximise: the one given or cross-entropy; the detector too, where it matters."""
    goal = problem.goal
    if not goal.undetected or isinstance(given, DetectorAware):
        return given or CrossEntropy()
    # no less than the goal asks for, so that the objective leads all the way
    slack, rejection_slack = max(1.0, goal.kappa), 0.1 + goal.rejection_slack
    return DetectorAware(base=given or MARGIN, slack=slack, rejection_slack=rejection_slack)


def _gradients(value: torch.Tensor, variable: torch.Tensor) -> torch.Tensor:
    if value.ndim == 1:
        (gradient,) = torch.autograd.grad(value.sum(), variable)
        return gradient
    parts = [
        torch.autograd.grad(value[:, m].sum(), variable, retain_graph=m + 1 < value.shape[1])[0]
        for m in range(value.shape[1])
    ]
    return torch.stack(parts, dim=1)


def _in_type_of(x: torch.Tensor, response: Response) -> Response:
    """Logits and rejection of low precision as the images' type, which everything else is in."""
    rejection = response.rejection
    return Response(response.logits.to(x), None if rejection is None else rejection.to(x))


def _detached(response: Response) -> Response:
    rejection = response.rejection
    return Response(response.logits.detach(), None if rejection is None else rejection.detach())


def _mean(answers: list[Response]) -> Response:
    if len(answers) == 1:
        return answers[0]
    rejections = [answer.rejection for answer in answers if answer.rejection is not None]
    return Response(
        torch.stack([answer.logits for answer in answers]).mean(dim=0),
        torch.stack(rejections).mean(dim=0) if rejections else None,
    )


def _majority(reached: list[torch.Tensor]) -> torch.Tensor:
    if len(reached) == 1:
        return reached[0]
    return torch.stack(reached).double().mean(dim=0) > 0.5


class Best:
    """The best candidate of each sample so far: of the largest objective.

    One that reaches the goal comes before those that do not, unless nothing is judged.

    Attributes:
        x: (B, C, H, W), the candidate; the clean image until one was offered.
        reached: bool (B,), whether it reaches the goal.
        value: (B,), its objective.
    """

    def __init__(self, problem: Problem) -> None:
        self.x = problem.x.clone()
        self.reached = problem.untouched.clone()
        self.judged = problem.judged
        self.value = torch.full(
            (len(self.x),), -torch.inf, dtype=problem.x.dtype, device=problem.x.device
        )

    def offer(
        self, images: torch.Tensor, rows: torch.Tensor, reached: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Keeps a candidate that reaches the goal over one that does not, then the larger value."""
        value = value.to(self.value.dtype)
        reached = reached if self.judged else torch.zeros_like(reached)
        first = reached & ~self.reached[rows]
        better = (reached == self.reached[rows]) & (value > self.value[rows])
        taken = first | better
        winners = rows[taken]
        self.x[winners] = images[taken]
        self.value[winners] = value[taken]
        self.reached[winners] = reached[taken]
