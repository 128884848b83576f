"""The norms: projections, steepest steps and random points against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from notsure.attacks.geometry import NORMS, norm_named
from notsure.core.errors import ConfigurationError
from notsure.core.randomness import Streams

ALL = list(NORMS)
SHAPE = (2, 3, 3)


def problem(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Perturbations, and how far each pixel may move down and up (some not at all)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, *SHAPE, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.3, x.round(), x)
    delta = spread * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return delta, -x, 1 - x


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.05, 0.5, 3.0]),
    share=st.floats(0.001, 0.9),
)
def test_projection_is_the_nearest_feasible_point(
    name: str, seed: int, spread: float, share: float
) -> None:
    norm = norm_named(name)
    delta, low, high = problem(seed, spread)
    radius = share * norm.largest_radius(delta[0].numel())
    point = norm.project(delta, radius, low, high)
    assert bool((norm.distance(point) <= radius * (1 + 1e-9) + 1e-12).all())
    assert bool(((point >= low) & (point <= high)).all())
    assert torch.allclose(norm.project(point, radius, low, high), point, atol=1e-9)
    # the nearest point p of a convex set to d is the one with <d - p, z - p> <= 0 for all z in it
    streams = Streams.of(torch.arange(4), seed)
    for purpose in range(20):
        other = norm.random_point(streams.fork(purpose), delta, radius).clamp(low, high)
        product = ((delta - point) * (other - point)).flatten(1).sum(dim=1)
        assert float(product.max()) <= 1e-6 * max(1.0, float(delta.abs().max()) * radius)
    # also against the corners of the ball, which random points rarely come near
    corner = torch.zeros_like(delta)
    corner[:, 0, 0, 0] = radius
    other = corner.clamp(low, high)
    product = ((delta - point) * (other - point)).flatten(1).sum(dim=1)
    assert float(product.max()) <= 1e-6 * max(1.0, float(delta.abs().max()) * radius)


@pytest.mark.parametrize("name", ALL)
def test_a_point_inside_stays(name: str) -> None:
    norm = norm_named(name)
    delta, low, high = problem(1, 0.01)
    inside = delta.clamp(low, high)
    assert torch.equal(norm.project(inside, norm.largest_radius(18), low, high), inside)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.floats(0.05, 6.0))
def test_l1_step_is_the_linear_program(seed: int, length: float) -> None:
    gradient, low, high = problem(seed, 1.0)
    step = norm_named("l1").steepest_step(gradient, length, low, high)
    for row in range(len(gradient)):
        g = gradient[row].flatten().numpy()
        up, down = high[row].flatten().numpy(), -low[row].flatten().numpy()
        best = linprog(
            np.r_[-g, g],
            A_ub=np.ones((1, 2 * len(g))),
            b_ub=[length],
            bounds=[(0, v) for v in up] + [(0, v) for v in down],
        )
        reached = float((gradient[row] * step[row]).sum())
        assert reached == pytest.approx(-best.fun, rel=1e-6, abs=1e-9)
        assert float(step[row].abs().sum()) <= length * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.floats(0.01, 2.0))
def test_l2_step_beats_every_other_direction(seed: int, length: float) -> None:
    gradient, low, high = problem(seed, 1.0)
    norm = norm_named("l2")
    step = norm.steepest_step(gradient, length, low, high)
    assert torch.allclose(norm.distance(step), torch.full((4,), length, dtype=torch.float64))
    blocked = ((step > 0) & (high == 0)) | ((step < 0) & (low == 0))
    assert not bool(blocked.any())
    reached = (gradient * step).flatten(1).sum(dim=1)
    for purpose in range(20):
        other = Streams.of(torch.arange(4), seed).fork(purpose).normal(SHAPE, dtype=torch.float64)
        other = other.masked_fill(((other > 0) & (high == 0)) | ((other < 0) & (low == 0)), 0)
        other = other * (length / norm.distance(other)).view(-1, 1, 1, 1)
        assert bool(((gradient * other).flatten(1).sum(dim=1) <= reached + 1e-9).all())


def test_tiny_gradients_give_full_steps() -> None:
    gradient = torch.full((1, *SHAPE), 1e-30)
    low, high = torch.full_like(gradient, -0.5), torch.full_like(gradient, 0.5)
    for name in ALL:
        norm = norm_named(name)
        step = norm.steepest_step(gradient, 0.25, low, high)
        assert float(norm.distance(step)) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_random_points_fill_the_ball_uniformly(name: str) -> None:
    norm, dimension, radius = norm_named(name), 5, 0.7
    streams = Streams.of(torch.arange(20_000), 3)
    points = norm.random_point(streams, torch.zeros(20_000, 1, 1, dimension), radius)
    lengths = norm.distance(points)
    assert float(lengths.max()) <= radius * (1 + 1e-5)
    # in a ball of dimension D the volume within a share s of the radius is s^D
    for share in (0.5, 0.8, 0.95):
        within = float((lengths <= share * radius).double().mean())
        assert within == pytest.approx(share**dimension, abs=0.015)
    assert float(points.mean(dim=0).abs().max()) < 0.01


def test_unknown_norm_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="linf, l2, l1"):
        norm_named("l3")
    with pytest.raises(ConfigurationError, match="norm"):
        norm_named(2)  # type: ignore[arg-type]
