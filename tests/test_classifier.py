"""The Classifier: preprocessing, features, odd modules, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import notsure as ns
from notsure import models
from notsure.core.errors import ConfigurationError, InputError, UnsupportedError
from tests.toys import images, small_network


def test_preprocessing_lives_inside() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 5))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    classifier = ns.Classifier(module, mean=mean, std=std)
    x = torch.rand(2, 3, 6, 6)
    normalised = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert torch.allclose(classifier.logits(x), module(normalised), atol=1e-6)


def test_reversed_logits_are_negated_and_nobody_knows() -> None:
    network = small_network(0)
    x = images(5, (1, 6, 6))
    plain, reverse = ns.Classifier(network), ns.Classifier(network, reverse_logits=True)
    assert torch.equal(reverse.logits(x), -plain.logits(x))
    assert torch.equal(reverse.respond(x).logits, reverse.logits(x))
    assert torch.equal(reverse.logits_and_features(x)[0], reverse.logits(x))


@pytest.mark.parametrize("name", models.names())
def test_features_enter_the_last_linear_layer(name: str) -> None:
    channels, size = (1, 28) if name in {"martin_cnn", "madry_cnn", "wester_a"} else (3, 32)
    module = models.build(name, in_channels=channels, size=size).eval()
    classifier = ns.Classifier(module)
    x = torch.rand(2, channels, size, size)
    logits, features = classifier.logits_and_features(x)
    last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    assert torch.allclose(last(features), logits, atol=1e-5)
    assert torch.allclose(classifier.logits(x), logits, atol=1e-5)
    assert not any(part._forward_hooks for part in module.modules())


class _Odd(nn.Module):
    """Registers its head first, and ends in something that is not linear."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8))
        self.scaled = scaled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x))
        return logits * 2 if self.scaled else logits


def test_the_last_layer_is_the_one_that_yields_the_logits() -> None:
    module = _Odd(scaled=False)
    x = torch.rand(4, 1, 6, 6)
    features = ns.Classifier(module).logits_and_features(x)[1]
    assert torch.equal(features, module.body(x))


def test_features_that_are_not_known_have_to_be_named() -> None:
    module = _Odd(scaled=True)
    x = torch.rand(4, 1, 6, 6)
    with pytest.raises(UnsupportedError, match=r"features='\.\.\.'"):
        ns.Classifier(module).logits_and_features(x)
    named = ns.Classifier(module, features="body")
    assert torch.equal(named.logits_and_features(x)[1], module.body(x))
    with pytest.raises(ConfigurationError, match="It has: head, body"):
        ns.Classifier(module, features="neck")


class _Wrapped(nn.Module):
    """Returns what Hugging Face models return."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> Any:
        logits = x.flatten(1)[:, :3]
        return self.output(logits)


class _Output:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def test_outputs_of_other_shapes() -> None:
    x = torch.rand(4, 1, 2, 2)
    assert ns.Classifier(_Wrapped(_Output)).logits(x).shape == (4, 3)
    assert ns.Classifier(_Wrapped(lambda z: z[:, 0])).logits(x).shape == (4, 2)
    with pytest.raises(UnsupportedError, match="tuple"):
        ns.Classifier(_Wrapped(lambda z: (z,))).logits(x)
    with pytest.raises(UnsupportedError, match=r"logits \(B, K\)"):
        ns.Classifier(_Wrapped(lambda z: z[:, :, None])).logits(x)


def test_one_logit_is_class_1_against_class_0() -> None:
    classifier = ns.Classifier(_Wrapped(lambda z: z[:, :1] - 0.5))
    x = torch.rand(6, 1, 2, 2)
    logits = classifier.logits(x)
    probability = torch.softmax(logits, dim=1)[:, 1]
    assert torch.allclose(probability, torch.sigmoid(x[:, 0, 0, 0] - 0.5))
    squeezed = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))
    features = ns.Classifier(squeezed).logits_and_features(x)[1]
    assert torch.equal(features, x.flatten(1))


@pytest.mark.parametrize("reverse", [False, True])
def test_probabilities_are_refused(reverse: bool) -> None:
    classifier = ns.Classifier(
        nn.Sequential(small_network(0), nn.Softmax(dim=1)), reverse_logits=reverse
    )
    x, y = images(5, (1, 6, 6)), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(InputError, match=r"torch\.log\(probabilities\)"):
        ns.attacks.PGD(eps=0.1)(classifier, x, y)
    logs = ns.Classifier(nn.Sequential(small_network(0), nn.LogSoftmax(dim=1)))
    ns.attacks.PGD(eps=0.1)(logs, x, y)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"mean": (0.1, 0.2)}, "first convolution takes 3"),
        ({"mean": (0.1,) * 3, "std": (0.1,) * 2}, "one number a channel"),
        ({"std": 0.0}, "positive"),
        ({"mean": "grey"}, "numbers"),
        ({"std": float("nan")}, "finite"),
    ],
)
def test_statistics_are_checked(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        ns.Classifier(nn.Conv2d(3, 4, 3), **settings)


def test_a_classifier_is_not_wrapped_twice() -> None:
    with pytest.raises(ConfigurationError, match="already"):
        ns.Classifier(ns.Classifier(small_network(0)))
    with pytest.raises(ConfigurationError, match="function"):
        ns.Classifier(lambda x: x)  # type: ignore[arg-type]


def test_a_module_may_declare_that_it_is_random_or_has_no_gradient() -> None:
    network = small_network(0)
    assert not ns.Classifier(network).stochastic
    assert ns.Classifier(network).differentiable
    network.body.stochastic = True  # type: ignore[assignment]
    network.body.differentiable = False  # type: ignore[assignment]
    assert ns.Classifier(network).stochastic
    assert not ns.Classifier(network).differentiable


@pytest.mark.parametrize(
    ("name", "channels", "size", "count"),
    [
        ("lenet", 3, 32, 62_006),
        ("martin_cnn", 1, 28, 594_922),
        ("resnet32", 3, 32, 464_154),
        ("resnet56", 3, 32, 853_018),
        ("madry_cnn", 1, 28, 3_274_634),
    ],
)
def test_parameter_counts(name: str, channels: int, size: int, count: int) -> None:
    module = models.build(name, in_channels=channels, size=size)
    assert sum(parameter.numel() for parameter in module.parameters()) == count


@pytest.mark.parametrize("name", models.names())
def test_architectures_take_other_images(name: str) -> None:
    for channels, size, num_classes in ((1, 28, 10), (3, 40, 7)):
        module = models.build(name, in_channels=channels, size=size, num_classes=num_classes)
        assert module(torch.rand(2, channels, size, size)).shape == (2, num_classes)
        remembered = models.architecture_of(module)
        assert remembered is not None
        assert remembered.name == name
        assert remembered.arguments["size"] == size


def test_resnet_leaks_at_the_reports_slope() -> None:
    block = next(iter(models.ResNet(depth=8).stages))
    x = torch.full((1, 16, 4, 4), -1.0)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.allclose(block(x), torch.tensor(-0.1))


def test_architectures_say_what_does_not_fit() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'resnet32'"):
        models.build("resnet23")
    with pytest.raises(ConfigurationError, match="does not take"):
        models.build("lenet", depth=3)
    with pytest.raises(ConfigurationError, match="too small"):
        models.build("lenet", size=8)
    with pytest.raises(ConfigurationError, match="6n\\+2"):
        models.ResNet(depth=33)
    with pytest.raises(ConfigurationError, match="8x8"):
        models.ResNet(size=4)
