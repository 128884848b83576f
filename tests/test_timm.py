"""timm's networks as architectures: any size of image, features, guards, files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import notsure as ns
from notsure import models
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.state import seeded
from notsure.models import JumpReLU, TimmNetwork

pytest.importorskip("timm")

MARTIN = ("efficientnet_b3", "mobilenetv2_100", "densenet121", "resnet18")
"""Those that martin compares, besides its own."""


def built(name: str, **arguments: int) -> TimmNetwork:
    with seeded(0):
        module = models.build(f"timm:{name}", **arguments)
    assert isinstance(module, TimmNetwork)
    return module.eval()


@pytest.mark.parametrize(("name", "resize"), [*zip(MARTIN, (28, 28, 32, 28), strict=True)])
def test_networks_of_the_report_take_its_images(name: str, resize: int) -> None:
    module = built(name, num_classes=10, in_channels=1, size=28)
    assert module.resize == resize
    classifier = ns.Classifier(module, mean=0.5)
    x = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        logits, features = classifier.logits_and_features(x)
        head = [part for part in module.modules() if isinstance(part, torch.nn.Linear)][-1]
        # the features are what the logits are linear in
        assert torch.equal(head(features), logits)
        assert torch.equal(classifier.logits(x), logits)
    assert logits.shape == (3, 10)
    assert features.shape == (3, head.in_features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("channels", "num_classes"), [(1, 2), (3, 3), (3, 10)])
def test_other_images_and_classes(channels: int, num_classes: int, dtype: torch.dtype) -> None:
    module = built("test_resnet", num_classes=num_classes, in_channels=channels, size=12)
    x = torch.rand(5, channels, 12, 12, dtype=dtype)
    with torch.no_grad():
        logits = ns.Classifier(module.to(dtype)).logits(x)
        # no image has a say in another's answer
        torch.testing.assert_close(ns.Classifier(module).logits(x[2:3]), logits[2:3])
    assert logits.shape == (5, num_classes)
    assert logits.dtype == dtype


def enlarged(x: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Bilinear interpolation between the centres of pixels, the outermost kept beyond them."""
    height = x.shape[0]
    at = np.clip((np.arange(size) + 0.5) * height / size - 0.5, 0, height - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, height - 1), at - low
    rows = x[low] * (1 - share)[:, None] + x[high] * share[:, None]
    columns: npt.NDArray[np.float64] = rows[:, low] * (1 - share) + rows[:, high] * share
    return columns


def test_images_are_enlarged_bilinearly() -> None:
    module = built("test_resnet", in_channels=1, size=8, resize=21)
    seen: list[torch.Tensor] = []
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    module.double()(x)
    for image, there in zip(x, seen[0], strict=True):
        np.testing.assert_allclose(there[0].numpy(), enlarged(image[0].numpy(), 21), atol=1e-12)


def test_gradients_go_through_the_resizing() -> None:
    module = built("test_resnet", num_classes=3, in_channels=3, size=9, resize=16).double()
    x = torch.rand(1, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    (gradient,) = torch.autograd.grad(module(x)[0, 1], x)
    with torch.no_grad():
        step = 1e-6 * direction
        slope = (module(x + step)[0, 1] - module(x - step)[0, 1]) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4)
    assert bool((gradient != 0).all())


def test_images_that_are_large_enough_stay_as_they_are() -> None:
    module = built("test_resnet", in_channels=3, size=40)
    assert module.resize == 40
    x = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(module(x), module.network(x))


def test_a_fixed_size_is_found_and_a_wrong_one_told() -> None:
    assert built("vit_tiny_patch16_224", in_channels=1, size=28).resize == 224
    with pytest.raises(ConfigurationError, match="resized to 64x64"):
        models.build("timm:vit_tiny_patch16_224", in_channels=1, size=28, resize=64)
    with pytest.raises(ConfigurationError, match="resize is a number of pixels"):
        models.build("timm:test_resnet", in_channels=1, size=28, resize=0)


def test_looking_for_a_size_leaves_no_trace() -> None:
    first, second = (
        built("densenet121", in_channels=1, size=28, **more) for more in ({}, {"resize": 32})
    )
    assert first.resize == second.resize == 32
    for (name, ours), theirs in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
        if name.endswith("num_batches_tracked"):
            assert int(ours) == 0
    with seeded(0):
        fresh = models.build("timm:densenet121", in_channels=1, size=28)
    assert all(part.training for part in fresh.modules())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:efficientnet_b33", "timm has no model 'efficientnet_b33'. Did you mean 'effici"),
        # names by which timm would ask the hub
        ("timm:hf-hub:timm/resnet18.a1_in1k", "none are downloaded"),
        ("timm:", "There is no architecture 'timm:'"),
        ("timn:resnet18", "timm:NAME for any model of timm"),
    ],
)
def test_what_is_no_model_is_told(name: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        models.build(name, in_channels=1, size=28)
    assert said in str(caught.value)


def test_no_weights_can_be_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="does not take that"):
        models.build("timm:test_resnet", in_channels=1, size=28, pretrained=True)
    assert not any(name.startswith("timm") for name in models.names())


def test_a_network_that_is_a_part_of_another_can_be_built_again() -> None:
    with seeded(0):
        jumping = models.build(
            "jump_relu", of="timm:test_resnet", kappa=0.2, num_classes=3, in_channels=1, size=8
        )
    assert any(isinstance(part, JumpReLU) for part in jumping.modules())
    told = models.architecture_of(models.Randomized(jumping, sigma=0.1))
    assert told is not None
    again = models.build(told.name, **told.arguments)
    again.load_state_dict(models.Randomized(jumping, sigma=0.1).state_dict())


@pytest.fixture(scope="module")
def guard() -> ns.Guard:
    """A guard whose network is timm's, trained on digits."""
    split = ns.data.load("digits")
    with seeded(0):
        module = models.build("timm:test_efficientnet", num_classes=10, in_channels=1, size=8)
    classifier = ns.Classifier(module, mean=0.5)
    recipe = ns.training.Recipe(
        epochs=6,
        batch_size=64,
        optimizer="adamw",
        learning_rate=5e-3,
        schedule="one-cycle",
        precision="fp32",
    )
    ns.training.train(classifier, split.train, recipe=recipe, progress=False)
    guard = ns.Guard(classifier, {"density": ns.detectors.KDensity()})
    return guard.fit(split.train).calibrate(split.calibration, fpr=0.05)


def test_it_is_trained_guarded_attacked(guard: ns.Guard) -> None:
    test = ns.data.load("digits").test
    x, y = test.x[:100], test.y[:100]
    verdict = guard.judge(x)
    assert float((verdict.prediction == y).double().mean()) > 0.85
    adversarial = ns.attacks.PGD(eps=0.3, steps=10)(guard.classifier, x, y)
    assert float(adversarial.success.double().mean()) > 0.9
    assert float(adversarial.distance["linf"].max()) <= 0.3 + 1e-6


def test_a_saved_guard_comes_back_to_the_bit(guard: ns.Guard, tmp_path: Path) -> None:
    x = ns.data.load("digits").test.x[:64]
    loaded = ns.Guard.load(guard.save(tmp_path / "guard"))
    ours, theirs = guard.judge(x), loaded.judge(x)
    assert torch.equal(ours.label, theirs.label)
    assert torch.equal(ours.scores["density"], theirs.scores["density"])
    assert torch.equal(guard.logits(x), loaded.logits(x))


def test_without_timm_the_error_says_what_to_install(
    guard: ns.Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = guard.save(tmp_path / "guard")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(CheckpointError, match=r'pip install "notsure\[zoo\]"'):
        ns.Guard.load(folder)
    with pytest.raises(ConfigurationError, match=r'pip install "notsure\[zoo\]"'):
        models.build("timm:resnet18", in_channels=1, size=28)
