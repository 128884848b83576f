"""Randomized networks: where the noise enters, what it is, and what it is for."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import notsure as ns
from notsure import models
from notsure.attacks import EOT, FGSM, PGD
from notsure.core.errors import CheckpointError, ConfigurationError, UnsupportedError
from notsure.core.randomness import Streams, drawing_from
from notsure.core.state import seeded, weights_hash
from notsure.detectors import Confidence
from notsure.models import Randomized
from notsure.training import Recipe
from tests.conftest import Digits
from tests.toys import images, small_network

SHAPE = (1, 6, 6)
SIGMA = 0.3


def streams_of(count: int, seed: int = 0) -> Streams:
    return Streams.of(torch.arange(count), seed)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("noise", "distribution"),
    [
        ("gaussian", stats.norm(scale=SIGMA)),
        ("laplace", stats.laplace(scale=SIGMA / np.sqrt(2))),
        ("uniform", stats.uniform(loc=-SIGMA * np.sqrt(3), scale=2 * SIGMA * np.sqrt(3))),
    ],
)
def test_noise_has_its_distribution(
    noise: Any, distribution: Any, dtype: torch.dtype, own: bool
) -> None:
    network = Randomized(nn.Identity(), noise=noise, sigma=SIGMA)
    x = torch.full((40, 3, 10, 10), 0.5, dtype=dtype)
    if own:
        with drawing_from(streams_of(40)):
            found = network(x) - x
    else:
        with seeded(0):
            found = network(x) - x
    assert found.dtype == dtype
    numbers = found.double().flatten().numpy()
    assert numbers.std() == pytest.approx(SIGMA, rel=0.03)
    assert stats.kstest(numbers, distribution.cdf).pvalue > 1e-3


def layered() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Sequential(nn.Linear(5, 3))
        ).double()


def test_noise_enters_where_it_is_named() -> None:
    network, x = layered(), images(7, SHAPE)
    streams = streams_of(7)
    numbers = [streams.fork(number) for number in (1, 2)]

    def answer(layers: tuple[str, ...]) -> torch.Tensor:
        with drawing_from(streams), torch.no_grad():
            logits: torch.Tensor = Randomized(network, sigma=SIGMA, layers=layers)(x)
            return logits

    def noise(number: int, *shape: int) -> torch.Tensor:
        return SIGMA * numbers[number].normal(shape, dtype=torch.float64)

    first, head = network[1], network[3]
    with torch.no_grad():
        flat = x.flatten(1)
        at_input = head(torch.tanh(first((x + noise(0, *SHAPE)).flatten(1))))
        at_head = head(torch.tanh(first(flat)) + noise(0, 5))
        at_both = head(torch.tanh(first(flat + noise(0, 36))) + noise(1, 5))
    assert torch.allclose(answer(("",)), at_input, atol=1e-12)
    assert torch.allclose(answer(("3.0",)), at_head, atol=1e-12)
    # whichever is named first, the numbers go by the order in which the layers are called
    assert torch.allclose(answer(("3.0", "1")), at_both, atol=1e-12)


def test_without_noise_it_is_the_network_to_the_bit() -> None:
    network, x = small_network(0), images(5, SHAPE)
    quiet = ns.Classifier(Randomized(network, sigma=0.0))
    assert torch.equal(quiet.logits(x), ns.Classifier(network).logits(x))
    assert not quiet.stochastic
    assert ns.Classifier(Randomized(network, sigma=1e-9)).stochastic


def test_the_network_itself_stays_without_noise() -> None:
    network, x = layered(), images(5, SHAPE)
    before = network(x)
    noisy = Randomized(network, sigma=SIGMA, layers=("", "3"))
    assert not torch.equal(noisy(x), noisy(x))
    assert torch.equal(network(x), before)
    with pytest.raises(RuntimeError):
        noisy(x[:, :, :3])
    assert torch.equal(network(x), before)
    assert not any(part._forward_pre_hooks for part in network.modules())


class _Visited(nn.Module):
    """Is used by another thread while it is in use."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if threading.current_thread() is threading.main_thread():
            visitor = threading.Thread(target=lambda: self.answers.append(self(torch.ones(2, 3))))
            visitor.start()
            visitor.join()
        return 2 * x


def test_another_thread_gets_no_noise_of_ours() -> None:
    network = _Visited()
    Randomized(network, sigma=SIGMA)(torch.zeros(2, 3))
    assert torch.equal(network.answers[0], torch.full((2, 3), 2.0))


def test_gradients_and_features_pass_through() -> None:
    network, x = small_network(1), images(4, SHAPE).requires_grad_()
    classifier = ns.Classifier(Randomized(network, sigma=0.05, layers=("", "head")), mean=0.5)
    with drawing_from(streams_of(4)):
        logits, features = classifier.logits_and_features(x)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert bool((gradient.flatten(1).norm(dim=1) > 1e-6).all())
    assert features.shape == (4, 8)
    assert torch.allclose(network.head(features), logits)

    def drawn(image: torch.Tensor) -> torch.Tensor:
        with drawing_from(streams_of(4)):
            return classifier.logits(image)

    assert torch.autograd.gradcheck(drawn, (x,), atol=1e-5)


def test_a_copy_is_another_network() -> None:
    noisy = Randomized(small_network(0), sigma=SIGMA, layers=("", "head"))
    x = images(6, SHAPE)
    twin = copy.deepcopy(noisy)
    with drawing_from(streams_of(6)):
        here = noisy(x)
    with drawing_from(streams_of(6)):
        there = twin(x)
    assert torch.equal(here, there)
    with torch.no_grad():
        twin.get_parameter("module.head.weight").zero_()
    with drawing_from(streams_of(6)):
        assert torch.equal(noisy(x), here)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"sigma": -0.1}, "at least 0"),
        ({"sigma": float("nan")}, "at least 0"),
        ({"noise": "cauchy"}, "gaussian or laplace or uniform"),
        ({"layers": ("convolution",)}, r"no layer 'convolution'. It has: ''.*head"),
        ({"layers": "head"}, "sequence of different names"),
        ({"layers": ()}, "sequence of different names"),
        ({"layers": ("head", "head")}, "sequence of different names"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        Randomized(small_network(0), **settings)


class _Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 4)])
        self.table = nn.Embedding(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fixed = self.table(torch.zeros(len(x), dtype=torch.int64))
        return torch.as_tensor(self.parts[0](x) + fixed)


@pytest.mark.parametrize(
    ("layer", "remedy"), [("parts", "took no part"), ("table", "tensor of floats")]
)
def test_noise_that_cannot_be_added_is_an_error(layer: str, remedy: str) -> None:
    with pytest.raises(UnsupportedError, match=remedy):
        Randomized(_Partly(), sigma=SIGMA, layers=(layer,))(torch.zeros(2, 4))


def test_it_is_built_by_name_and_remembers_how() -> None:
    arguments: dict[str, Any] = {"num_classes": 3, "in_channels": 3, "size": 16}
    told: dict[str, Any] = {"noise": "laplace", "sigma": 0.2, "layers": ["", "layers.3"]}
    with seeded(1):
        by_name = models.build("randomized", of="lenet", **told, **arguments)
    with seeded(1):
        by_hand = Randomized(models.build("lenet", **arguments), **told)
    again = []
    for module in (by_name, by_hand):
        architecture = models.architecture_of(module)
        assert architecture is not None
        rebuilt = models.build(architecture.name, **architecture.arguments)
        rebuilt.load_state_dict(module.state_dict())
        again.append(rebuilt)
    x = torch.rand(4, 3, 16, 16)
    answers = []
    for module in (by_name, by_hand, *again):
        with drawing_from(streams_of(4)), torch.no_grad():
            answers.append(module(x))
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert models.architecture_of(Randomized(nn.Linear(2, 2))) is None
    twice = Randomized(by_hand, sigma=0.1)
    architecture = models.architecture_of(twice)
    assert architecture is not None
    nested = models.build(architecture.name, **architecture.arguments)
    assert nested.state_dict().keys() == twice.state_dict().keys()


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({}, "of"),
        ({"of": "lennet"}, "Did you mean 'lenet'"),
        ({"of": 3}, "name of an architecture"),
        ({"of": {"name": "lenet"}}, "'name' and 'arguments'"),
        ({"of": {"name": "lenet", "arguments": {}}, "size": 28}, "put them into"),
        ({"of": "lenet", "depth": 3}, "does not take"),
    ],
)
def test_what_cannot_be_built_says_why(arguments: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        models.build("randomized", **arguments)


def test_names_are_of_networks_that_stand_alone() -> None:
    assert "lenet" in models.names()
    assert not {"randomized", "jump_relu"} & set(models.names())


def test_a_state_belongs_to_its_settings() -> None:
    network = small_network(0)
    here, there = Randomized(network, sigma=0.1), Randomized(network, sigma=0.2)
    assert weights_hash(here) != weights_hash(there)
    assert weights_hash(here) == weights_hash(Randomized(network, sigma=0.1))
    with pytest.raises(CheckpointError, match=r"0\.1.*this one has.*0\.2"):
        there.load_state_dict(here.state_dict())
    with pytest.raises(RuntimeError, match="extra_state"):
        here.load_state_dict({f"module.{k}": v for k, v in network.state_dict().items()})


@pytest.fixture(scope="module")
def trained(digits: Digits) -> dict[float, ns.Classifier]:
    """Two networks of the same weights at first, which differ in the noise alone."""
    recipe = Recipe(
        epochs=12, batch_size=64, optimizer="adamw", learning_rate=3e-3, schedule="one-cycle"
    )
    with seeded(0):
        module = models.build("randomized", of="digits_cnn", sigma=0.3)
    noisy = ns.Classifier(module, mean=0.5, std=1.0)
    ns.training.train(noisy, digits.split.train, recipe=recipe, progress=False)
    return {0.0: digits.guard.classifier, 0.3: noisy}


@pytest.fixture(scope="module")
def guard(digits: Digits, trained: dict[float, ns.Classifier]) -> ns.Guard:
    guard = ns.Guard(trained[0.3], [Confidence()])
    return guard.calibrate(digits.split.calibration, fpr=0.05)


def probabilities(classifier: ns.Classifier, x: torch.Tensor, draws: int = 20) -> torch.Tensor:
    """Of the classes, averaged over the noise, which is the same for every image."""
    total = torch.zeros(len(x), 10)
    with torch.no_grad():
        for draw in range(draws):
            with drawing_from(streams_of(len(x), seed=draw)):
                total += classifier.logits(x).softmax(dim=1)
    return total / draws


def test_noise_in_training_makes_the_answer_steadier(
    digits: Digits, trained: dict[float, ns.Classifier]
) -> None:
    """Section 4.3 of preaut: the distribution of the answers changes less with the input."""
    x, y = digits.x[:300], digits.y[:300]
    ratios, accuracies = {}, {}
    for sigma, classifier in trained.items():
        # towards where the answer changes fastest, for each network its own way
        moved = FGSM(eps=0.1, gradient=EOT(n=10)).perturb(classifier, x, y)
        before, after = probabilities(classifier, x), probabilities(classifier, moved)
        distance = (moved - x).flatten(1).norm(dim=1)
        # a gradient of exactly 0 moves nothing
        rows = distance > 0
        assert float(rows.double().mean()) > 0.8
        ratios[sigma] = float(((after - before).norm(dim=1)[rows] / distance[rows]).mean())
        accuracies[sigma] = float((before.argmax(dim=1) == y).double().mean())
    assert ratios[0.3] < 0.8 * ratios[0.0], ratios
    assert accuracies[0.3] > 0.9


def test_noise_makes_an_attack_that_looks_through_it_harder(
    digits: Digits, trained: dict[float, ns.Classifier]
) -> None:
    """Figure 6 of preaut 6.2.3: more accuracy is left under attack."""
    x, y = digits.x[:150], digits.y[:150]
    left = {}
    for sigma, classifier in trained.items():
        attack = PGD(norm="l2", eps=0.8, steps=20, gradient=EOT(n=8 if sigma else 1))
        left[sigma] = 1 - float(attack(classifier, x, y).success.double().mean())
    assert left[0.3] > left[0.0] + 0.15


def test_expectation_over_draws_attacks_it(guard: ns.Guard, digits: Digits) -> None:
    x, y = digits.x[:60], digits.y[:60]
    found = PGD(eps=0.3, steps=20, gradient=EOT(n=5))(guard.classifier, x, y)
    assert float(found.success.double().mean()) > 0.9
    whole = PGD(eps=0.3, steps=20, gradient=EOT(n=5))(guard, x, y, seed=1)
    assert float(whole.success.double().mean()) > 0.3


def test_votes_do_not_depend_on_the_batch(guard: ns.Guard, digits: Digits) -> None:
    x = digits.x[:90] * 0.7 + 0.1
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    whole, parts = guard.judge(x), guard.judge(x, batch_size=7)
    turned = guard.judge(x[order])
    assert torch.equal(whole.label, parts.label)
    assert torch.equal(whole.label[order], turned.label)
    assert torch.allclose(whole.scores["Confidence"], parts.scores["Confidence"], atol=1e-4)
    assert torch.allclose(whole.scores["Confidence"][order], turned.scores["Confidence"], atol=1e-4)
    other = guard.judge(x, seed=1)
    assert not torch.allclose(whole.scores["Confidence"], other.scores["Confidence"], atol=1e-4)
    assert float((whole.prediction == other.prediction).double().mean()) > 0.9


def test_saved_and_loaded_it_votes_the_same(
    guard: ns.Guard, digits: Digits, tmp_path: Path
) -> None:
    guard.save(tmp_path)
    again = ns.Guard.load(tmp_path)
    assert again.stochastic
    ours, theirs = guard.judge(digits.x), again.judge(digits.x)
    assert torch.equal(ours.label, theirs.label)
    assert torch.equal(ours.rejection, theirs.rejection)
    with pytest.raises(CheckpointError, match="weights are not those"):
        ns.Guard.load(
            tmp_path,
            ns.Classifier(
                Randomized(guard.classifier.module.module, sigma=0.1),  # type: ignore[arg-type]
                mean=0.5,
                std=1.0,
            ),
        )
