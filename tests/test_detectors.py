"""Detectors against float64 references, other people's code, and pang's lemma and theorem."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KernelDensity
from torch import nn

import notsure as ns
from notsure.core.errors import (
    ConfigurationError,
    InputError,
    NotFittedError,
    UnsupportedError,
)
from notsure.detectors import Confidence, Detector, KDensity, NonMaximalEntropy
from notsure.detectors.kdensity import likeliest_bandwidth, log_kernel_density
from notsure.detectors.non_maximal_entropy import non_maximal_entropy
from notsure.observation import Observation
from tests.toys import images, small_network

SHAPE = (1, 6, 6)


def observed(seed: int = 0, count: int = 9, num_classes: int = 4) -> Observation:
    classifier = ns.Classifier(small_network(seed, num_classes=num_classes))
    return Observation(images(count, SHAPE, seed=seed), classifier)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999),
    points=st.integers(1, 40),
    dimension=st.integers(1, 70),
    bandwidth=st.floats(0.05, 20),
    offset=st.sampled_from([0.0, 10.0]),
)
def test_kernel_density_is_the_formula(
    seed: int, points: int, dimension: int, bandwidth: float, offset: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres = offset + torch.randn(points, dimension, generator=generator)
    z = offset + torch.randn(6, dimension, generator=generator)
    ours = log_kernel_density(z, centres, bandwidth)
    squared = ((z[:, None].double() - centres[None].double()) ** 2).sum(dim=2)
    reference = torch.logsumexp(-squared / bandwidth**2, dim=1) - math.log(points)
    assert torch.allclose(ours.double(), reference, rtol=1e-4, atol=1e-4 / min(bandwidth**2, 1))
    # scikit-learn's Gaussian kernel is exp(-d^2 / 2h^2), and normalised
    h = bandwidth / math.sqrt(2)
    other = KernelDensity(kernel="gaussian", bandwidth=h).fit(centres.double().numpy())
    normaliser = 0.5 * dimension * math.log(2 * math.pi * h**2)
    assert np.allclose(
        log_kernel_density(z.double(), centres.double(), bandwidth).numpy(),
        other.score_samples(z.double().numpy()) + normaliser,
        rtol=1e-6,
        atol=1e-6,
    )


def test_kernel_density_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    centres, z = torch.randn(50, 8), torch.randn(33, 8)
    whole = log_kernel_density(z, centres, 1.3)
    monkeypatch.setattr("notsure.detectors.kdensity.TILE", (10, 7))
    assert torch.allclose(log_kernel_density(z, centres, 1.3), whole, atol=1e-6)


def test_kernel_density_far_away_neither_underflows_nor_loses_its_gradient() -> None:
    z = torch.full((1, 4), 1e3, requires_grad=True)
    density = log_kernel_density(z, torch.randn(20, 4), 0.1)
    assert math.isfinite(density.item())
    assert density.item() < -1e8
    (gradient,) = torch.autograd.grad(density.sum(), z)
    assert bool((gradient < -1e4).all())


def test_kdensity_uses_the_points_of_the_predicted_class() -> None:
    observation = observed(count=40)
    y = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0))
    detector = KDensity(bandwidth=0.7)
    detector.update(observation, y)
    detector.finish(4)
    scores = detector.score(observation).detach()
    for row in range(40):
        of_class = observation.features[y == observation.prediction[row]].double()
        squared = (observation.features[row].double() - of_class).square().sum(dim=1)
        density = torch.exp(-squared / 0.7**2).mean()
        assert scores[row].item() == pytest.approx(-math.log(density.item()), rel=1e-6, abs=1e-8)


def test_kdensity_keeps_a_spread_of_points() -> None:
    observation = observed(count=40)
    y = torch.arange(40) % 4
    detector = KDensity(bandwidth=1.0, max_points=3)
    detector.update(observation, y)
    detector.finish(4)
    assert detector.offsets.tolist() == [0, 3, 6, 9, 12]
    expected = observation.features[y == 0][[0, 4, 9]]
    assert torch.equal(detector.points[:3], expected)


def test_the_default_bandwidth_finds_the_scale_of_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.01, 1.0, 50.0):
        classes = [
            scale * (10 * c + torch.randn(300, 2, generator=generator, dtype=torch.float64))
            for c in range(3)
        ]
        # the best bandwidth of 2-D standard normal data is near Silverman's, sqrt(2) n^(-1/6)
        sigma = likeliest_bandwidth(classes)
        assert 0.3 * scale < sigma < 1.1 * scale
    assert likeliest_bandwidth([torch.zeros(5, 3)]) == 1.0
    assert likeliest_bandwidth([torch.zeros(1, 3), torch.ones(1, 3)]) == 1.0


def test_the_reports_bandwidths() -> None:
    assert pytest.approx(1 / 0.26) == KDensity.PANG_CE**2
    assert pytest.approx(0.1 / 0.26) == KDensity.PANG_RCE**2


@pytest.mark.parametrize("detector", [KDensity(bandwidth=1.0), Confidence(), NonMaximalEntropy()])
def test_scores_are_differentiable_down_to_the_image(detector: Detector) -> None:
    classifier = ns.Classifier(small_network(3))
    fit = Observation(images(30, SHAPE, seed=1), classifier)
    detector.update(fit, torch.arange(30) % 4)
    detector.finish(4)
    x = images(3, SHAPE, seed=2).requires_grad_()

    def score(image: torch.Tensor) -> torch.Tensor:
        return detector.score(Observation(image, classifier))

    (gradient,) = torch.autograd.grad(score(x).sum(), x)
    assert bool((gradient.flatten(1).norm(dim=1) > 1e-6).all())
    assert torch.autograd.gradcheck(score, (x,), atol=1e-5)


def test_confidence_is_the_formula_even_when_saturated() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 300.0, 0.0]], dtype=torch.float64)
    observation = Observation(torch.zeros(2, 3, 1, 1), ns.Classifier(nn.Flatten()))
    observation.__dict__["_pass"] = (logits, None)
    expected = -torch.log(torch.softmax(logits, dim=1).amax(dim=1))
    assert torch.allclose(Confidence().score(observation), expected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), num_classes=st.integers(3, 12), shift=st.floats(-30, 30))
def test_non_maximal_entropy_is_the_formula_and_obeys_lemma_1(
    seed: int, num_classes: int, shift: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, num_classes, generator=generator, dtype=torch.float64)
    probabilities = torch.softmax(logits, dim=1)[0]
    top = int(probabilities.argmax())
    rest = torch.cat([probabilities[:top], probabilities[top + 1 :]])
    rest = rest / rest.sum()
    value = non_maximal_entropy(logits)
    assert float(value) == pytest.approx(float(-(rest * rest.log()).sum()), abs=1e-9)
    # Lemma 1: it is constant while the differences among the other logits are, in that region
    gaps = logits[0, top] - torch.cat([logits[0, :top], logits[0, top + 1 :]]).max()
    assume(float(gaps) + shift > 1e-6)
    moved = logits.clone()
    moved[0, top] += shift
    assert float(non_maximal_entropy(moved)) == pytest.approx(float(value), abs=1e-9)
    # ... and largest, log(K-1), just where the others are equal
    assert float(value) <= math.log(num_classes - 1) + 1e-12
    level = torch.full((1, num_classes), -1.0, dtype=torch.float64)
    level[0, top] = 2.0
    assert float(non_maximal_entropy(level)) == pytest.approx(math.log(num_classes - 1))
    level[0, (top + 1) % num_classes] -= 0.5
    assert float(non_maximal_entropy(level)) < math.log(num_classes - 1) - 1e-3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), num_classes=st.integers(2, 10), share=st.floats(0.01, 1))
def test_theorem_2_bounds_the_reversed_softmax(seed: int, num_classes: int, share: float) -> None:
    """Within alpha of the reverse label, softmax(-Z) is within alpha (L-1)^2 of the label."""
    generator = torch.Generator().manual_seed(seed)
    alpha = share * 0.2 / num_classes**2
    y = seed % num_classes
    reverse = torch.full((num_classes,), 1 / (num_classes - 1), dtype=torch.float64)
    reverse[y] = 0
    noise = torch.rand(num_classes, generator=generator, dtype=torch.float64) - 0.5
    noise[y] = noise[y].abs() + 1e-3
    noise[torch.arange(num_classes) != y] -= noise.sum() / (num_classes - 1)
    noise *= alpha / noise.abs().max()
    probabilities = reverse + noise
    assume(bool((probabilities > 0).all()))
    assert float((probabilities - reverse).abs().max()) <= alpha * (1 + 1e-9)
    reversed_softmax = torch.softmax(-probabilities.log(), dim=0)
    label = torch.zeros(num_classes, dtype=torch.float64)
    label[y] = 1
    bound = alpha * (num_classes - 1) ** 2
    assert float((reversed_softmax - label).abs().max()) <= bound * (1 + 1e-9)
    others = torch.cat([reversed_softmax[:y], reversed_softmax[y + 1 :]])
    spread = float(others.max() - others.min())
    assert spread <= 2 * alpha**2 * (num_classes - 1) ** 2 * (1 + 1e-6) + 1e-15


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"bandwidth": 0}, "> 0"),
        ({"bandwidth": -1.0}, "> 0"),
        ({"bandwidth": math.inf}, "> 0"),
        ({"max_points": 0}, "at least 1"),
    ],
)
def test_kdensity_settings_are_checked(settings: dict[str, float], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        KDensity(**settings)  # type: ignore[arg-type]


def test_what_cannot_be_scored_says_why() -> None:
    observation = observed()
    with pytest.raises(NotFittedError, match=r"guard\.fit"):
        KDensity().score(observation)
    with pytest.raises(UnsupportedError, match="two classes"):
        NonMaximalEntropy().score(observed(num_classes=2))
    detector = KDensity()
    detector.update(observation, torch.zeros(9, dtype=torch.int64))
    with pytest.raises(InputError, match="class 1 of 4 has none"):
        detector.finish(4)
