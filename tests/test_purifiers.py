"""Purifiers against formulas written out, the printed layer sizes, and what they do on digits."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import notsure as ns
from notsure.attacks import BPDA, PGD
from notsure.core.checks import content_keys
from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    InputError,
    NotFittedError,
    NotSureError,
    UnsupportedError,
)
from notsure.core.part import rebuilt
from notsure.core.randomness import Streams, drawing_from
from notsure.core.state import derived_seed, seeded, weights_hash
from notsure.detectors import Confidence
from notsure.purifiers import (
    Autoencoder,
    DefenseGAN,
    DenoisingAutoencoder,
    MagNet,
    Purifier,
    PuVAE,
)
from notsure.purifiers.conditional import divergence_from_standard, pixel_cross_entropy
from notsure.training import Recipe
from tests.toys import images, small_network

SHAPE = (1, 8, 8)
SMALL: dict[str, Any] = {"latent": 8, "width": 8, "dense": 64}
BRIEF = Recipe(epochs=2, batch_size=16, optimizer="adamw", learning_rate=1e-3, weight_decay=0)


def untrained(kind: Any, shape: tuple[int, int, int], **more: Any) -> Any:
    """A purifier with random weights, in float64, that may be used."""
    if kind is DefenseGAN:
        purifier = DefenseGAN(generator=untrained(PuVAE, shape), **{"steps": 5, **more})
    else:
        if kind is PuVAE:
            more = {"num_classes": 3, **SMALL, **more}
        purifier = kind(shape=shape, **more)
    purifier.trained.fill_(True)
    return purifier.double().eval()


def batch(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return images(count, shape, seed=seed)


def toy_data(count: int = 48, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return batch(count, SHAPE).float(), torch.arange(count) % classes


def toy_classifier() -> ns.Classifier:
    with seeded(3):
        module = ns.models.build("digits_cnn", num_classes=4)
    return ns.Classifier(module, mean=0.5, std=0.5)


# --- the losses, written out ------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.25])
@pytest.mark.parametrize("kind", [Autoencoder, DenoisingAutoencoder])
def test_a_reconstructors_loss_is_the_formula(kind: Any, noise: float) -> None:
    x, y = toy_data()
    whole = Recipe(epochs=1, batch_size=len(x), learning_rate=1e-3, precision="fp32", seed=5)
    # the only step of a training tells the loss of the initial weights
    (epoch,) = kind(noise=noise, seed=4).fit((x, y), recipe=whole, progress=False).epochs
    order = torch.randperm(
        len(x), generator=torch.Generator().manual_seed(derived_seed(5, "order", 0))
    )
    clean = x[order]
    with seeded(derived_seed(5, "step", 0, 0)):
        drawn = torch.randn_like(clean.contiguous(memory_format=torch.channels_last))
    noisy = (clean + noise * drawn).clamp(0, 1)
    network = kind(noise=noise, seed=4, shape=SHAPE).networks[0].double()
    restored = network(noisy.double()).detach()
    expected = ((restored - clean.double()) ** 2).mean()
    assert epoch.loss == pytest.approx(float(expected), rel=1e-5)
    assert math.isnan(epoch.accuracy)


def test_a_denoiser_learns_dark_images_by_the_cross_entropy_of_their_pixels() -> None:
    """Where few pixels are lit, black images are a good answer, and not the one that is wanted."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(2, 24, (2048,), generator=generator)
    x = torch.zeros(2048, 1, 28, 28)
    for image, row in zip(x, rows.tolist(), strict=True):
        image[0, row : row + 3, 4:24] = 1.0
    recipe = Recipe(
        epochs=2,
        batch_size=64,
        optimizer="adamw",
        learning_rate=2e-3,
        precision="fp32",
        seed=1,
    )
    denoiser = DenoisingAutoencoder(loss="cross-entropy", noise=0.2, seed=1)
    denoiser.fit((x, torch.zeros(2048, dtype=torch.long)), recipe=recipe, progress=False)
    with torch.no_grad():
        error = (denoiser.purify(x[:256]) - x[:256]).square().mean()
    # far below what one picture for all of them can come to
    assert error < 0.3 * x.var(dim=0).mean()


def test_a_denoisers_cross_entropy_is_the_formula() -> None:
    restored = torch.tensor([0.25, 0.9, 1.0]).view(1, 1, 1, 3)
    x = torch.tensor([1.0, 0.5, 1.0]).view(1, 1, 1, 3)
    found = DenoisingAutoencoder(loss="cross-entropy").pixel_losses(restored, x).flatten()
    expected = [math.log(4), -0.5 * math.log(0.9) - 0.5 * math.log(0.1), 0.0]
    assert found.tolist() == pytest.approx(expected, abs=2e-6)


def test_puvaes_loss_is_the_formula() -> None:
    x, y = toy_data()
    classifier = toy_classifier()
    told: dict[str, Any] = {
        "reconstruction_weight": 0.7,
        "kl_weight": 0.3,
        "classifier_weight": 2.5,
        "seed": 9,
        **SMALL,
    }
    whole = Recipe(epochs=1, batch_size=len(x), learning_rate=1e-3, precision="fp32", seed=5)
    history = PuVAE(**told).fit((x, y), classifier=classifier, recipe=whole, progress=False)
    order = torch.randperm(
        len(x), generator=torch.Generator().manual_seed(derived_seed(5, "order", 0))
    )
    x, y = x[order].double(), y[order]
    with seeded(derived_seed(5, "step", 0, 0)):
        noise = torch.randn(len(x), SMALL["latent"]).double()
    network = PuVAE(**told, num_classes=4, shape=SHAPE).network.double()
    with torch.no_grad():
        mean, deviation = network.posterior(network.look(x), y)
        logits = network.decode(mean + deviation * noise, y)
        image = 1 / (1 + torch.exp(-logits))
        cross_entropy = -(x * image.log() + (1 - x) * (1 - image).log()).sum(dim=(1, 2, 3))
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(
            normal(mean, deviation), normal(torch.zeros_like(mean), torch.ones_like(mean))
        ).sum(dim=1)
        answers = classifier.double().logits(image)
        wrong = -torch.log_softmax(answers, dim=1)[torch.arange(len(x)), y]
    expected = (0.7 * cross_entropy + 0.3 * kl + 2.5 * wrong).mean()
    assert history.epochs[0].loss == pytest.approx(float(expected), rel=1e-5)
    right = (answers.argmax(dim=1) == y).double().mean()
    assert history.epochs[0].accuracy == pytest.approx(float(right))


def test_the_terms_have_right_gradients_and_special_cases() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, raw = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    deviation = raw.exp()
    logits = torch.randn(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    x = torch.rand(3, 1, 2, 2, generator=generator, dtype=torch.float64)
    for value in (mean, deviation, logits):
        value.requires_grad_()
    assert torch.autograd.gradcheck(divergence_from_standard, (mean, deviation))
    assert torch.autograd.gradcheck(lambda z: pixel_cross_entropy(z, x), (logits,))
    assert bool((divergence_from_standard(mean, deviation) > 0).all())
    assert torch.equal(
        divergence_from_standard(torch.zeros(2, 4), torch.ones(2, 4)), torch.zeros(2)
    )
    best = torch.logit(x).requires_grad_()
    (gradient,) = torch.autograd.grad(pixel_cross_entropy(best, x).sum(), best)
    assert float(gradient.abs().max()) < 1e-12
    # black and white pixels that are missed by far still pull, as a squared error would not
    far = torch.full((1, 1, 1, 1), -200.0, requires_grad=True)
    (pull,) = torch.autograd.grad(pixel_cross_entropy(far, torch.ones(1, 1, 1, 1)).sum(), far)
    assert pull.item() == pytest.approx(-1)


# --- the networks as they are printed ----------------------------------------------------------


def count_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_architecture_c_has_the_printed_sizes() -> None:
    purifier = PuVAE(num_classes=10, shape=(1, 28, 28))
    network = purifier.network
    # 7x7 kernels with dilation 2: 1 -> 32, then twice 32 -> 32
    assert count_of(network.convolutions) == (49 * 32 + 32) + 2 * (49 * 32 * 32 + 32)
    # 32 maps of 28x28 and ten labels to 1024, then 1024 to 1024, two heads of 32
    assert count_of(network.enter) == (32 * 28 * 28 + 10) * 1024 + 1024
    assert count_of(network.hidden) == 1024 * 1024 + 1024
    assert count_of(network.mean) == count_of(network.deviation) == 1024 * 32 + 32
    # FC(512), three times 32 -> 32 by 7x7, and 32 -> 1 by 3x3
    assert count_of(network.leave) == (32 + 10) * 512 + 512
    assert count_of(network.deconvolutions) == 3 * (32 * 32 * 49 + 32) + (32 * 9 + 1)
    assert count_of(purifier) == 27_091_521
    sizes = sizes_of(network.deconvolutions, nn.ConvTranspose2d)
    x = torch.rand(2, 1, 28, 28)
    assert network(x, torch.tensor([0, 9]), torch.zeros(2, 32))[2].shape == x.shape
    assert sizes == [(7, 7), (14, 14), (28, 28), (28, 28)]


def test_architecture_d_has_the_printed_sizes() -> None:
    purifier = PuVAE(latent=1024, num_classes=10, shape=(3, 32, 32))
    network = purifier.network
    assert count_of(network.convolutions) == (3 * 3 * 4 + 3) + (3 * 32 * 4 + 32) + 2 * (
        32 * 32 * 4 + 32
    )
    assert count_of(network.enter) == (32 * 32 * 32 + 10) * 1024 + 1024
    assert count_of(network.hidden) == 0
    assert count_of(network.mean) == count_of(network.deviation) == 1024 * 1024 + 1024
    # FC(1024), FC(8192)
    assert count_of(network.leave) == (1024 + 10) * 1024 + 1024
    assert count_of(network.unfold) == 1024 * 8192 + 8192
    assert count_of(network.deconvolutions) == 2 * (32 * 32 * 4 + 32) + (32 * 32 * 9 + 32) + (
        32 * 3 * 4 + 3
    )
    assert count_of(purifier) == 45_148_138
    x = torch.rand(2, 3, 32, 32)
    assert network.unfold(network.leave.of_values(torch.zeros(2, 1024))).shape == (2, 32, 16, 16)
    assert network(x, torch.tensor([0, 9]), torch.zeros(2, 1024))[2].shape == x.shape


def sizes_of(module: nn.Module, kind: type[nn.Module]) -> list[tuple[int, int]]:
    """Fills with the heights and widths of what such layers put out."""
    sizes: list[tuple[int, int]] = []

    def note(part: nn.Module, given: object, output: torch.Tensor) -> None:
        sizes.append((output.shape[2], output.shape[3]))

    for part in module.modules():
        if isinstance(part, kind):
            part.register_forward_hook(note)
    return sizes


def test_magnets_autoencoders_have_the_papers_sizes() -> None:
    # 1 -> 3, four times between 3 channels save the last, 3 -> 1; all 3x3
    pooled = Autoencoder(shape=(1, 28, 28))
    assert count_of(pooled) == 30 + 3 * 84 + 28
    sizes = sizes_of(pooled, nn.Conv2d)
    pooled.purify(torch.rand(1, 1, 28, 28))
    assert sizes == [(28, 28), (14, 14), (14, 14), (28, 28), (28, 28)]
    assert count_of(Autoencoder(shape=(1, 9, 8))) == 30 + 84 + 28


def test_the_denoisers_bottleneck_is_one() -> None:
    for shape in ((1, 28, 28), (1, 8, 8), (3, 32, 32)):
        network = DenoisingAutoencoder(shape=shape).networks[0]
        code = network.encode(torch.rand(2, *shape))  # type: ignore[operator]
        assert code[0].numel() <= math.prod(shape) / 2


KINDS: list[Any] = [Autoencoder, DenoisingAutoencoder, MagNet, PuVAE, DefenseGAN]
SMOOTH = KINDS[:4]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (1, 9, 11), (3, 13, 8), (2, 8, 10)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size_comes_back_as_it_was(kind: Any, shape: tuple[int, int, int]) -> None:
    purifier = untrained(kind, shape)
    for dtype in (torch.float64, torch.float32):
        x = batch(3, shape).to(dtype)
        with torch.no_grad():
            result = purifier(x)
        assert result.shape == x.shape
        assert result.dtype == dtype
        assert float(result.min()) >= 0
        assert float(result.max()) <= 1
        assert float(result.std()) > 0


@pytest.mark.parametrize("architecture", ["C", "D"])
def test_both_architectures_take_any_images(architecture: Any) -> None:
    for shape in ((1, 8, 8), (3, 9, 7), (1, 28, 28)):
        purifier = untrained(PuVAE, shape, architecture=architecture, num_classes=2)
        assert purifier(batch(2, shape)).shape == (2, *shape)


# --- PuVAE's inference --------------------------------------------------------------------------


def as_a_joint_vector(purifier: PuVAE, x: torch.Tensor, label: int) -> torch.Tensor:
    """The reconstruction as a class, with one-hot vectors that are really put beside the values."""
    network = purifier.network
    one_hot = torch.zeros(len(x), network.num_classes, dtype=x.dtype)
    one_hot[:, label] = 1
    flat = network.convolutions(x).flatten(1)
    hidden = network.hidden(network.enter.joint(torch.cat([flat, one_hot], dim=1)))
    z = torch.cat([network.mean(hidden), one_hot], dim=1)
    return torch.sigmoid(network.deconvolutions(network.unfold(network.leave.joint(z))))


@pytest.mark.parametrize("shape", [(1, 9, 8), (3, 8, 8)])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_puvae_passes_on_the_nearest_of_its_reconstructions(
    shape: tuple[int, int, int], classes: int
) -> None:
    purifier = untrained(PuVAE, shape, num_classes=classes)
    x = batch(6, shape)
    with torch.no_grad():
        every = torch.stack([as_a_joint_vector(purifier, x, label) for label in range(classes)], 1)
        assert torch.allclose(purifier.reconstructions(x), every, atol=1e-12)
        errors = (every - x[:, None]).square().mean(dim=(2, 3, 4)).sqrt()
        label, error = purifier.closest(x)
        assert torch.equal(label, errors.argmin(dim=1))
        assert torch.allclose(error, errors.amin(dim=1), atol=1e-12)
        nearest = every[torch.arange(6), errors.argmin(dim=1)]
        assert torch.allclose(purifier(x), nearest, atol=1e-12)


def batches_of(module: nn.Module) -> list[int]:
    """Fills with how many rows each of the module's passes has."""
    counts: list[int] = []

    def note(part: nn.Module, given: object, output: torch.Tensor) -> None:
        counts.append(len(output))

    module.register_forward_hook(note)
    return counts


def test_all_classes_are_decoded_in_one_batch() -> None:
    purifier = untrained(PuVAE, SHAPE, num_classes=10)
    rows, looked = (
        batches_of(purifier.network.deconvolutions),
        batches_of(purifier.network.convolutions),
    )
    purifier.reconstructions(batch(7, SHAPE))
    assert rows == [70]
    assert looked == [7]


def test_puvaes_gradient_holds_the_graph_of_one_class_only() -> None:
    purifier = untrained(PuVAE, SHAPE, num_classes=10)
    rows: list[int] = []
    network = purifier.network

    def note(part: nn.Module, given: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            rows.append(len(output))

    network.register_forward_hook(note)
    network.deconvolutions.register_forward_hook(note)
    purifier(batch(7, SHAPE).requires_grad_())
    assert rows == [7]


def test_the_distance_has_a_gradient_even_where_it_is_zero() -> None:
    purifier = untrained(PuVAE, SHAPE)
    with torch.no_grad():
        for parameter in purifier.network.parameters():
            parameter.zero_()
    x = torch.full((2, *SHAPE), 0.5, dtype=torch.float64, requires_grad=True)
    _, error = purifier.closest(x)
    assert not bool(error.any())
    (gradient,) = torch.autograd.grad(error.sum(), x)
    assert bool(torch.isfinite(gradient).all())


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMOOTH)
def test_gradients_are_right_and_not_zero(kind: Any) -> None:
    purifier = untrained(kind, SHAPE)
    x = batch(2, SHAPE, seed=1).requires_grad_()
    direction = torch.randn(
        2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def along(image: torch.Tensor) -> torch.Tensor:
        with drawing_from(Streams(torch.arange(2))):
            moved: torch.Tensor = (purifier(image) * direction).flatten(1).sum(dim=1)
        return moved

    assert torch.autograd.gradcheck(along, (x,), atol=1e-6)
    (gradient,) = torch.autograd.grad(along(x).sum(), x)
    assert bool((gradient.flatten(1).norm(dim=1) > 1e-9).all())


def test_a_latent_search_declares_itself_hard() -> None:
    classifier = ns.Classifier(small_network(0, num_classes=3))
    shape = (1, 6, 6)
    guard = ns.Guard(classifier, purifier=untrained(DefenseGAN, shape))
    x, y = batch(4, shape), torch.tensor([0, 1, 2, 0])
    assert not guard.differentiable
    with pytest.raises(UnsupportedError, match="BPDA"):
        PGD(eps=0.3, steps=2)(guard, x, y)
    found = PGD(eps=0.3, steps=5, gradient=BPDA())(guard, x, y)
    assert int(found.gradients.sum()) > 0
    assert int(found.dead_gradients.sum()) == 0


# --- DefenseGAN --------------------------------------------------------------------------------


def test_the_search_comes_nearer_the_longer_it_takes() -> None:
    x = batch(5, SHAPE)
    generator = untrained(PuVAE, SHAPE)
    errors = []
    for steps in (1, 10, 100):
        purifier = DefenseGAN(generator=generator, steps=steps).double()
        errors.append(float((purifier(x) - x).square().sum()))
    assert errors[0] > errors[1] > errors[2]


def test_the_search_finds_what_the_decoder_has_made() -> None:
    """A picture that the decoder can make comes back, of its class and almost as it was."""
    generator = untrained(PuVAE, SHAPE, latent=3)
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in generator.network.deconvolutions.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                layer.weight.mul_(3)
        z = torch.randn(6, 3, generator=chance, dtype=torch.float64)
        made = torch.sigmoid(generator.network.decode(z, torch.arange(6) % 3))
    purifier = DefenseGAN(generator=generator, steps=300, restarts=4).double()
    found = purifier(made)
    spread = float((made - made.mean(dim=0)).square().mean())
    assert float((found - made).square().mean()) < 0.01 * spread


def test_the_search_is_the_same_in_any_blocks_and_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    purifier = untrained(DefenseGAN, SHAPE, steps=8, restarts=2)
    x = batch(7, SHAPE)
    whole = purifier(x)
    with torch.inference_mode():
        inside = purifier(x.clone())
    assert torch.equal(inside, whole)
    monkeypatch.setattr("notsure.purifiers.defense_gan.CANDIDATES", 12)
    assert torch.allclose(purifier(x), whole, atol=1e-9)
    assert torch.allclose(purifier(x[3:5]), whole[3:5], atol=1e-9)
    assert not whole.requires_grad
    assert all(parameter.grad is None for parameter in purifier.parameters())


def test_fresh_starts_belong_to_the_image() -> None:
    purifier = untrained(DefenseGAN, SHAPE, steps=3, fresh=True)
    fixed = untrained(DefenseGAN, SHAPE, steps=3)
    x = batch(6, SHAPE)
    assert ns.Guard(nn.Flatten(), purifier=purifier).stochastic
    assert not ns.Guard(nn.Flatten(), purifier=fixed).stochastic
    with drawing_from(Streams.of(content_keys(x), 0)):
        whole = purifier(x)
    with drawing_from(Streams.of(content_keys(x[2:4]), 0)):
        some = purifier(x[2:4])
    assert torch.allclose(some, whole[2:4], atol=1e-9)
    with drawing_from(Streams.of(content_keys(x), 1)):
        assert not torch.allclose(purifier(x), whole, atol=1e-3)
    assert torch.equal(fixed(x), fixed(x))


# --- MagNet ------------------------------------------------------------------------------------


class Constant(nn.Module):
    """Answers everything with one shade."""

    def __init__(self, shade: float) -> None:
        super().__init__()
        self.shade = nn.Parameter(torch.tensor(shade, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shade + 0 * x


def test_magnet_draws_an_autoencoder_for_each_image() -> None:
    purifier = untrained(MagNet, SHAPE, count=3)
    purifier.networks = nn.ModuleList([Constant(shade) for shade in (0.0, 0.5, 1.0)])
    x = batch(600, SHAPE)
    with drawing_from(Streams.of(content_keys(x), 0)):
        whole = purifier(x)[:, 0, 0, 0]
    for shade in (0.0, 0.5, 1.0):
        share = float((whole == shade).double().mean())
        assert 1 / 3 - 0.08 < share < 1 / 3 + 0.08
    # an image's draw goes with it, wherever it stands
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))[:50]
    with drawing_from(Streams.of(content_keys(x[order]), 0)):
        assert torch.equal(purifier(x[order])[:, 0, 0, 0], whole[order])
    with drawing_from(Streams.of(content_keys(x), 1)):
        assert float((purifier(x)[:, 0, 0, 0] == whole).double().mean()) < 0.5
    # without streams it draws as layers do
    with seeded(0):
        first = purifier(x)
        assert not torch.equal(purifier(x), first)
    with seeded(0):
        assert torch.equal(purifier(x), first)


def test_each_image_gets_what_its_autoencoder_makes_of_it() -> None:
    purifier = untrained(MagNet, SHAPE, count=4)
    x = batch(20, SHAPE)
    with torch.no_grad(), drawing_from(Streams.of(content_keys(x), 0)):
        result = purifier(x)
        every = torch.stack([network(x) for network in purifier.networks])
    gap = (every - result).flatten(2).abs().amax(dim=2)
    assert bool((gap.amin(dim=0) < 1e-12).all())
    assert len(gap.argmin(dim=0).unique()) == 4


def test_magnets_judgement_does_not_hang_on_batch_mates() -> None:
    classifier = ns.Classifier(small_network(0, num_classes=3))
    guard = ns.Guard(classifier, purifier=untrained(MagNet, (1, 6, 6), count=4))
    x = batch(40, (1, 6, 6))
    assert guard.stochastic
    large, small = (guard.judge(x, batch_size=size, votes=1, seed=3) for size in (40, 7))
    assert torch.equal(large.label, small.label)
    assert torch.allclose(large.margin, small.margin, atol=1e-9)
    other = guard.judge(x, votes=1, seed=4)
    assert not torch.allclose(large.margin, other.margin, atol=1e-9)


def test_one_autoencoder_is_no_lottery() -> None:
    assert not MagNet(count=1).stochastic
    alone, single = untrained(MagNet, SHAPE, count=1), untrained(Autoencoder, SHAPE)
    assert torch.equal(alone(batch(3, SHAPE)), single(batch(3, SHAPE)))


def test_magnets_autoencoders_differ_and_follow_the_seed() -> None:
    first, again, other = MagNet(count=2, shape=SHAPE), MagNet(count=2, shape=SHAPE), MagNet(seed=1)
    other.build(SHAPE)
    hashes = [weights_hash(network) for network in first.networks]
    assert hashes[0] != hashes[1]
    assert hashes == [weights_hash(network) for network in again.networks]
    assert weights_hash(other.networks[0]) not in hashes
    first.fit(toy_data(), recipe=BRIEF, progress=False)
    again.fit(toy_data(), recipe=BRIEF, progress=False)
    assert weights_hash(first) == weights_hash(again)


# --- training, saving, loading -----------------------------------------------------------------


def fresh(kind: Any) -> Purifier:
    if kind is PuVAE:
        return PuVAE(**SMALL, num_classes=4, shape=SHAPE)
    if kind is DefenseGAN:
        return DefenseGAN(generator=PuVAE(**SMALL, num_classes=4, shape=SHAPE), steps=3)
    if kind is MagNet:
        return MagNet(count=2, shape=SHAPE)
    purifier: Purifier = kind(shape=SHAPE)
    return purifier


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_resumed_training_is_the_same_to_the_bit(kind: Any, stop_at: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "classifier": toy_classifier(),
        "recipe": BRIEF,
        "progress": False,
    }
    whole = fresh(kind)
    history = whole.fit(toy_data(), **settings)
    path = tmp_path / "checkpoint.safetensors"
    part = fresh(kind)
    calls: list[int] = []

    def stop(*_: object) -> None:
        calls.append(1)
        if len(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(stop)
            break
    with pytest.raises(KeyboardInterrupt):
        part.fit(toy_data(), checkpoint=path, **settings)
    assert not part.fitted
    resumed = fresh(kind)
    with torch.random.fork_rng():
        torch.rand(3)  # the global state must not matter
        again = resumed.fit(toy_data(), checkpoint=path, **settings)
    assert weights_hash(resumed) == weights_hash(whole)
    assert [e.number for e in again.epochs] == [e.number for e in history.epochs]
    assert [e.loss for e in again.epochs] == [e.loss for e in history.epochs]
    other = PuVAE(**SMALL, num_classes=4, seed=1) if kind in (PuVAE, DefenseGAN) else kind(seed=1)
    if kind is not MagNet:  # whose single files have numbers
        with pytest.raises(CheckpointError, match="another training"):
            other.fit(toy_data(), checkpoint=path, **settings)


@pytest.mark.parametrize("kind", [Autoencoder, PuVAE])
def test_a_second_training_that_fails_leaves_nothing_half_done(kind: Any) -> None:
    purifier = fresh(kind)
    settings: dict[str, Any] = {"classifier": toy_classifier(), "progress": False}
    purifier.fit(toy_data(), recipe=BRIEF, **settings)
    with pytest.raises(NotSureError, match="lower the learning rate"):
        purifier.fit(toy_data(), recipe=replace(BRIEF, learning_rate=math.inf), **settings)
    with pytest.raises(NotFittedError):
        purifier(toy_data()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_purifier_is_saved_and_loaded(kind: Any, tmp_path: Path) -> None:
    purifier = fresh(kind)
    path = tmp_path / "purifier.safetensors"
    with pytest.raises(NotFittedError, match="nothing to save"):
        purifier.save(path)
    purifier.fit(toy_data(), classifier=toy_classifier(), recipe=BRIEF, progress=False)
    purifier.save(path)
    loaded = type(purifier).load(path)
    assert loaded.settings() == purifier.settings()
    x = toy_data()[0]
    for streams in (Streams(torch.arange(len(x))), Streams(torch.arange(len(x)) + 99)):
        with drawing_from(streams):
            expected = purifier(x)
        with drawing_from(streams):
            assert torch.equal(loaded(x), expected)
    assert weights_hash(rebuilt(purifier.description(), Purifier, purifier.state_dict())) == (
        weights_hash(purifier)
    )
    assert weights_hash(Purifier.load(path)) == weights_hash(purifier)
    with pytest.raises(CheckpointError, match="is no"):
        (MagNet if kind is not MagNet else PuVAE).load(path)


def test_the_classifier_is_left_as_it_was() -> None:
    network = small_network(0).float()
    network.train()
    network.body[1].eval()
    network.head.bias.requires_grad_(False)
    classifier = ns.Classifier(network)
    modes = [module.training for module in classifier.modules()]
    before, state = weights_hash(classifier), torch.get_rng_state()
    x, y = batch(48, (1, 6, 6)).float(), torch.arange(48) % 4
    purifier = PuVAE(**SMALL)
    purifier.fit((x, y), classifier=classifier, recipe=BRIEF, progress=False)
    assert weights_hash(classifier) == before
    assert [module.training for module in classifier.modules()] == modes
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert [parameter.requires_grad for parameter in network.head.parameters()] == [True, False]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("classifier" in name for name, _ in purifier.named_modules())
    assert not purifier.training


def test_a_classifier_without_chance_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconstructions are judged in evaluation mode: dropout would change the loss."""
    x, y = batch(48, (1, 6, 6)).float(), torch.arange(48) % 4
    losses = []
    for training in (True, False):
        classifier = ns.Classifier(small_network(0).float().train(training))
        told = PuVAE(**SMALL).fit((x, y), classifier=classifier, recipe=BRIEF, progress=False)
        losses.append([epoch.loss for epoch in told.epochs])
    assert losses[0] == losses[1]


# --- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: DenoisingAutoencoder(noise=-0.1), "noise has to be at least 0"),
        (lambda: Autoencoder(noise=math.nan), "noise has to be at least 0"),
        (lambda: MagNet(noise=math.inf), "noise has to be at least 0"),
        (lambda: MagNet(count=0), "count is a whole number"),
        (lambda: Autoencoder(width=0), "width is a whole number"),
        (lambda: DenoisingAutoencoder(bottleneck=0), "bottleneck is a whole number"),
        (lambda: DenoisingAutoencoder(loss="l1"), "squared-error or cross-entropy; got 'l1'"),  # type: ignore[arg-type]
        (lambda: DenoisingAutoencoder(shape=(1, 7, 8)), "8x8 pixels on; these have 7x8"),
        (lambda: Autoencoder(shape=(1, 8)), "shape is channels"),  # type: ignore[arg-type]
        (lambda: PuVAE(latent=0), "latent is a whole number"),
        (lambda: PuVAE(latent=2.5), "latent is a whole number"),  # type: ignore[arg-type]
        (lambda: PuVAE(architecture="A"), "C or D"),  # type: ignore[arg-type]
        (lambda: PuVAE(kl_weight=-1), "kl_weight has to be at least 0"),
        (lambda: PuVAE(reconstruction_weight=0, classifier_weight=0), "give one of them"),
        (lambda: PuVAE(num_classes=1), "at least 2"),
        (lambda: PuVAE(shape=SHAPE), "give num_classes with a shape"),
        (lambda: DefenseGAN(generator=PuVAE(), steps=0), "steps is a whole number"),
        (lambda: DefenseGAN(generator=PuVAE(), restarts=0), "restarts is a whole number"),
        (lambda: DefenseGAN(generator=PuVAE(), learning_rate=0), "learning_rate has to be > 0"),
        (lambda: DefenseGAN(generator=MagNet()), "has to be a PuVAE"),  # type: ignore[arg-type]
    ],
)
def test_settings_are_checked(make: Callable[[], object], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        make()


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_purifier_says_so(kind: Any) -> None:
    purifier = fresh(kind)
    with pytest.raises(NotFittedError, match=r"purifier\.fit\(images\)"):
        purifier(batch(2, SHAPE).float())
    guard = ns.Guard(toy_classifier(), [Confidence()], purifier=purifier)
    with pytest.raises(NotFittedError, match=r"purifier\.fit\(images\)"):
        guard.fit(*toy_data())


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_another_size_are_refused(kind: Any) -> None:
    purifier = fresh(kind)
    purifier.fit(toy_data(), classifier=toy_classifier(), recipe=BRIEF, progress=False)
    for shape in ((1, 10, 8), (3, 8, 8)):
        with pytest.raises(InputError, match="fit another one"):
            purifier(batch(2, shape).float())
    wide = batch(8, (1, 8, 12)).float()
    with pytest.raises(InputError, match="fit another one"):
        purifier.fit((wide, torch.arange(8) % 4), classifier=_any_size(), progress=False)


def _any_size() -> ns.Classifier:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 4))
    return ns.Classifier(pooled)


def test_what_puvae_needs_to_be_trained() -> None:
    x, y = toy_data()
    with pytest.raises(ConfigurationError, match="classifier=classifier"):
        PuVAE().fit((x, y))
    with pytest.raises(ConfigurationError, match="classifier=classifier"):
        PuVAE().fit((x, y), classifier=nn.Flatten())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="made for 10 classes, the classifier has 4"):
        PuVAE(num_classes=10).fit((x, y), classifier=toy_classifier())
    with pytest.raises(InputError, match="class 2 of 4 has no image"):
        PuVAE().fit((x[y != 2], y[y != 2]), classifier=toy_classifier())
    with pytest.raises(InputError, match=r"numbered 0\.\.3"):
        PuVAE().fit((x, y + 1), classifier=toy_classifier())
    with pytest.raises(InputError, match="divide by 255"):
        PuVAE().fit((x * 255, y), classifier=toy_classifier())
    small = batch(8, (1, 6, 6)).float()
    with pytest.raises(ConfigurationError, match="8x8"):
        DenoisingAutoencoder().fit((small, torch.arange(8)), progress=False)
