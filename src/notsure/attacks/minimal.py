"""The minimum-norm family: what its members share, DeepFool and DDN.

They look for the nearest image that reaches the goal, so that one run tells the robust accuracy
at every distance (`Adversarial.robust_accuracy`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from notsure.attacks.base import GradientAttack
from notsure.attacks.boundary import bisected, tried
from notsure.attacks.geometry import L2, Norm, check_norm, norm_named
from notsure.attacks.goals import check_kappa, lead
from notsure.attacks.objectives import MARGIN, CrossEntropy, Objective
from notsure.attacks.problem import Function, Problem, objective_for
from notsure.core.errors import ConfigurationError
from notsure.core.target import Response

_SLACK = 1e-4
"""How far a step of DeepFool goes in any case, so that rounding cannot stop it at a boundary."""


class Nearest:
    """The nearest candidate that reaches the goal, of each sample so far.

    Attributes:
        x: (B, C, H, W), the candidate; the clean image until one was offered.
        distance: (B,), how far it is; 0 where the clean image does, infinite where none does.
    """

    def __init__(self, problem: Problem, norm: Norm) -> None:
        self.problem, self.norm = problem, norm
        self.x = problem.x.clone()
        self.distance = torch.where(problem.untouched, 0.0, torch.inf).to(problem.x.dtype)

    @property
    def reached(self) -> torch.Tensor:
        """Bool (B,), where there is one."""
        return torch.isfinite(self.distance)

    def offer(
        self, images: torch.Tensor, rows: torch.Tensor, reached: torch.Tensor
    ) -> torch.Tensor:
        """Keeps what reaches the goal from nearer by; returns where it did, bool (R,)."""
        distance = self.norm.distance(images - self.problem.x[rows])
        taken = reached & (distance < self.distance[rows])
        winners = rows[taken]
        self.x[winners] = images[taken]
        self.distance[winners] = distance[taken]
        return taken

    def walk_back(self, rounds: int) -> None:
        """Halves the way back to the clean image again and again, as long as the goal holds.

        Costs `rounds` forward passes for the samples that were fooled; the first step back is
        small, since most searches end close to the boundary.
        """
        rows = (self.reached & ~self.problem.untouched).nonzero().flatten()
        if len(rows) == 0 or rounds == 0:
            return
        clean, far = self.problem.x[rows], self.x[rows]

        def at(share: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
            return torch.lerp(clean[of], far[of], share.view(-1, 1, 1, 1))

        end = torch.ones(len(rows), dtype=far.dtype, device=far.device)
        first = torch.full_like(end, max(1 - 8 * 2.0**-rounds, 0.5))
        images, high = tried(self.problem, rows, far, at, first, end)
        low = torch.where(high < end, 0, first)
        images = bisected(self.problem, rows, images, at, low, high, rounds - 1)
        self.offer(images, rows, torch.ones_like(rows, dtype=torch.bool))


@dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(GradientAttack):
    """A search for the nearest image that reaches the goal.

    Attributes:
        norm: what nearness means.
        steps: how many steps, at least 1.
        confidence: the logit margin (kappa) that success takes.
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    norm: str = "l2"
    steps: int = 100
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_norm(self.name, self.norm, self.norms)
        if self.steps < 1:
            raise ConfigurationError(f"steps has to be at least 1; got {self.steps}.")
        check_kappa(self.confidence)

    @property
    def geometry(self) -> Norm:
        """The norm."""
        return norm_named(self.norm)

    def kappa(self, problem: Problem) -> float:
        """The margin to go for: the attack's own or the goal's, whichever is more."""
        return max(self.confidence, problem.goal.kappa)


def candidates_of(problem: Problem, rows: torch.Tensor, count: int) -> torch.Tensor:
    """The classes to make for, likeliest first, int64 (R, M): the target, or wrong ones."""
    labels = problem.labels[rows]
    if problem.goal.targeted:
        return labels[:, None]
    logits = problem.clean.logits[rows].scatter(1, labels[:, None], -torch.inf)
    return logits.topk(min(count, logits.shape[1] - 1), dim=1).indices


def margins_to(
    problem: Problem, rows: torch.Tensor, classes: torch.Tensor | None, kappa: float
) -> Function:
    """How far each class is ahead by more than kappa, (R, M), and where detection matters, -r.

    For an untargeted goal a class is ahead of the true one, the best of them where `classes` is
    None; a target has to be ahead of them all. A goal that includes being accepted adds a last
    column, minus the rejection.
    """
    labels, goal = problem.labels[rows], problem.goal

    def function(response: Response) -> torch.Tensor:
        logits = response.logits
        if goal.targeted or classes is None:
            values = lead(logits, labels, goal)[:, None] - kappa
        else:
            values = logits.gather(1, classes) - logits.gather(1, labels[:, None]) - kappa
        if goal.undetected and response.rejection is not None:
            accepted = -response.rejection - goal.rejection_slack
            values = torch.cat([values, accepted[:, None]], dim=1)
        return values

    return function


@dataclass(frozen=True, kw_only=True)
class DeepFool(MinimumNormAttack):
    """Steps to the nearest of the linearised decision boundaries until one is crossed.

    Moosavi-Dezfooli et al. 2016; martin. Each step costs one forward pass and one backward pass
    per class looked at. Where the target rejects, an image that is misclassified but rejected moves
    on across the linearised threshold of the rejection, along its class's boundary. Deviations: a
    step spends nothing on pixels that stand at the end of the box; only the boundaries that were
    nearest at first are followed; from the point found the clean image is projected onto the
    linearised boundary there, as FAB does, which undoes the detours of the steps; a walk back along
    the line to the clean image takes back the overshoot at the end.

    Attributes:
        steps: how many steps at most.
        overshoot: by how much a step goes beyond the linearised boundary, as a share.
        candidates: how many classes the first step looks at, the likeliest ones.
        followed: how many of these, the nearest, the further steps look at.
        projections: how often the clean image is projected in the end; 0 for never.
        walk: forward passes for the way back; 0 for none.
    """

    norms = ("l2", "linf", "l1")
    paper = "Moosavi-Dezfooli et al. 2016"
    cost = "steps x (F + followed B), the first candidates B; projections x (2 F + B), walk F"
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10
    followed: int = 2
    projections: int = 1
    walk: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.overshoot > 0:
            raise ConfigurationError(f"overshoot has to be > 0; got {self.overshoot}.")
        if min(self.candidates, self.followed) < 1 or min(self.projections, self.walk) < 0:
            raise ConfigurationError(
                "candidates and followed have to be at least 1, projections and walk at least 0."
            )

    def search(self, problem: Problem) -> torch.Tensor:
        """Steps until the goal is reached, then walks back."""
        norm, nearest = self.geometry, Nearest(problem, self.geometry)
        rows = (~problem.untouched).nonzero().flatten()
        x, classes = problem.x[rows], candidates_of(problem, rows, self.candidates)
        for step in range(self.steps):
            if len(rows) == 0:
                break
            function = margins_to(problem, rows, classes, self.kappa(problem))
            ascent = problem.slope(x, rows, function)
            nearest.offer(x, rows, ascent.reached)
            left = ~ascent.reached
            rows, x, classes = rows[left], x[left], classes[left]
            value, gradient = ascent.value[left], ascent.gradient[left]
            slope, rise = next_boundary(norm, value, gradient, classes.shape[1])
            if step == 0:
                order = nearest_classes(norm, value, gradient, classes.shape[1], self.followed)
                classes = classes.gather(1, order)
            # as long as the way to the boundary would be without the box: a step that made up for
            # blocked pixels at once would trust the linearisation too far
            length = (1 + self.overshoot) * rise / norm.dual(slope).clamp_min(1e-30) + _SLACK
            x = x + norm.steepest_step(slope, length.view(-1, 1, 1, 1), -x, 1 - x)
            x = x.clamp(0, 1)
        if len(rows):
            nearest.offer(x, rows, problem.ask(x, rows).reached)
        for _ in range(self.projections):
            self._project(problem, nearest)
        nearest.walk_back(self.walk)
        return nearest.x

    def _project(self, problem: Problem, nearest: Nearest) -> None:
        """Offers the clean images' projections onto the boundaries linearised at the points found.

        Only the boundary that was crossed counts, which the class there tells.
        """
        norm = self.geometry
        rows = (nearest.reached & ~problem.untouched).nonzero().flatten()
        if len(rows) == 0:
            return
        clean, x = problem.x[rows], nearest.x[rows]
        ascent = problem.slope(x, rows, margins_to(problem, rows, None, self.kappa(problem)))
        slope, rise = next_boundary(norm, ascent.value, ascent.gradient, 1)
        rise = rise + (slope * (x - clean)).flatten(1).sum(dim=1)
        step = norm.shortest_step(slope, (1 + self.overshoot) * rise, -clean, 1 - clean)
        candidate = (clean + step).clamp(0, 1)
        nearest.offer(candidate, rows, problem.ask(candidate, rows).reached)


def nearest_classes(
    norm: Norm, value: torch.Tensor, gradient: torch.Tensor, count: int, most: int = 1
) -> torch.Tensor:
    """Which of the first `count` linearised boundaries value = 0 are nearest, int64 (R, most)."""
    slopes = norm.dual(gradient[:, :count].flatten(0, 1)).view(-1, count)
    away = value[:, :count].abs() / slopes.clamp_min(1e-30)
    return away.topk(min(most, count), dim=1, largest=False, sorted=True).indices


def next_boundary(
    norm: Norm, value: torch.Tensor, gradient: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear function to change and by how much: the nearest class, or else acceptance.

    Args:
        norm: what nearness means.
        value: how far each class is ahead, and minus the rejection if it matters (R, M).
        gradient: theirs, (R, M, C, H, W).
        count: how many of the M are classes.

    Returns:
        The gradient of that function (R, C, H, W), and how far it is from 0 (R,), negative where
        the boundary has been crossed.
    """
    each = torch.arange(len(value), device=value.device)
    along = nearest_classes(norm, value, gradient, count)[:, 0]
    slope, rise = gradient[each, along], -value[each, along]
    if value.shape[1] == count:
        return slope, rise
    ahead, along = value[:, :count].max(dim=1)
    class_slope, accept = gradient[each, along].flatten(1), gradient[:, count].flatten(1)
    # what acceptance takes must not cost the class: no step back across its boundary
    share = (accept * class_slope).sum(1) / class_slope.square().sum(1).clamp_min(1e-30)
    accept = (accept - share.clamp(max=0)[:, None] * class_slope).view_as(slope)
    turn = (ahead >= 0) & (value[:, count] < 0)
    slope = torch.where(turn.view(-1, 1, 1, 1), accept, slope)
    return slope, torch.where(turn, -value[:, count], rise)


@dataclass(frozen=True, kw_only=True)
class DDN(MinimumNormAttack):
    """Decoupled direction and norm: gradient steps on a sphere that shrinks while they succeed.

    Rony et al. 2019. It takes `steps` forward and backward passes, a small fraction of what C&W
    takes for much the same distance: the recommended minimum-norm attack in l2. Deviations: the
    objective changes half-way, and gamma falls at the end, as in Pintor et al. 2021, which saves
    two steps in five; images are not rounded to 8 bits on the way; a walk back along the line to
    the clean image ends it.

    Attributes:
        init_norm: the radius of the first sphere, in [0,1] pixel units.
        gamma: by what share the radius shrinks or grows after a step; over the last third of the
            steps the share falls to a thousandth.
        objective: what is maximised; by default cross-entropy for the first half of the steps,
            which looks at all classes, and the margin for the rest, which leads to the nearest
            point of a boundary; `DetectorAware` with these where the goal includes being accepted.
        walk: forward passes for the way back; 0 for none.
    """

    paper = "Rony et al. 2019"
    cost = "steps x (F + B) + (1 + walk) F"
    init_norm: float = 1.0
    gamma: float = 0.05
    objective: Objective | None = None
    walk: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.init_norm > 0 and 0.001 < self.gamma < 1) or self.walk < 0:
            raise ConfigurationError(
                "init_norm has to be > 0, gamma in (0.001, 1), and walk at least 0; got "
                f"init_norm={self.init_norm}, gamma={self.gamma}, walk={self.walk}."
            )

    def search(self, problem: Problem) -> torch.Tensor:
        """Alternates steps of the direction and of the norm."""
        norm, nearest = L2(), Nearest(problem, L2())
        far = objective_for(problem, self.objective or CrossEntropy())
        near = objective_for(problem, self.objective or MARGIN)
        rows = (~problem.untouched).nonzero().flatten()
        x = problem.x[rows]
        delta = torch.zeros_like(x)
        radius = torch.full((len(rows),), self.init_norm, dtype=x.dtype, device=x.device)
        # no image of the box is farther away
        farthest = norm.distance(torch.maximum(x, 1 - x))
        for step in range(self.steps):
            if len(rows) == 0:
                break
            ascent = problem.ascend(x + delta, rows, far if 2 * step < self.steps else near)
            nearest.offer(x + delta, rows, ascent.reached)
            cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
            length = 0.01 + 0.99 * cosine
            change = 0.001 + (self.gamma - 0.001) * min(1.0, 5 * cosine)
            delta = delta + norm.steepest_step(ascent.gradient, length, -x - delta, 1 - x - delta)
            radius = radius * torch.where(ascent.reached, 1 - change, 1 + change)
            radius = radius.minimum(farthest)
            scale = radius / norm.distance(delta).clamp_min(1e-12)
            delta = (x + scale.view(-1, 1, 1, 1) * delta).clamp_(0, 1).sub_(x)
        if len(rows):
            nearest.offer(x + delta, rows, problem.ask(x + delta, rows).reached)
        nearest.walk_back(self.walk)
        return nearest.x
