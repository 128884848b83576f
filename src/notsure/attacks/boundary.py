"""The way to the decision boundary by answers alone, and what else attacks by queries share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from notsure.attacks.geometry import Norm
from notsure.attacks.problem import Problem
from notsure.core.errors import ConfigurationError
from notsure.core.randomness import Streams
from notsure.core.target import Access, access_of

_PURPOSE = 0x5354
"""Keeps the noise of the starts apart from whatever else a sample draws."""

_BLEND_ROUNDS = 10

Path = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Images at places (N,) along a way, of samples given by their positions (N,)."""


def check_confidence(confidence: float, problem: Problem) -> None:
    """Checks that a margin is asked only of a target that shows one.

    Raises:
        ConfigurationError: the target shows decisions, and `confidence` is not 0.
    """
    if confidence > 0 and access_of(problem.target) == Access.DECISIONS:
        raise ConfigurationError(
            f"confidence={confidence:g} is a logit margin, and {type(problem.target).__name__} "
            "shows decisions only: leave confidence at 0."
        )


def queries_left(problem: Problem, rows: torch.Tensor, queries: int) -> int:
    """How many forward passes each of the rows may still take, of `queries` at most."""
    if problem.query_budget is None:
        return queries
    return min(queries, problem.query_budget - int(problem.queries[rows].max()))


def check_queries(left: int, cost: int, purpose: str) -> None:
    """Checks that what is left after the clean image pays for something.

    Args:
        left: forward passes that a sample may still take.
        cost: how many of these are needed.
        purpose: for what.

    Raises:
        ConfigurationError: they do not suffice.
    """
    if left < cost:
        raise ConfigurationError(
            f"The queries do not suffice: {purpose} takes {cost} of this target, and {left} are "
            f"left after the clean image. Raise queries by {cost - left} or more."
        )


def project_each(
    norm: Norm, delta: torch.Tensor, radius: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """The nearest points to perturbations (R, C, H, W) in balls of their own radii (R,) > 0.

    Args:
        norm: of the balls.
        delta: the perturbations.
        radius: one each.
        x: the images that they belong to; the points keep these in [0,1].
    """
    # norms and boxes scale: a ball of radius r is r times the unit ball
    unit = radius.to(delta.dtype).view(-1, 1, 1, 1)
    return norm.project(delta / unit, 1.0, -x / unit, (1 - x) / unit) * unit


def blended_starts(
    problem: Problem, rows: torch.Tensor, tries: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that reach the goal: noise, blended with the clean image as far as the goal holds.

    The noise is uniform and drawn from each sample's own stream: of single pixels first, then also
    in blocks of 2, 4, 8, ... pixels, which reach classes that pixel noise does not. Costs up to
    `tries` answers, and ten more for the blend.

    Args:
        problem: the batch.
        rows: the samples that want one, int64 (R,).
        tries: how many noise images at most.

    Returns:
        The rows for which one was found, int64 (F,), and theirs (F, C, H, W).
    """
    x = problem.x[rows]
    far, found = x.clone(), torch.zeros_like(rows, dtype=torch.bool)
    for attempt in range(tries):
        todo = (~found & (problem.left(rows) > 0)).nonzero().flatten()
        if len(todo) == 0:
            break
        noise = _noise(problem.streams.select(rows[todo]).fork(_PURPOSE), x[todo], attempt)
        hit = problem.ask(noise, rows[todo]).reached
        far[todo[hit]], found[todo[hit]] = noise[hit], True
    rows, x, far = rows[found], x[found], far[found]

    def blend(share: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x[of], far[of], share.view(-1, 1, 1, 1))

    whole = torch.ones(len(rows), dtype=x.dtype, device=x.device)
    return rows, bisected(problem, rows, far, blend, 0 * whole, whole, _BLEND_ROUNDS)


def _noise(streams: Streams, like: torch.Tensor, attempt: int) -> torch.Tensor:
    channels, height, width = like.shape[1:]
    cell = 2 ** (attempt % max(height, width).bit_length())
    grid = (channels, math.ceil(height / cell), math.ceil(width / cell))
    coarse = streams.fork(attempt).uniform(grid, dtype=like.dtype)
    fine = coarse.repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3)
    return fine[:, :, :height, :width]


def draw_nearer(
    problem: Problem,
    norm: Norm,
    rows: torch.Tensor,
    images: torch.Tensor,
    *,
    rounds: int,
    least: float = 0.0,
) -> torch.Tensor:
    """Shrinks the ball around the clean image as long as what it does to an image keeps the goal.

    Bisects the radius between `least` and the image's distance; the image is projected onto each
    ball: along the line to the clean image in l2, by clipping in linf.

    Args:
        problem: the batch.
        norm: of the balls.
        rows: the samples, int64 (R,).
        images: theirs, which reach the goal (R, C, H, W).
        rounds: answers asked for at most.
        least: the smallest radius wanted.

    Returns:
        The nearest images that reach the goal (R, C, H, W).
    """
    x = problem.x[rows]
    delta = images - x

    def shrunk(radius: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return x[of] + project_each(norm, delta[of], radius.clamp_min(1e-30), x[of])

    high = norm.distance(delta)
    low = torch.full_like(high, least).minimum(high)
    if least > 0:
        # where the smallest radius does there is nothing to look for
        images, high = tried(problem, rows, images, shrunk, low, high)
    return bisected(problem, rows, images, shrunk, low, high, rounds)


def bisected(
    problem: Problem,
    rows: torch.Tensor,
    images: torch.Tensor,
    at: Path,
    low: torch.Tensor,
    high: torch.Tensor,
    rounds: int,
) -> torch.Tensor:
    """The images at the smallest places between low and high at which the goal is found to hold.

    Args:
        problem: the batch.
        rows: the samples, int64 (R,).
        images: theirs at `high`, where it holds.
        at: the images at some places (N,) of some samples, given by their positions (N,).
        low: where it does not hold, (R,).
        high: where it does, (R,).
        rounds: how often the rest is halved, at one answer each.
    """
    for _ in range(rounds):
        middle = (low + high) / 2
        images, nearer = tried(problem, rows, images, at, middle, high)
        low, high = torch.where(nearer < high, low, middle), nearer
    return images


def tried(
    problem: Problem,
    rows: torch.Tensor,
    images: torch.Tensor,
    at: Path,
    place: torch.Tensor,
    high: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images at `place` and the place where the goal holds there; what was, elsewhere."""
    images, high = images.clone(), high.clone()
    todo = ((problem.left(rows) > 0) & (place < high)).nonzero().flatten()
    if len(todo):
        candidate = at(place[todo], todo)
        hit = problem.ask(candidate, rows[todo]).reached
        images[todo[hit]], high[todo[hit]] = candidate[hit], place[todo[hit]]
    return images, high
