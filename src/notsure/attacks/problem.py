"""One attack on one batch: the target, what is wanted of it, and what it has cost so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from notsure.attacks.goals import Goal
from notsure.attacks.objectives import Objective
from notsure.core.randomness import Streams
from notsure.core.target import Response, Target


@dataclass(frozen=True, eq=False)
class Ascent:
    """What one forward and backward pass tells about some rows of the batch."""

    response: Response
    value: torch.Tensor
    gradient: torch.Tensor


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
        queries: forward passes per sample (B,).
        gradients: backward passes per sample (B,).
        dead_gradients: backward passes whose gradient was zero or not finite, per sample (B,).
    """

    target: Target
    x: torch.Tensor
    y: torch.Tensor
    goal: Goal
    labels: torch.Tensor
    clean: Response
    streams: Streams
    queries: torch.Tensor = field(init=False)
    gradients: torch.Tensor = field(init=False)
    dead_gradients: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        count = torch.zeros(len(self.x), dtype=torch.int64, device=self.x.device)
        self.queries, self.gradients, self.dead_gradients = count + 1, count, count.clone()

    def ask(self, images: torch.Tensor, rows: torch.Tensor) -> Response:
        """The target's answer to candidates for these rows, without gradients."""
        self.queries[rows] += 1
        return predict(self.target, images)

    def aim(self, rows: torch.Tensor, steer: Goal | None) -> tuple[Goal, torch.Tensor]:
        """What to move towards, `steer` or the judged goal, and its labels for these rows."""
        if steer is None:
            return self.goal, self.labels[rows]
        return steer, steer.labels(self.clean.logits, self.y)[rows]

    def ascend(
        self, images: torch.Tensor, rows: torch.Tensor, objective: Objective, steer: Goal | None
    ) -> Ascent:
        """Answer, objective and its gradient at candidates for these rows.

        Args:
            images: the candidates (R, C, H, W).
            rows: which samples they belong to, int64 (R,).
            objective: what to differentiate.
            steer: a goal to move towards in place of the one that is judged, if any.
        """
        goal, labels = self.aim(rows, steer)
        with torch.inference_mode(False), torch.enable_grad():
            variable = images.detach().clone().requires_grad_()
            response = self.target.respond(variable)
            value = objective(response, labels, goal)
            (gradient,) = torch.autograd.grad(value.sum(), variable)
        finite = torch.isfinite(gradient).flatten(1).all(dim=1)
        alive = finite & (gradient != 0).flatten(1).any(dim=1)
        if not bool(finite.all()):
            gradient = torch.where(finite.view(-1, 1, 1, 1), gradient, 0)
        self.queries[rows] += 1
        self.gradients[rows] += 1
        self.dead_gradients[rows] += (~alive).long()
        rejection = response.rejection
        answer = Response(
            response.logits.detach(), None if rejection is None else rejection.detach()
        )
        return Ascent(answer, value.detach(), gradient)


def predict(target: Target, x: torch.Tensor) -> Response:
    """The target's answer, computed without any graph."""
    with torch.inference_mode():
        response = target.respond(x)
    # clones made outside are ordinary tensors again, which may be changed in place
    rejection = response.rejection
    return Response(response.logits.clone(), None if rejection is None else rejection.clone())


class Best:
    """The best candidate of each sample so far.

    Attributes:
        x: (B, C, H, W), the candidate; the clean image until one was offered.
        reached: bool (B,), whether it reaches the goal.
        value: (B,), its objective.
    """

    def __init__(self, problem: Problem) -> None:
        self.x = problem.x.clone()
        self.reached = problem.goal.reached(problem.clean, problem.labels)
        self.value = torch.full(
            (len(self.x),), -torch.inf, dtype=problem.x.dtype, device=problem.x.device
        )

    def offer(
        self, images: torch.Tensor, rows: torch.Tensor, reached: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Keeps a candidate that reaches the goal over one that does not, then the larger value."""
        value = value.to(self.value.dtype)
        first = reached & ~self.reached[rows]
        better = (reached == self.reached[rows]) & (value > self.value[rows])
        taken = first | better
        winners = rows[taken]
        self.x[winners] = images[taken]
        self.value[winners] = value[taken]
        self.reached[winners] = reached[taken]
