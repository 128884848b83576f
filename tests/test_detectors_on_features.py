"""Detectors that go by features, against references in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import EmpiricalCovariance, shrunk_covariance

from notsure.core.errors import InputError
from notsure.core.state import seeded
from notsure.detectors import LID, DeepKNN, Detector, Mahalanobis
from notsure.detectors.lid import local_intrinsic_dimensionality
from notsure.detectors.neighbours import EvenSample
from tests.toy_detectors import fit_on, heaps, observed
from tests.toys import Array


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
def test_mahalanobis_is_scikit_learns(num_classes: int, shrinkage: float) -> None:
    points, y = heaps(300, 12, num_classes, offset=5.0)
    z, _ = heaps(40, 12, num_classes, seed=1, offset=5.5)
    means = np.stack([points[y == c].mean(dim=0).numpy() for c in range(num_classes)])

    def reference(residuals: Array) -> EmpiricalCovariance:
        found = EmpiricalCovariance(assume_centered=True).fit(residuals)
        found.covariance_ = shrunk_covariance(found.covariance_, shrinkage)
        found.precision_ = np.linalg.inv(found.covariance_)
        return found

    within = reference(points.numpy() - means[y.numpy()])
    distances = np.stack([within.mahalanobis(z.numpy() - mean) for mean in means])
    middle = points.numpy().mean(axis=0)
    background = reference(points.numpy() - middle).mahalanobis(z.numpy() - middle)
    plain = fit_on(Mahalanobis(shrinkage=shrinkage), points, y, num_classes)
    relative = fit_on(Mahalanobis(shrinkage=shrinkage, relative=True), points, y, num_classes)
    observation = observed(z, num_classes)
    assert np.allclose(plain.score(observation).numpy(), distances.min(axis=0), rtol=1e-8)
    expected = distances.min(axis=0) - background
    assert np.allclose(relative.score(observation).numpy(), expected, rtol=1e-8, atol=1e-8)
    # features of float32 lose no digits to the fit
    rounded = plain.score(observed(z.float(), num_classes)).numpy()
    assert np.allclose(rounded, distances.min(axis=0), rtol=1e-3)


def test_mahalanobis_does_not_depend_on_the_units_of_the_features() -> None:
    points, y = heaps(300, 12, 3)
    z, _ = heaps(40, 12, 3, seed=1)
    with seeded(5):
        mix = torch.randn(12, 12, dtype=torch.float64)
    before = fit_on(Mahalanobis(shrinkage=0), points, y, 3).score(observed(z, 3))
    after = fit_on(Mahalanobis(shrinkage=0), points @ mix - 7, y, 3).score(observed(z @ mix - 7, 3))
    assert torch.allclose(before, after, rtol=1e-7)


def test_a_singular_covariance_is_refused_or_shrunk() -> None:
    points, y = heaps(300, 12, 3)
    dead = torch.cat([points, torch.zeros(300, 2, dtype=torch.float64)], dim=1)
    for features, labels in ((dead, y), (points[:12], y[:12]), (torch.zeros_like(points), y)):
        with pytest.raises(InputError, match="raise shrinkage"):
            fit_on(Mahalanobis(shrinkage=0), features, labels, 3)
    detector = fit_on(Mahalanobis(), dead, y, 3)
    awake = dead[:5].clone()
    awake[:, 12] = 1.0
    scores = detector.score(observed(torch.cat([dead[:5], awake]), 3))
    assert bool(torch.isfinite(scores).all())
    assert bool((scores[5:] > scores[:5] + 100).all())


@pytest.mark.parametrize("detector", [Mahalanobis(), DeepKNN(neighbours=2)])
def test_a_class_that_is_missing_is_named(detector: Detector) -> None:
    points, y = heaps(300, 12, 3)
    with pytest.raises(InputError, match="class 2 of 3 has"):
        fit_on(detector, points[y < 2], y[y < 2], 3)


def test_classes_of_a_single_image() -> None:
    points, y = heaps(300, 12, 3)
    kept = (y < 2) | (torch.arange(300) == 2)
    scores = fit_on(Mahalanobis(), points[kept], y[kept], 3).score(observed(points, 3))
    assert bool(torch.isfinite(scores).all())
    assert float(scores[2]) == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="class 2 of 3 has 1"):
        fit_on(DeepKNN(neighbours=1), points[kept], y[kept], 3)


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 50),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=12),
)
def test_an_even_sample_does_not_depend_on_the_batches(limit: int, sizes: list[int]) -> None:
    rows = torch.arange(sum(sizes))[:, None]
    cut, whole = EvenSample(limit), EvenSample(limit)
    for part in torch.split(rows, sizes):
        cut.add(part)
        assert sum(len(kept) for kept in cut._parts) <= 2 * limit
    whole.add(rows)
    assert torch.equal(cut.rows(), whole.rows())
    taken = cut.rows().flatten()
    assert len(taken) == min(limit, len(rows))
    gaps = taken.diff()
    assert len(gaps) == 0 or int(gaps.max()) <= 2 * int(gaps.min()) + 1
    assert int(taken[0]) == 0
    assert int(taken[-1]) >= len(rows) - 1 - (int(gaps.max()) if len(gaps) else len(rows))


def test_lid_is_the_formula() -> None:
    points, y = heaps(500, 12, 3)
    z, _ = heaps(40, 12, 3, seed=1)
    detector = fit_on(LID(neighbours=7, reference=100), points, y, 3)
    # of 500 every fourth, which are no more than twice as many as asked for
    kept = points[::4][torch.linspace(0, 124, 100).round().long()].numpy()
    expected = []
    for row in z.numpy():
        r = np.sort(np.linalg.norm(kept - row, axis=1))[:7]
        expected.append(-1 / np.mean(np.log(r / r[-1])))
    assert np.allclose(detector.score(observed(z, 3)).numpy(), expected, rtol=1e-9)
    # distances of any unit
    scaled = fit_on(LID(neighbours=7, reference=100), 30 * points, y, 3)
    assert np.allclose(scaled.score(observed(30 * z, 3)).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("dimension", [2, 6])
def test_lid_estimates_the_dimension_of_the_data(dimension: int) -> None:
    generator = torch.Generator().manual_seed(0)
    embedding = torch.linalg.qr(torch.randn(40, dimension, generator=generator))[0]
    points = torch.rand(2100, dimension, generator=generator) @ embedding.T
    detector = fit_on(LID(), points[:2000], torch.arange(2000) % 3, 3)
    estimate = float(detector.score(observed(points[2000:], 3)).median())
    assert estimate == pytest.approx(dimension, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_of_the_reference_is_not_its_own_neighbour(dtype: torch.dtype) -> None:
    points, y = heaps(101, 12, 3)
    points = points.to(dtype)
    detectors = [LID(neighbours=7, reference=101), DeepKNN(neighbours=7, temperature=9.0)]
    for detector in detectors:
        fit_on(detector, points, y, 3)
        z = points[:20].clone().requires_grad_()
        scores = detector.score(observed(z, 3))
        (gradient,) = torch.autograd.grad(scores.sum(), z)
        assert bool(torch.isfinite(gradient).all())
        assert bool((gradient.norm(dim=1) > 1e-6).all())
        for row in range(5):
            others = torch.arange(101) != row
            without = fit_on(type(detector)(**detector.settings()), points[others], y[others], 3)
            alone = without.score(observed(points[row : row + 1], 3))
            assert torch.allclose(scores[row], alone, rtol=1e-3)


def test_lid_of_points_that_coincide_is_finite() -> None:
    squared = torch.tensor([[0.0, 0, 0], [0, 0, 1], [4, 4, 4], [1, 1, math.e**2]]).requires_grad_()
    estimate = local_intrinsic_dimensionality(squared, same=1e-4)
    assert estimate.detach().tolist() == pytest.approx([0, 1.5 / math.log(1e4), 1e6, 1.5], rel=1e-4)
    (gradient,) = torch.autograd.grad(estimate.sum(), squared)
    assert bool(torch.isfinite(gradient).all())
    points, y = heaps(50, 12, 3)
    detector = fit_on(LID(neighbours=5), points[:1].repeat(50, 1), y, 3)
    assert detector.score(observed(points[:1], 3)).tolist() == [0.0]
    with pytest.raises(InputError, match="seeks 20 neighbours among 20"):
        fit_on(LID(), points[:20], y[:20], 3)


def test_deep_knn_is_the_formula() -> None:
    points, y = heaps(300, 12, 3)
    z, _ = heaps(40, 12, 3, seed=1)
    detector = fit_on(DeepKNN(neighbours=5, temperature=30.0), points, y, 3)
    observation = observed(z, 3)
    scores = detector.score(observation)
    for row in range(40):
        weight = np.exp(-np.square(points.numpy() - z[row].numpy()).sum(axis=1) / 30.0)
        own = y.numpy() == int(observation.prediction[row])
        same, other = np.sort(weight[own])[-5:].sum(), np.sort(weight[~own])[-5:].sum()
        nonconformity = other / (same + other)
        assert float(scores[row]) == pytest.approx(
            math.log(nonconformity / (1 - nonconformity)), rel=1e-6, abs=1e-9
        )


def test_deep_knn_says_where_the_neighbours_disagree() -> None:
    points, y = heaps(300, 12, 3)
    z, own = heaps(60, 12, 3, seed=1)
    detector = fit_on(DeepKNN(neighbours=1, temperature=1e-3), points, y, 3)
    observation = observed(z, 3)
    closest = y[torch.cdist(z, points).argmin(dim=1)]
    assert torch.equal(detector.score(observation) > 0, closest != observation.prediction)
    # one neighbour each: the difference of the squared distances
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    shuffled = fit_on(DeepKNN(neighbours=4), points[order], y[order], 3)
    straight = fit_on(DeepKNN(neighbours=4), points, y, 3)
    assert torch.allclose(shuffled.score(observation), straight.score(observation))
    # the default temperature follows the unit of the features
    scaled = fit_on(DeepKNN(neighbours=4), 20 * points, y, 3)
    assert torch.allclose(
        scaled._neighbours(20 * z, own)[0] / scaled.scale,
        straight._neighbours(z, own)[0] / straight.scale,
    )


def test_neighbours_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points, y = heaps(300, 12, 3)
    z = observed(heaps(40, 12, 3, seed=1)[0], 3)
    detectors = [fit_on(LID(), points, y, 3), fit_on(DeepKNN(max_points=50), points, y, 3)]
    whole = [detector.score(z) for detector in detectors]
    monkeypatch.setattr("notsure.detectors.neighbours.BLOCK_ELEMENTS", 1000)
    for detector, scores in zip(detectors, whole, strict=True):
        assert torch.allclose(detector.score(z), scores)
    assert len(detectors[1].points) == 150
