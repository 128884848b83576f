"""What purifiers trained on the digits do, with margins that a purifier of no effect fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

import notsure as ns
from notsure.attacks import BPDA, EOT, PGD
from notsure.core.state import weights_hash
from notsure.detectors import Confidence
from notsure.purifiers import DefenseGAN, DenoisingAutoencoder, MagNet, Purifier, PuVAE
from notsure.training import Recipe
from tests.conftest import Digits

COUNT = 200


@dataclass(frozen=True)
class Trained:
    """Purifiers of digits before one classifier, test images, and these under an oblivious PGD."""

    split: ns.data.Split
    classifier: ns.Classifier
    x: torch.Tensor
    y: torch.Tensor
    attacked: torch.Tensor
    denoiser: DenoisingAutoencoder
    magnet: MagNet
    puvae: PuVAE

    def accuracy(self, x: torch.Tensor, purifier: Purifier | None = None) -> float:
        guard = ns.Guard(self.classifier, purifier=purifier)
        return float((guard.judge(x).label == self.y).double().mean())


def recipe(epochs: int, rate: float) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch_size=32,
        optimizer="adamw",
        learning_rate=rate,
        weight_decay=0,
        schedule="one-cycle",
    )


@pytest.fixture(scope="module")
def trained(digits: Digits) -> Trained:
    classifier, train = digits.guard.classifier, digits.split.train
    before = weights_hash(classifier)
    denoiser = DenoisingAutoencoder()
    denoiser.fit(train, recipe=recipe(12, 5e-3), progress=False)
    magnet = MagNet(count=3, width=8)
    magnet.fit(train, recipe=recipe(12, 0.02), progress=False)
    # D's small kernels are the quicker ones
    puvae = PuVAE(latent=16, width=16, dense=256, kl_weight=0.05, architecture="D")
    puvae.fit(train, classifier=classifier, recipe=recipe(12, 4e-3), progress=False)
    assert weights_hash(classifier) == before
    x, y = digits.x[:COUNT], digits.y[:COUNT]
    attacked = PGD(eps=0.15, steps=20)(classifier, x, y).x
    return Trained(digits.split, classifier, x, y, attacked, denoiser, magnet, puvae)


def test_clean_images_keep_their_labels(trained: Trained) -> None:
    bare = trained.accuracy(trained.x)
    assert bare > 0.93
    for purifier in (trained.denoiser, trained.magnet, trained.puvae):
        assert trained.accuracy(trained.x, purifier) > bare - 0.08, type(purifier).__name__


def test_the_denoiser_takes_noise_off(trained: Trained) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = (trained.x + 0.5 * torch.randn(trained.x.shape, generator=generator)).clamp(0, 1)
    with torch.no_grad():
        cleaned = trained.denoiser(noisy)
    error_before = float((noisy - trained.x).square().mean())
    error_after = float((cleaned - trained.x).square().mean())
    assert error_after < 0.5 * error_before
    assert trained.accuracy(noisy, trained.denoiser) > trained.accuracy(noisy) + 0.02


@pytest.mark.parametrize(("name", "gain"), [("denoiser", 0.4), ("magnet", 0.1), ("puvae", 0.3)])
def test_oblivious_attacks_lose_their_effect(trained: Trained, name: str, gain: float) -> None:
    fooled = trained.accuracy(trained.attacked)
    assert fooled < 0.35
    purifier = getattr(trained, name)
    assert trained.accuracy(trained.attacked, purifier) > fooled + gain


def test_puvae_chooses_the_true_class(trained: Trained) -> None:
    label, _ = trained.puvae.closest(trained.x)
    assert float((label == trained.y).double().mean()) > 0.85


def test_puvaes_distance_tells_adversarial_images(trained: Trained) -> None:
    """Wester, section 4: the error is higher for adversarial inputs, the more the larger eps is."""
    truth = [0] * COUNT + [1] * COUNT
    areas = []
    for eps in (0.1, 0.2, 0.3):
        attacked = PGD(eps=eps, steps=20)(trained.classifier, trained.x, trained.y).x
        with torch.no_grad():
            clean, far = trained.puvae.closest(trained.x)[1], trained.puvae.closest(attacked)[1]
        areas.append(roc_auc_score(truth, torch.cat([clean, far]).numpy()))
    assert areas == sorted(areas)
    assert areas[1] > 0.8
    assert areas[2] > 0.95


def test_puvaes_reconstructions_look_like_their_classes(trained: Trained) -> None:
    """Whatever the image, what it becomes as class c is c far more often than by chance, 0.1."""
    with torch.no_grad():
        every = trained.puvae.reconstructions(trained.x[:50])
        labels = trained.classifier.logits(every.flatten(0, 1)).argmax(dim=1).view(50, 10)
    assert float((labels == torch.arange(10)).double().mean()) > 0.25


def test_an_attacker_who_sees_the_purifier_is_not_stopped(trained: Trained) -> None:
    x, y = trained.x[:60], trained.y[:60]
    for purifier in (trained.denoiser, trained.puvae):
        guard = ns.Guard(trained.classifier, purifier=purifier)
        wrong = float((guard.judge(x).label != y).double().mean())
        found = PGD(eps=0.2, steps=20)(guard, x, y)
        assert int(found.dead_gradients.sum()) == 0
        assert float(found.success.double().mean()) > wrong + 0.3
    # a denoiser is a smooth map: whoever knows it loses nothing by it
    guard = ns.Guard(trained.classifier, purifier=trained.denoiser)
    known = PGD(eps=0.15, steps=20)(guard, x, y).success
    unknown = guard.judge(trained.attacked[:60]).label != y
    assert float(known.double().mean()) > float(unknown.double().mean()) + 0.2


def test_the_latent_search_purifies(trained: Trained) -> None:
    purifier = DefenseGAN(generator=trained.puvae, steps=40, learning_rate=0.2)
    x, y, attacked = trained.x[:40], trained.y[:40], trained.attacked[:40]
    guard = ns.Guard(trained.classifier, purifier=purifier)
    with torch.no_grad():
        found, encoded = purifier(x), trained.puvae(x)
    # the search comes nearer than the encoder does
    assert float((found - x).square().mean()) < float((encoded - x).square().mean())
    assert float((guard.judge(x).label == y).double().mean()) > 0.85
    right = float((guard.judge(attacked).label == y).double().mean())
    bare = float((trained.classifier.logits(attacked).argmax(dim=1) == y).double().mean())
    assert right > bare + 0.15
    # and with the identity for its gradient it is broken all the same
    through = PGD(eps=0.3, steps=4, gradient=BPDA())(guard, x, y)
    assert float(through.success.double().mean()) > 0.4


@pytest.mark.parametrize("name", ["denoiser", "magnet", "puvae", "search"])
def test_a_purified_guard_is_attacked_saved_and_loaded(
    trained: Trained, name: str, tmp_path: Path
) -> None:
    split = trained.split
    if name == "search":
        purifier: Purifier = DefenseGAN(generator=trained.puvae, steps=5)
    else:
        purifier = getattr(trained, name)
    guard = ns.Guard(trained.classifier, [Confidence()], purifier=purifier)
    guard.fit(split.train.x[:200], split.train.y[:200])
    guard.calibrate(split.calibration.x[:100], fpr=0.05)
    x, y = trained.x[:20], trained.y[:20]
    source = {"search": BPDA(), "magnet": EOT(n=3)}.get(name)
    attack = PGD(eps=0.1, steps=3) if source is None else PGD(eps=0.1, steps=3, gradient=source)
    found = attack(guard, x, y)
    assert float((found.x - x).abs().max()) <= 0.1 + 1e-6
    assert int(found.gradients.sum()) > 0
    expected = guard.judge(found.x)
    loaded = ns.Guard.load(guard.save(tmp_path))
    verdict = loaded.judge(found.x)
    assert torch.equal(verdict.label, expected.label)
    assert torch.equal(verdict.rejection, expected.rejection)
    assert torch.equal(verdict.scores["Confidence"], expected.scores["Confidence"])
    assert torch.equal(loaded.judge(x, batch_size=7).label, guard.judge(x, batch_size=7).label)
