"""JumpReLU, the retrofit of trained networks with it, and what it does to attacks."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import notsure as ns
from notsure import models
from notsure.attacks import BIM, EOT, PGD
from notsure.core.errors import CheckpointError, ConfigurationError, InputError
from notsure.core.randomness import Streams, drawing_from
from notsure.core.state import seeded, weights_hash
from notsure.detectors import Confidence
from notsure.models import JumpReLU, Randomized, with_jump_relu
from notsure.training import retrofit
from tests.conftest import Digits


def activations(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kappa", [0.0, 0.0645, 1.3])
def test_it_is_the_formula(kappa: float) -> None:
    z = activations()
    z[0, 0, 0, 0] = kappa
    expected = np.where(z.numpy() > kappa, z.numpy(), 0)
    assert np.array_equal(JumpReLU(kappa)(z).numpy(), expected)
    assert np.array_equal(JumpReLU(kappa)(z.float()).numpy(), expected.astype(np.float32))


def test_no_jump_is_relu_to_the_bit() -> None:
    z = activations()
    z[0, 0] = torch.tensor([0.0, math.inf, -math.inf, math.nan])
    for one in (z, z.float()):
        ours, theirs = one.clone().requires_grad_(), one.clone().requires_grad_()
        here, there = JumpReLU(0.0)(ours), F.relu(theirs)
        assert torch.equal(here.nan_to_num(7), there.nan_to_num(7))
        here.nansum().backward()
        there.nansum().backward()  # type: ignore[no-untyped-call]
        assert ours.grad is not None
        assert theirs.grad is not None
        finite = one.isfinite()
        assert torch.equal(ours.grad[finite], theirs.grad[finite])


def test_its_derivative_is_that_of_the_pieces() -> None:
    z = activations()
    z = z[((z - 0.5).abs() > 1e-3)].requires_grad_()
    assert torch.autograd.gradcheck(JumpReLU(0.5), (z,))
    (gradient,) = torch.autograd.grad(JumpReLU(0.5)(z).sum(), z)
    assert torch.equal(gradient, (z > 0.5).double())


def test_a_spread_draws_a_threshold_for_each_sample_and_pass() -> None:
    unit = JumpReLU(0.2, spread=0.3)
    ramp = torch.linspace(0, 1, 4001, dtype=torch.float64).expand(600, -1)
    streams = Streams.of(torch.arange(600), 0)
    with drawing_from(streams):
        cut = ramp.where(unit(ramp) == 0, 0).amax(dim=1)
        other = ramp.where(unit(ramp) == 0, 0).amax(dim=1)
    expected = (0.2 + 0.3 * (2 * streams.fork(1).uniform((1,))[:, 0].double() - 1)).clamp_min(0)
    assert torch.allclose(cut, expected, atol=3e-4)
    assert not torch.allclose(cut, other, atol=1e-2)
    # uniform over [-0.1, 0.5], and what is below 0 is 0
    assert float((cut == 0).double().mean()) == pytest.approx(1 / 6, abs=0.05)
    assert float(cut.max()) == pytest.approx(0.5, abs=0.01)
    assert float(cut[cut > 0].mean()) == pytest.approx(0.25, abs=0.02)
    with drawing_from(streams):
        assert bool((unit(-ramp) == 0).all())
    with drawing_from(streams.select(torch.tensor([7]))):
        alone = ramp[:1].where(unit(ramp[:1]) == 0, 0).amax(dim=1)
    assert torch.equal(alone, cut[7:8])
    with seeded(0):
        assert not torch.equal(unit(ramp), unit(ramp))
    assert unit.stochastic
    assert not JumpReLU(0.2).stochastic


@pytest.mark.parametrize(
    "settings", [{"kappa": -0.1}, {"kappa": math.inf}, {"spread": -1.0}, {"spread": math.nan}]
)
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="at least 0 and finite"):
        JumpReLU(**settings)


@pytest.mark.parametrize("name", ["digits_cnn", "lenet", "wester_a"])
def test_every_relu_of_a_copy_is_replaced_and_the_weights_stay(name: str) -> None:
    with seeded(0):
        network = models.build(name, in_channels=1, size=28, num_classes=3).eval()
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    before, state = network(x), copy.deepcopy(network.state_dict())
    assert torch.equal(with_jump_relu(network, 0.0)(x), before)
    # where nothing passes, what is left is the last bias
    closed = with_jump_relu(network, 1e9)
    bias = list(network.parameters())[-1]
    assert torch.allclose(closed(x), bias.expand(3, -1))
    assert torch.equal(network(x), before)
    weights = dict(closed.named_parameters())
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[key], value) for key, value in state.items())
    with torch.no_grad():
        next(closed.parameters()).zero_()
    assert torch.equal(network(x), before)


def test_a_unit_that_is_used_twice_is_replaced_twice() -> None:
    shared = nn.ReLU(inplace=True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), shared, nn.Linear(4, 4), shared)
    x = torch.randn(5, 1, 2, 2)
    assert torch.equal(with_jump_relu(network, 0.0)(x), network(x))
    assert bool((with_jump_relu(network, 1e9)(x) == 0).all())
    assert bool((network(x) > 0).any())


def test_what_cannot_be_replaced_says_why() -> None:
    with pytest.raises(ConfigurationError, match=r"ResNet holds no nn.ReLU.*called as a function"):
        with_jump_relu(models.build("resnet32"))
    jumping = with_jump_relu(models.build("digits_cnn"))
    with pytest.raises(ConfigurationError, match="JumpReLU already"):
        with_jump_relu(jumping)
    with pytest.raises(ConfigurationError, match="at least 0"):
        with_jump_relu(models.build("digits_cnn"), -1.0)


def rebuilt(module: nn.Module) -> nn.Module:
    architecture = models.architecture_of(module)
    assert architecture is not None
    again = models.build(architecture.name, **architecture.arguments)
    again.load_state_dict(module.state_dict())
    return again.eval()


def test_a_network_is_never_rebuilt_without_its_jumps() -> None:
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with seeded(0):
        plain = models.build("digits_cnn", num_classes=3).eval()
        named = models.build("jump_relu", of="digits_cnn", kappa=0.2, num_classes=3).eval()
    jumping = with_jump_relu(plain, 0.2)
    for module in (jumping, named):
        assert torch.equal(rebuilt(module)(x), module(x))
        assert not torch.equal(module(x), plain(x))
    with pytest.raises(RuntimeError, match="extra_state"):
        plain.load_state_dict(jumping.state_dict())
    with pytest.raises(RuntimeError, match="extra_state"):
        jumping.load_state_dict(plain.state_dict())
    with pytest.raises(CheckpointError, match=r"0\.2.*this one has.*0\.3"):
        with_jump_relu(plain, 0.3).load_state_dict(jumping.state_dict())
    hashes = {
        weights_hash(module)
        for module in (plain, jumping, with_jump_relu(plain, 0.3), with_jump_relu(plain, 0.2, 0.1))
    }
    assert len(hashes) == 4
    assert models.architecture_of(with_jump_relu(nn.Sequential(nn.ReLU()))) is None


def test_jumps_and_noise_go_together() -> None:
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with seeded(0):
        plain = models.build("digits_cnn").eval()
    for module in (
        Randomized(with_jump_relu(plain, 0.2, 0.1), sigma=0.1),
        with_jump_relu(Randomized(plain, sigma=0.1), 0.2, 0.1),
    ):
        answers = []
        for one in (module, rebuilt(module)):
            with drawing_from(Streams.of(torch.arange(4), 0)):
                answers.append(one(x))
        assert torch.equal(answers[0], answers[1])
    # a part of the copy does not pass for the network that it was
    inside = with_jump_relu(Randomized(plain, sigma=0.1), 0.2).get_submodule("module")
    assert models.architecture_of(inside) is None


def kappa_of(classifier: ns.Classifier) -> float:
    """The one of its first JumpReLU."""
    return next(part.kappa for part in classifier.modules() if isinstance(part, JumpReLU))


class Brightness(nn.Module):
    """Says 1 where anything is left of a pixel after the ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.unit, self.head = nn.ReLU(), nn.Linear(1, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0], [1.0]]))
            self.head.bias.copy_(torch.tensor([1e-4, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.unit(x).flatten(1))
        return logits


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.5])
def test_the_retrofit_finds_the_largest_kappa(loss: float) -> None:
    values = torch.arange(1, 101) / 100
    x, y = values.view(-1, 1, 1, 1), torch.ones(100, dtype=torch.int64)
    classifier = ns.Classifier(Brightness(), mean=0.2, std=0.5)
    # the unit sees (v - 0.2) / 0.5: right above 0.2 + kappa / 2, and it was right above 0.2 before
    right = 80 - round(loss * 100)
    exact = (float(values[100 - right]) - 0.2) / 0.5
    found = retrofit(classifier, (x, y), accuracy_loss=loss, batch_size=33)
    kappa = kappa_of(found)
    assert 0.985 * exact <= kappa < exact
    assert int((found.logits(x).argmax(dim=1) == y).sum()) == right
    assert found.settings() == classifier.settings()
    assert int((classifier.logits(x).argmax(dim=1) == y).sum()) == 80


def test_the_retrofit_says_what_it_cannot_do(digits: Digits) -> None:
    classifier, x, y = digits.guard.classifier, digits.x, digits.y
    for loss in (-0.1, 1.0):
        with pytest.raises(ConfigurationError, match="share of the images"):
            retrofit(classifier, (x, y), accuracy_loss=loss)
    with pytest.raises(ConfigurationError, match="images of every class"):
        retrofit(classifier, (x, y), accuracy_loss=0.99)
    with pytest.raises(ConfigurationError, match="lower the spread"):
        retrofit(classifier, (x, y), spread=1e4)
    with pytest.raises(ConfigurationError, match=r"no nn\.ReLU"):
        retrofit(ns.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), (x, y))
    with pytest.raises(InputError, match="labels"):
        retrofit(classifier, (x, y[:3]))


@pytest.fixture(scope="module")
def jumping(digits: Digits) -> ns.Classifier:
    return retrofit(digits.guard.classifier, digits.split.calibration, accuracy_loss=0.03)


def accuracy(classifier: ns.Classifier, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((classifier.logits(x).argmax(dim=1) == y).double().mean())


def test_the_retrofit_keeps_to_its_limit_on_digits(digits: Digits, jumping: ns.Classifier) -> None:
    x, y = digits.split.calibration.x, digits.split.calibration.labels
    plain = digits.guard.classifier
    assert accuracy(jumping, x, y) >= accuracy(plain, x, y) - 0.03 - 1e-9
    kappa = kappa_of(jumping)
    assert kappa > 0.0645
    beyond = ns.Classifier(with_jump_relu(plain.module, 2 * kappa), mean=0.5, std=1.0)
    assert accuracy(beyond, x, y) < accuracy(plain, x, y) - 0.03


def test_jumps_help_against_who_does_not_know_of_them_alone(
    digits: Digits, jumping: ns.Classifier
) -> None:
    """Figure 18 of martin 9.4, accuracy under BIM, and what an attack on the jumps adds to it."""
    x, y = digits.x, digits.y
    plain = digits.guard.classifier
    oblivious = BIM(eps=0.1)(plain, x, y)
    left = {
        "plain": accuracy(plain, oblivious.x, y),
        "oblivious": accuracy(jumping, oblivious.x, y),
        "white-box": accuracy(jumping, BIM(eps=0.1)(jumping, x, y).x, y),
    }
    assert left["oblivious"] > left["plain"] + 0.06, left
    # the retrofit brings nothing against an attack on itself: the figure is the first kind alone
    assert left["white-box"] < left["oblivious"] - 0.1, left


def test_a_random_threshold_is_voted_on_attacked_and_saved(digits: Digits, tmp_path: Path) -> None:
    classifier = retrofit(
        digits.guard.classifier, digits.split.calibration, accuracy_loss=0.03, spread=0.1
    )
    guard = ns.Guard(classifier, [Confidence()]).calibrate(digits.split.calibration, fpr=0.05)
    assert guard.stochastic
    x, y = digits.x[:60], digits.y[:60]
    here = guard.judge(x)
    assert torch.equal(here.label, guard.judge(x, batch_size=7).label)
    assert float((here.prediction == y).double().mean()) > 0.9
    found = PGD(eps=0.3, steps=20, gradient=EOT(n=4))(classifier, x, y)
    assert float(found.success.double().mean()) > 0.8
    guard.save(tmp_path)
    again: Any = ns.Guard.load(tmp_path)
    assert torch.equal(again.judge(x).label, here.label)
    assert torch.equal(again.judge(x).rejection, here.rejection)
