"""The smoothing certificate against radii that are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import nn

import notsure as ns
from notsure.attacks import EOT, PGD
from notsure.core.errors import ConfigurationError, InputError, UnsupportedError
from notsure.core.state import seeded
from notsure.models import JumpReLU, Randomized
from notsure.smoothing import certified_radius, certify
from tests.conftest import Digits
from tests.toys import LinearModel, images, small_network

SHAPE = (1, 6, 6)


def plane(x: torch.Tensor, model: LinearModel) -> torch.Tensor:
    """The signed distance to the decision boundary of two classes, positive for class 1."""
    weight = (model.linear.weight[1] - model.linear.weight[0]).detach()
    offset = (model.linear.bias[1] - model.linear.bias[0]).detach()
    distance: torch.Tensor = (x.flatten(1) @ weight + offset) / weight.norm()
    return distance


def at_distance(model: LinearModel, count: int, distance: float) -> torch.Tensor:
    """Different images in [0,1] whose distance to the boundary is the same."""
    weight = (model.linear.weight[1] - model.linear.weight[0]).detach()
    x = 0.25 + 0.5 * images(count, SHAPE, seed=3)
    away = (distance - plane(x, model)).view(-1, 1, 1, 1)
    direction: torch.Tensor = weight / weight.norm()
    return x + away * direction.view(1, *SHAPE)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.3, 0.5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_radius_of_a_plane_is_its_distance(mean: float, std: float, channels: int) -> None:
    shape = (channels, 6, 6)
    model = LinearModel(shape, 2, seed=2)
    x = images(40, shape, seed=3)
    classifier = ns.Classifier(model, mean=mean, std=std)
    # in pixels, the plane of the normalised image is std times as far away
    exact = (plane((x - mean) / std, model) * std).abs()
    sigma = float(exact.max())
    settings: dict[str, Any] = {"count": 4000, "selection": 2000, "batch_size": 20_000}
    found = certify(classifier, x, sigma=sigma, **settings)
    near = exact > 0.15 * sigma
    assert int(near.sum()) > 20
    right = classifier.logits(x).argmax(dim=1)
    assert torch.equal(found.label[near], right[near])
    assert bool((found.radius <= exact).all())
    assert bool((found.radius[near] >= exact[near] - 0.12 * sigma).all())
    assert bool((found.votes.sum(dim=1) == 4000).all())


def test_the_bound_is_wrong_as_often_as_it_may_be() -> None:
    model = LinearModel(SHAPE, 2, seed=2)
    x = at_distance(model, 1500, 0.25)
    found = certify(ns.Classifier(model), x, sigma=0.3, count=300, alpha=0.1, batch_size=50_000)
    wrong = float((found.radius > 0.25).double().mean())
    # the discrete bound errs less often than 10 %; the estimate without a bound would half the time
    assert 0.05 < wrong < 0.12
    assert float(found.radius.mean()) > 0.2


def test_the_bound_is_clopper_and_pearsons() -> None:
    """The smallest probability under which so many hits are not rarer than alpha."""
    hits = torch.tensor([0, 1, 40, 60, 70, 99, 100])
    radius = certified_radius(hits, 100, sigma=2.0, alpha=0.05)
    assert bool((radius[:3] == 0).all())
    for number, found in zip(hits.tolist()[3:], radius.tolist()[3:], strict=True):
        bound = stats.norm.cdf(found / 2.0)
        if found > 0:
            assert stats.binom.sf(number - 1, 100, bound) == pytest.approx(0.05, rel=1e-6)
    assert float(radius[-1]) == pytest.approx(2 * stats.norm.ppf(0.05 ** (1 / 100)))
    assert radius.dtype == torch.float64


def test_near_the_boundary_it_is_not_sure() -> None:
    model = LinearModel(SHAPE, 2, seed=2)
    found = certify(ns.Classifier(model), at_distance(model, 20, 1e-4), sigma=0.5, count=200)
    assert found.label.tolist() == [ns.NOT_SURE] * 20
    assert bool((found.radius == 0).all())
    assert bool((found.votes > 60).all())


@pytest.mark.parametrize("num_logits", [1, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_is_certified_alone_as_in_a_batch(num_logits: int, dtype: torch.dtype) -> None:
    model = LinearModel(SHAPE, num_logits, seed=4).to(dtype)
    classifier = ns.Classifier(model)
    x = images(9, SHAPE, seed=1).to(dtype)
    settings: dict[str, Any] = {"sigma": 0.3, "count": 60, "selection": 10}
    whole = certify(classifier, x, **settings)
    parts = certify(classifier, x, batch_size=7, **settings)
    turned = certify(classifier, x.flip(0), batch_size=100, **settings)
    alone = certify(classifier, x[4:5], **settings)
    assert whole.votes.shape == (9, max(2, num_logits))
    assert torch.equal(parts.votes, whole.votes)
    assert torch.equal(turned.votes.flip(0), whole.votes)
    assert torch.equal(turned.radius.flip(0), whole.radius)
    assert torch.equal(alone.votes[0], whole.votes[4])
    assert not torch.equal(certify(classifier, x, seed=1, **settings).votes, whole.votes)
    # the draws that choose the class are not those that count
    more = certify(classifier, x, **{**settings, "selection": 70})
    assert not torch.equal(more.votes, whole.votes)


@pytest.mark.parametrize("std", [0.5, (0.5,)])
def test_a_randomized_network_brings_its_own_noise(std: Any) -> None:
    network = small_network(2)
    x = images(12, SHAPE, seed=1)
    bare = certify(ns.Classifier(network, mean=0.4, std=std), x, sigma=0.2, count=100)
    own = ns.Classifier(Randomized(network, sigma=0.4), mean=0.4, std=std)
    noisy = certify(own, x, count=100)
    assert torch.equal(noisy.votes, bare.votes)
    assert torch.allclose(noisy.radius, bare.radius)
    assert torch.equal(certify(own, x, count=100, sigma=0.2).votes, bare.votes)
    with pytest.raises(ConfigurationError, match="leave it out"):
        certify(own, x, sigma=0.4)


def three(std: Any = 1.0, **settings: Any) -> ns.Classifier:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    return ns.Classifier(Randomized(network, **settings), std=std)


@pytest.mark.parametrize(
    ("classifier", "remedy"),
    [
        (lambda: three(noise="laplace"), "laplace noise at the input of ''"),
        (lambda: three(layers=("1",)), "gaussian noise at the input of '1'"),
        (lambda: three(layers=("", "1")), "'', '1'"),
        (lambda: three(std=(0.2, 0.3, 0.4)), "not the same for every channel"),
        (
            lambda: ns.Classifier(
                nn.Sequential(nn.Flatten(), JumpReLU(0.1, 0.1), nn.Linear(12, 3))
            ),
            "JumpReLU is random in another way",
        ),
        (
            lambda: ns.Classifier(
                Randomized(nn.Sequential(nn.Flatten(), JumpReLU(0.1, 0.1), nn.Linear(12, 3)))
            ),
            "random in another way",
        ),
        (lambda: nn.Linear(2, 2), "Only a Classifier"),
        (lambda: ns.Guard(three()), r"guard\.classifier"),
    ],
)
def test_what_the_certificate_does_not_cover_is_refused(classifier: Any, remedy: str) -> None:
    with pytest.raises(UnsupportedError, match=remedy):
        certify(classifier(), torch.rand(2, 3, 2, 2))


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({}, "sigma"),
        ({"sigma": 0.0}, "> 0"),
        ({"sigma": math.inf}, "finite"),
        ({"sigma": 0.1, "count": 0}, "at least 1"),
        ({"sigma": 0.1, "selection": 0}, "at least 1"),
        ({"sigma": 0.1, "batch_size": 0}, "at least 1"),
        ({"sigma": 0.1, "alpha": 0.0}, "probability"),
        ({"sigma": 0.1, "alpha": 1.0}, "probability"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        certify(ns.Classifier(LinearModel(SHAPE, 2)), images(2, SHAPE), **settings)


def test_images_are_checked_and_nothing_is_left_behind() -> None:
    classifier = ns.Classifier(small_network(0)).train()
    with pytest.raises(InputError, match="divide by 255"):
        certify(classifier, images(2, SHAPE) * 255, sigma=0.1)
    state = torch.get_rng_state()
    found = certify(classifier, images(2, SHAPE), sigma=0.1, count=20)
    assert classifier.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(t.is_inference() for t in (found.label, found.radius, found.votes))


def test_no_attack_within_the_radius_changes_the_smoothed_answer(digits: Digits) -> None:
    with seeded(0):
        module = ns.models.build("randomized", of="digits_cnn", sigma=0.5)
    classifier = ns.Classifier(module, mean=0.5)
    recipe = ns.training.Recipe(
        epochs=6, batch_size=64, optimizer="adamw", learning_rate=3e-3, schedule="one-cycle"
    )
    ns.training.train(classifier, digits.split.train, recipe=recipe, progress=False)
    x, y = digits.x[:30], digits.y[:30]
    found = certify(classifier, x, count=500)
    right = found.label == y
    assert float(right.double().mean()) > 0.6
    assert float(found.radius[right].median()) > 0.3
    # below the median radius, attacked with all that is known of the network
    eps = 0.95 * float(found.radius[right].median())
    held = right & (found.radius > eps)
    attack = PGD(norm="l2", eps=eps, steps=20, gradient=EOT(n=10))
    after = certify(classifier, attack.perturb(classifier, x[held], y[held]), count=500, seed=1)
    assert bool((after.votes.argmax(dim=1) == y[held]).all())
    # a network that was not trained in noise is certified less far
    plain = certify(digits.guard.classifier, x, sigma=0.5, count=500)
    reach = plain.radius.where(plain.label == y, 0).mean()
    assert float(reach) < 0.8 * float(found.radius.where(right, 0).mean())
