"""Detectors that compare an image with other versions of it, against references in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import median_filter
from scipy.spatial.distance import jensenshannon
from torch import nn

import notsure as ns
from notsure.core.errors import InputError, UnsupportedError
from notsure.core.randomness import Streams, drawing_from
from notsure.detectors import (
    Detector,
    FeatureSqueezing,
    LogOdds,
    ProbabilityDivergence,
    ReconstructionError,
)
from notsure.detectors.feature_squeezing import BitDepth, MedianSmoothing
from notsure.observation import Observation
from notsure.purifiers import Purifier
from tests.toy_detectors import (
    SHAPE,
    fit_on,
    fitted,
    heaps,
    label_of,
    network,
    observed,
    projection,
)
from tests.toys import Array, images


def test_reconstruction_error_is_the_mean_over_pixels() -> None:
    purifier, classifier, x = projection(), network(4), images(9, SHAPE, seed=2)
    difference = (x - purifier(x)).flatten(1).numpy()
    expected = {
        2: np.sqrt(np.square(difference).mean(axis=1)),
        1: np.abs(difference).mean(axis=1),
    }
    for p, reference in expected.items():
        given_to_it = ReconstructionError(of=purifier, p=p).score(Observation(x, classifier))
        the_guards = ReconstructionError(p=p).score(Observation(x, classifier, purifier=purifier))
        assert np.allclose(given_to_it.numpy(), reference)
        assert np.allclose(the_guards.numpy(), reference)


@pytest.mark.parametrize("p", [1, 2])
def test_a_perfect_reconstruction_has_a_gradient(p: int) -> None:
    x = images(3, SHAPE).requires_grad_()
    observation = Observation(x, network(4), purifier=nn.Identity())
    score = ReconstructionError(p=p).score(observation)
    assert score.tolist() == [0.0] * 3
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("temperature", [0.5, 10.0, 40.0])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_probability_divergence_is_scipys(temperature: float, num_classes: int) -> None:
    purifier, classifier = projection(), network(num_classes)
    x = images(9, SHAPE, seed=2)
    pair = [(classifier.logits(z) / temperature).softmax(dim=1) for z in (x, purifier(x))]
    expected = jensenshannon(*(p.detach().numpy() for p in pair), axis=1) ** 2
    for of, before in ((purifier, None), (None, purifier), (purifier, projection())):
        detector = ProbabilityDivergence(of=of, temperature=temperature)
        score = detector.score(Observation(x, classifier, purifier=before))
        assert np.allclose(score.detach().numpy(), expected, rtol=1e-7, atol=1e-12)
    assert float(score.detach().max()) > 1e-7


def test_probability_divergence_of_certain_answers_is_finite() -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[:, :, None, None].requires_grad_()
    classifier = ns.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
    with torch.no_grad():
        classifier.module[1].weight.copy_(1e4 * torch.eye(2))  # type: ignore[index]
    observation = Observation(x, classifier, purifier=lambda image: image.flip(1))
    score = ProbabilityDivergence(temperature=1.0).score(observation)
    assert score.tolist() == pytest.approx([math.log(2)] * 2)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("kind", [ReconstructionError, ProbabilityDivergence])
def test_without_a_reconstruction_there_is_no_error(kind: type[Detector]) -> None:
    classifier = network(4)
    guard = ns.Guard(classifier, [kind()])
    x = images(20, SHAPE)
    with pytest.raises(UnsupportedError, match="of=purifier"):
        guard.fit(x, torch.arange(20) % 4)
    with pytest.raises(UnsupportedError, match="of=purifier"):
        guard.calibrate(x, fpr=0.1)


# squeezing


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    width=st.integers(2, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(2, 9),
    ties=st.booleans(),
)
def test_median_smoothing_is_scipys(
    seed: int, width: int, channels: int, height: int, *, ties: bool
) -> None:
    x = images(2, (channels, height, 7), seed=seed)
    x = (4 * x).round() / 4 if ties else x
    expected = median_filter(x.numpy(), size=(1, 1, width, width), mode="nearest")
    assert np.array_equal(MedianSmoothing(width)(x).numpy(), expected)


def test_bit_depth_is_the_nearest_level() -> None:
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for bits in (1, 3, 8):
        levels = np.arange(2**bits) / (2**bits - 1)
        found = BitDepth(bits)(x).numpy()
        nearest = np.abs(levels[None] - x.numpy()[:, None]).min(axis=1)
        assert np.allclose(np.abs(found - x.numpy()), nearest)
        assert np.allclose(np.unique(found), levels)


def test_feature_squeezing_is_the_largest_distance() -> None:
    classifier, x = network(4), images(9, SHAPE, seed=2)
    for purifier in (None, projection()):

        def answer(z: torch.Tensor, purifier: Purifier | None = purifier) -> torch.Tensor:
            return classifier.logits(z if purifier is None else purifier(z)).softmax(dim=1)

        observation = Observation(x, classifier, purifier=purifier)
        each = {}
        for bits, median in ((2, None), (None, 3)):
            squeezed = BitDepth(2)(x) if bits else MedianSmoothing(3)(x)
            each[bits] = (answer(x) - answer(squeezed)).abs().sum(dim=1)
            score = FeatureSqueezing(bits=bits, median=median).score(observation)
            assert torch.allclose(score, each[bits])
        both = FeatureSqueezing(bits=2, median=3).score(observation)
        assert torch.allclose(both, torch.maximum(each[2], each[None]))


# log-odds


def log_odds_reference(
    detector: LogOdds, classifier: ns.Classifier, x: torch.Tensor
) -> tuple[Array, Array]:
    """g_{y,z} of each image for its predicted class y, and y, image by image."""
    found, labels = [], []
    with torch.no_grad():
        for image in x:
            logits = classifier.logits(image[None])[0].numpy()
            y = int(logits.argmax())
            change = np.zeros(len(logits))
            for pattern in detector.patterns.to(x.dtype):
                noisy = classifier.logits(image[None] + detector.sigma * pattern)[0].numpy()
                change += (noisy - noisy[y]) - (logits - logits[y])
            found.append(change / detector.draws)
            labels.append(y)
    return np.stack(found), np.array(labels)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_log_odds_is_the_formula(num_classes: int) -> None:
    classifier = network(num_classes)
    detector = LogOdds(sigma=0.2, draws=5, tau=0.7, max_points=None, seed=4)
    x = images(150, SHAPE, seed=1)
    for part in torch.split(x, 50):
        detector.update(Observation(part, classifier), torch.zeros(len(part), dtype=torch.int64))
    detector.finish(num_classes)
    clean, label = log_odds_reference(detector, classifier, x)
    test, predicted = log_odds_reference(detector, classifier, images(20, SHAPE, seed=2))
    scores = detector.score(Observation(images(20, SHAPE, seed=2), classifier)).detach().numpy()
    for row, y in enumerate(predicted):
        of_class = clean[label == y]
        standardised = [
            (test[row, z] - of_class[:, z].mean()) / of_class[:, z].std(ddof=1)
            for z in range(num_classes)
            if z != y
        ]
        assert scores[row] == pytest.approx(max(standardised) - 0.7, rel=1e-6)
    # the patterns are normal, and others for another seed
    assert float(detector.patterns.mean()) == pytest.approx(0, abs=0.3)
    assert float(detector.patterns.std()) == pytest.approx(1, abs=0.2)
    other = LogOdds(sigma=0.2, draws=5, seed=5)
    other.update(Observation(x, classifier), label_of(x))
    assert not torch.equal(other.patterns, detector.patterns)
    assert LogOdds.TAU == 1.28


def test_log_odds_takes_the_first_images_of_each_predicted_class() -> None:
    classifier, x = network(4), images(150, SHAPE, seed=1)
    prediction = classifier.logits(x).argmax(dim=1)
    first = torch.cat([(prediction == y).nonzero().flatten()[:7] for y in range(4)]).sort().values
    limited, given_only_these = LogOdds(draws=3, max_points=7), LogOdds(draws=3)
    for part in torch.split(x, 20):
        limited.update(Observation(part, classifier), label_of(part))
    given_only_these.update(Observation(x[first], classifier), label_of(first))
    for detector in (limited, given_only_these):
        detector.finish(4)
    assert torch.allclose(limited.means, given_only_these.means)
    assert torch.allclose(limited.deviations, given_only_these.deviations)


def test_log_odds_pools_what_is_rare_and_says_so() -> None:
    classifier, x = network(4), images(150, SHAPE, seed=1)
    prediction = classifier.logits(x).argmax(dim=1)
    kept = x[prediction != 3]
    whole, partly = LogOdds(draws=3, max_points=None), LogOdds(draws=3, max_points=None)
    for detector, seen in ((whole, x), (partly, kept)):
        detector.update(Observation(seen, classifier), label_of(seen))
    whole.finish(4)
    with pytest.warns(UserWarning, match="predicted as class 3;"):
        partly.finish(4)
    assert torch.allclose(partly.means[:3], whole.means[:3])
    changes, label = log_odds_reference(partly, classifier, kept)
    for z in range(3):
        pooled = changes[label != z, z]
        assert float(partly.means[3, z]) == pytest.approx(pooled.mean(), rel=1e-6)
        assert float(partly.deviations[3, z]) == pytest.approx(pooled.std(ddof=1), rel=1e-6)
    scores = partly.score(Observation(x, classifier))
    assert bool(torch.isfinite(scores).all())
    # of two classes one alone is predicted: there is no pair to go by but its own
    two = network(2)
    one = x[two.logits(x).argmax(dim=1) == 0]
    detector = LogOdds(draws=3)
    detector.update(Observation(one, two), label_of(one))
    with pytest.warns(UserWarning, match="class 1;"):
        detector.finish(2)
    assert float(detector.means[1, 0]) == pytest.approx(float(detector.means[0, 1]))
    with pytest.raises(InputError, match="two training images"):
        fit_on(LogOdds(), torch.rand(1, 4), torch.zeros(1, dtype=torch.int64), 3)


def test_log_odds_of_a_linear_network_are_all_moved_alike() -> None:
    points, y = heaps(100, 12, 3)
    for dtype in (torch.float32, torch.float64):
        detector = fit_on(LogOdds(), points.to(dtype), y, 3)
        scores = detector.score(observed(points.to(dtype), 3))
        assert bool(torch.isfinite(scores).all())
        assert float(scores.detach().abs().max()) < 20


def test_fresh_noise_is_each_passs_own_and_fixed_noise_is_the_same() -> None:
    classifier, x = network(4), images(60, SHAPE, seed=1)
    for fresh in (False, True):
        detector = LogOdds(sigma=0.2, fresh=fresh)
        guard = ns.Guard(classifier, [detector])
        assert guard.stochastic is fresh
        fitted(detector, classifier)
        again = fitted(LogOdds(sigma=0.2, fresh=fresh), classifier)
        assert torch.equal(detector.means, again.state_dict()["means"])
        observation = Observation(x, classifier)
        draws = torch.stack([detector.score(observation).detach() for _ in range(4)])
        assert bool((draws.std(dim=0) > 1e-3).all()) is fresh
        with drawing_from(Streams(torch.arange(60))):
            first = detector.score(observation)
        with drawing_from(Streams(torch.arange(60))):
            assert torch.equal(detector.score(observation), first)
        # clean images have the z-scores that clean images had in the fit
        assert abs(float(first.detach().mean())) < 1.0


def test_log_odds_refuses_images_of_another_size() -> None:
    detector = fit_on(LogOdds(), *heaps(30, 12, 3), 3)
    with pytest.raises(InputError, match=r"shape \(12, 1, 1\)"):
        detector.score(observed(torch.rand(2, 9), 3))
