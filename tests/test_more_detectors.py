"""What holds for every detector, and the combination of several."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

import notsure as ns
from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, InputError, NotFittedError
from notsure.core.part import rebuilt
from notsure.core.randomness import Streams, drawing_from
from notsure.detectors import (
    LID,
    Confidence,
    DeepKNN,
    Detector,
    FeatureSqueezing,
    KDensity,
    LearnedCombination,
    LogOdds,
    Mahalanobis,
    ProbabilityDivergence,
    ReconstructionError,
)
from notsure.observation import Observation
from notsure.purifiers.base import Shape
from tests.toy_detectors import (
    SHAPE,
    PrincipalComponents,
    fitted,
    heaps,
    network,
    observed,
    projection,
)
from tests.toys import Array, images, small_network


def every_detector(shape: Shape = SHAPE) -> list[Detector]:
    """All detectors of this file, small."""
    return [
        ReconstructionError(of=projection(shape)),
        ReconstructionError(of=projection(shape), p=1),
        ProbabilityDivergence(of=projection(shape), temperature=2.0),
        LogOdds(draws=4),
        LogOdds(draws=3, fresh=True),
        Mahalanobis(),
        Mahalanobis(relative=True, shrinkage=0.1),
        LID(neighbours=5, reference=40),
        FeatureSqueezing(bits=None),
        DeepKNN(neighbours=3),
        LearnedCombination({"density": KDensity(bandwidth=1.0), "odds": LogOdds(draws=2)}),
    ]


@pytest.mark.filterwarnings("ignore:LogOdds")
@pytest.mark.parametrize("number", range(11))
def test_scores_are_differentiable_down_to_the_image(number: int) -> None:
    classifier = network(4)
    detector = fitted(every_detector()[number], classifier)
    x = images(3, SHAPE, seed=2).requires_grad_()

    def score(image: torch.Tensor) -> torch.Tensor:
        with drawing_from(Streams(torch.arange(3))):
            return detector.score(Observation(image, classifier))

    (gradient,) = torch.autograd.grad(score(x).sum(), x)
    assert bool((gradient.flatten(1).norm(dim=1) > 1e-6).all())
    assert torch.autograd.gradcheck(score, (x,), atol=1e-5)


@pytest.mark.filterwarnings("ignore:LogOdds")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("num_classes", "channels"), [(2, 3), (3, 1), (10, 3)])
def test_a_score_is_of_its_image_alone_whatever_type_and_size(
    num_classes: int, channels: int, dtype: torch.dtype
) -> None:
    shape = (channels, 6, 6)
    classifier = network(num_classes, channels, dtype)
    x = images(7, shape, seed=2).to(dtype)
    for detector in [*every_detector(shape), FeatureSqueezing()]:
        fitted(detector, classifier, shape)

        def score(rows: list[int], detector: Detector = detector) -> torch.Tensor:
            with torch.inference_mode(), drawing_from(Streams(torch.tensor(rows))):
                return detector.score(Observation(x[rows], classifier))

        together = score(list(range(7)))
        assert together.shape == (7,)
        assert together.dtype == dtype
        assert bool(torch.isfinite(together).all())
        tolerance = 1e-9 if dtype == torch.float64 else 2e-3
        for rows in ([3], [6, 0, 2]):
            alone = score(rows)
            assert torch.allclose(alone, together[rows], rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:LogOdds")
@pytest.mark.parametrize("number", range(10))
def test_a_fit_does_not_depend_on_how_it_was_cut(number: int) -> None:
    classifier = network(4)
    x, y = images(150, SHAPE, seed=1), torch.arange(150) % 4
    scores = []
    for size in (150, 40):
        detector = every_detector()[number]
        for part, labels in zip(torch.split(x, size), torch.split(y, size), strict=True):
            detector.update(Observation(part, classifier), labels)
        detector.finish(4)
        with torch.no_grad(), drawing_from(Streams(torch.arange(9))):
            scores.append(detector.score(Observation(images(9, SHAPE, seed=3), classifier)))
    assert torch.allclose(scores[0], scores[1], rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore:LogOdds")
@pytest.mark.parametrize("number", range(11))
def test_rebuilt_from_its_description_it_scores_the_same(number: int) -> None:
    classifier = network(4)
    detector = fitted(every_detector()[number], classifier)
    again = rebuilt(detector.description(), Detector, detector.state_dict())
    again.require_fitted()
    assert again.settings() == detector.settings()
    with torch.no_grad():
        scores = []
        for one in (detector, again):
            with drawing_from(Streams(torch.arange(9))):
                scores.append(one.score(Observation(images(9, SHAPE, seed=3), classifier)))
    assert torch.equal(scores[0], scores[1])


@pytest.mark.parametrize(
    "detector",
    [
        ReconstructionError(of=PrincipalComponents()),
        ProbabilityDivergence(of=PrincipalComponents()),
        LogOdds(),
        Mahalanobis(),
        LID(),
        DeepKNN(),
        LearnedCombination({"only": Confidence()}),
    ],
)
def test_asked_before_the_fit_it_says_so(detector: Detector) -> None:
    assert not detector.fitted
    with pytest.raises(NotFittedError):
        detector.require_fitted()
    with pytest.raises(NotFittedError):
        detector.score(Observation(images(2, SHAPE), network(4)))


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: ReconstructionError(p=3), "p is 2"),
        (lambda: ReconstructionError(of=nn.Identity()), "has to be a Purifier"),  # type: ignore[arg-type]
        (lambda: ProbabilityDivergence(temperature=0), "temperature"),
        (lambda: LogOdds(sigma=0), "sigma"),
        (lambda: LogOdds(sigma=-1), "sigma"),
        (lambda: LogOdds(sigma=math.nan), "sigma"),
        (lambda: LogOdds(draws=0), "draws"),
        (lambda: LogOdds(tau=math.inf), "tau"),
        (lambda: LogOdds(max_points=1), "max_points"),
        (lambda: Mahalanobis(shrinkage=-0.1), "shrinkage"),
        (lambda: Mahalanobis(shrinkage=math.nan), "shrinkage"),
        (lambda: LID(neighbours=1), "at least 2"),
        (lambda: LID(neighbours=20, reference=20), "keep more"),
        (lambda: FeatureSqueezing(bits=0), "bits"),
        (lambda: FeatureSqueezing(median=1), "at least 2 pixels"),
        (lambda: FeatureSqueezing(bits=None, median=None), "nothing to do"),
        (lambda: DeepKNN(neighbours=0), "at least 1"),
        (lambda: DeepKNN(neighbours=5, max_points=5), "keep more"),
        (lambda: DeepKNN(temperature=0), "temperature"),
        (lambda: LearnedCombination({}), "at least one"),
        (lambda: LearnedCombination({"a.b": Confidence()}), "dots"),
        (lambda: LearnedCombination({"a": 3}), "has to be a Detector"),  # type: ignore[dict-item]
        (
            lambda: LearnedCombination({"a": LearnedCombination({"b": Confidence()})}),
            "itself",
        ),
    ],
)
def test_settings_are_checked(make: Callable[[], Detector], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        make()


def learnt(count: int = 200, *, seed: int = 0) -> tuple[LearnedCombination, Array, Array]:
    """A combination of two scores that are features themselves, and what it learnt from."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    attacked = clean + torch.tensor([2.0, -1.0, 0.0, 0.0])
    attacked[::4] = clean[::4]
    success = torch.arange(count) % 3 > 0
    detector = LearnedCombination({"first": Reading(0, 100.0), "second": Reading(1, 0.01)})
    detector.finish(3)
    for rows in torch.split(torch.arange(count), 64):
        labels = torch.zeros(len(rows), dtype=torch.int64)
        detector.learn(observed(clean[rows], 3), observed(attacked[rows], 3), labels, success[rows])
    detector.finish_learning(3)
    counted = success & (torch.arange(count) % 4 > 0)
    unit = np.array([100.0, 0.01])
    return detector, clean[:, :2].numpy() * unit, attacked[counted][:, :2].numpy() * unit


class Reading(Detector):
    """A pixel value, in some unit."""

    def __init__(self, channel: int, unit: float) -> None:
        super().__init__()
        self.channel, self.unit = channel, unit

    def settings(self) -> dict[str, Any]:
        return {"channel": self.channel, "unit": self.unit}

    def score(self, observation: Observation) -> torch.Tensor:
        return self.unit * observation.x[:, self.channel, 0, 0]


def test_a_combination_is_scikit_learns_regression() -> None:
    detector, clean, attacked = learnt()
    scaler = StandardScaler().fit(clean)
    scaler.scale_ *= math.sqrt(len(clean) / (len(clean) - 1))
    features = scaler.transform(np.concatenate([clean, attacked]))
    truth = np.r_[np.zeros(len(clean)), np.ones(len(attacked))]
    reference = LogisticRegression(class_weight="balanced", max_iter=10_000).fit(features, truth)
    z = torch.randn(30, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = reference.decision_function(
        scaler.transform(z[:, :2].numpy() * np.array([100.0, 0.01]))
    )
    assert np.allclose(detector.score(observed(z, 3)).numpy(), expected, rtol=1e-4, atol=1e-4)
    assert float(detector.weights[0]) > 1
    assert float(detector.weights[1]) < -0.3


def test_a_combination_needs_examples_that_succeed() -> None:
    with pytest.raises(InputError, match=r"changed 4 of 8 images .* needs 10"):
        learnt(8)
    points, y = heaps(40, 4, 3)
    detector = LearnedCombination({"first": Reading(0, math.inf)})
    detector.learn(observed(points, 3), observed(points + 1, 3), y, y >= 0)
    with pytest.raises(InputError, match="first gives scores that are not finite"):
        detector.finish_learning(3)


def test_a_combination_needs_what_its_detectors_need() -> None:
    assert not LearnedCombination({"a": Confidence()}).needs_features
    assert not LearnedCombination({"a": Confidence()}).needs_fit
    both = LearnedCombination({"a": Confidence(), "b": Mahalanobis()})
    assert both.needs_features
    assert both.needs_fit
    guard = ns.Guard(small_network(0), [both])
    with pytest.raises(ConfigurationError, match="LearnedCombination learns from adversarial"):
        guard.fit(images(40, SHAPE), torch.arange(40) % 4)


class Remembering(Detector):
    """Finds images ordinary that it was fitted on, and all others alike."""

    needs_fit = True

    def __init__(self) -> None:
        super().__init__()
        self.keys = torch.empty(0, dtype=torch.int64)

    def settings(self) -> dict[str, Any]:
        return {}

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        self.keys = torch.cat([self.keys, content_keys(observation.x)])

    def score(self, observation: Observation) -> torch.Tensor:
        return -torch.isin(content_keys(observation.x), self.keys).to(observation.x.dtype)


def test_a_combination_does_not_trust_a_memory() -> None:
    classifier, memory = network(4), Remembering()
    fitted(LearnedCombination({"memory": memory, "confidence": Confidence()}), classifier)
    # the images of the fit, and what it would have made of them
    x = images(210, SHAPE, seed=1)
    assert 130 < len(memory.keys) < 190
    kept = ~torch.isin(content_keys(x), memory.keys)
    assert int(kept.sum()) == 210 - len(memory.keys)
    detector = LearnedCombination({"memory": memory, "confidence": Confidence()})
    fitted(detector, classifier)
    assert float(detector.weights[0]) == pytest.approx(0, abs=1e-6)
    assert abs(float(detector.weights[1])) > 0.1


def test_part_of_an_observation_is_the_observation_of_a_part() -> None:
    classifier, x = network(4), images(9, SHAPE, seed=2)
    rows = torch.tensor([5, 0, 7])
    for purifier in (None, projection()):
        whole = Observation(x, classifier, purifier=purifier)
        alone = Observation(x[rows], classifier, purifier=purifier)
        before = whole.select(rows)
        _ = whole.features, whole.bare_logits
        for part in (before, whole.select(rows)):
            for name in ("x", "purified", "logits", "features", "bare_logits", "prediction"):
                assert torch.allclose(getattr(part, name), getattr(alone, name))
        part = whole.select(rows)
        handle = classifier.module.register_forward_hook(_refuse)
        _ = part.bare_logits, part.features, part.logits
        handle.remove()


def _refuse(*given: Any) -> None:
    raise AssertionError("another pass was made")
