"""Adversarial training: closed forms on linear models, no traces, and networks that hold out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

import notsure as ns
from notsure import models
from notsure.attacks import BIM, DDN, FGSM, JSMA, PGD, BoundedAttack, Margin, Misclassified
from notsure.attacks.geometry import norm_named
from notsure.core.errors import CheckpointError, ConfigurationError, UnsupportedError
from notsure.core.state import seeded, weights_hash
from notsure.core.target import Response
from notsure.training import (
    AdversarialTraining,
    Augmentation,
    CrossEntropy,
    LogitSqueezing,
    MixedAdversarialTraining,
    Recipe,
    ReverseCrossEntropy,
    Trades,
    TrainingObjective,
    train,
)
from notsure.training.loop import Step
from notsure.training.objectives import Batch
from notsure.training.trades import Divergence, divergence
from tests.conftest import Digits
from tests.test_guard import blobs
from tests.toys import LinearModel, SmallNetwork, images, small_network, weights_of

SHAPE = (1, 6, 6)


def batch_of(
    module: nn.Module, x: torch.Tensor, y: torch.Tensor, *, seed: int = 0, **settings: Any
) -> Batch:
    classifier = ns.Classifier(module, **settings).train()
    return Batch(Step(classifier, x, y, seed, bf16=False), classifier)


def network_batch(seed: int = 0, count: int = 24, *, dropout: bool = False) -> Batch:
    """A float64 network with BatchNorm in training, on labels that it mostly gets wrong."""
    module = small_network(seed)
    if not dropout:
        module.body[3] = nn.Identity()
    y = torch.arange(count) % 4
    return batch_of(module, images(count, SHAPE, seed=seed), y, seed=seed, mean=0.4, std=0.3)


def losses_of(batch: Batch, x: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of images as the attack sees it, in evaluation mode."""
    module = copy.deepcopy(batch.classifier).eval()
    return F.cross_entropy(module.logits(x), batch.y, reduction="none").detach()


@contextmanager
def passes(module: nn.Module) -> Iterator[list[tuple[int, bool]]]:
    """How many images each forward pass takes, and whether it is one of training."""
    seen: list[tuple[int, bool]] = []
    handle = module.register_forward_hook(
        lambda part, inputs, _: seen.append((len(inputs[0]), part.training))
    )
    yield seen
    handle.remove()


# what the attack hands over


def test_perturbed_images_are_in_ball_and_box_and_have_a_larger_loss() -> None:
    batch = network_batch()
    clean = losses_of(batch, batch.x)
    for norm, eps in (("linf", 0.1), ("l2", 0.5), ("l1", 2.0)):
        attack = PGD(norm=norm, eps=eps, steps=10, early_stop=False)
        found = attack.perturb(batch.classifier, batch.x, batch.y, seed=3)
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        assert float(norm_named(norm).distance(found - batch.x).max()) <= eps + 1e-9
        # also of those that are misclassified as they are
        assert bool((losses_of(batch, found) > clean).all())
        again = attack.perturb(batch.classifier, batch.x, batch.y, seed=3)
        assert torch.equal(found, again)
        other = attack.perturb(batch.classifier, batch.x, batch.y, seed=4)
        assert not torch.equal(found, other)


def test_more_steps_never_lose_what_fewer_have_found() -> None:
    batch = network_batch()
    before = torch.full((len(batch.x),), -torch.inf, dtype=torch.float64)
    for steps in (2, 5, 9):
        # so long a step that the search jumps to and fro, and the last point is not the best
        attack = PGD(eps=0.3, steps=steps, step_size=0.5, early_stop=False)
        found = losses_of(batch, attack.perturb(batch.classifier, batch.x, batch.y))
        assert bool((found >= before - 1e-12).all())
        before = found


def test_what_the_attacks_cost() -> None:
    batch, count = network_batch(), 24
    cases: list[tuple[TrainingObjective, int, int]] = [
        # steps, and one look at the last image; a single step is taken unseen
        (AdversarialTraining(attack=PGD(eps=0.1, steps=5), alpha=0), 6 * count, count),
        (AdversarialTraining(attack=PGD(eps=0.1, steps=5), alpha=0.5), 6 * count, 2 * count),
        (AdversarialTraining.fast(0.1), count, count),
        (AdversarialTraining.fast(0.1, alpha=1), 0, count),
        (MixedAdversarialTraining(attacks=(FGSM(eps=0.1), FGSM(eps=0.2))), count, 2 * count),
        # both, and a look at either
        (
            MixedAdversarialTraining(attacks=(FGSM(eps=0.1), FGSM(eps=0.2)), mode="max"),
            4 * count,
            2 * count,
        ),
        # the clean answer, the steps, and a look at the last image
        (Trades(attack=PGD(eps=0.1, steps=5)), 7 * count, 2 * count),
        (Trades(attack=PGD(eps=0.1, steps=5), beta=0), 0, count),
    ]
    for objective, attacking, training in cases:
        fresh = Batch(Step(batch.classifier, batch.x, batch.y, 0, bf16=False), batch.classifier)
        with passes(batch.classifier.module) as seen:
            objective.loss(fresh)
        assert sum(size for size, in_training in seen if in_training) == training, objective
        assert sum(size for size, in_training in seen if not in_training) == attacking, objective


def test_the_single_step_is_the_published_one() -> None:
    batch = network_batch()
    objective = AdversarialTraining.fast("25/255", alpha=0.25)
    assert objective.alpha == 0.25
    settings = objective.attack.settings()
    assert settings["eps"] == pytest.approx(25 / 255)
    assert settings["step_size"] == pytest.approx(1.25 * 25 / 255)
    assert settings["random_start"] is True
    assert settings["steps"] == 1
    delta = (objective.attacked(batch) - batch.x) * 255 / 25
    # a start is uniform in [-1, 1], so that a step of 1.25 carries 5 of 8 pixels to the surface
    assert float(delta.abs().max()) <= 1 + 1e-9
    at_the_end = float((delta.abs() > 1 - 1e-9).double().mean())
    assert at_the_end == pytest.approx(0.625, abs=0.04)


# the formula


@pytest.mark.parametrize(("shape", "num_logits"), [((1, 3, 3), 1), ((1, 3, 3), 2), ((3, 2, 2), 2)])
def test_adversarial_loss_of_a_linear_model(shape: tuple[int, int, int], num_logits: int) -> None:
    """CE is softplus(-m); in linf the margin m falls by eps * |w_y - w_other|_1 at most."""
    model = LinearModel(shape, num_logits, seed=1)
    x, y = images(9, shape), torch.arange(9) % 2
    weight, bias = (torch.from_numpy(value) for value in weights_of(model))
    direction, offset = weight[1] - weight[0], bias[1] - bias[0]
    margin = (2 * y - 1) * (x.flatten(1) @ direction + offset)
    worst = margin - 0.1 * direction.abs().sum()
    attack = BIM(eps=0.1, steps=3)
    for alpha in (0.0, 0.3, 0.5, 1.0):
        losses = AdversarialTraining(attack=attack, alpha=alpha).loss(batch_of(model, x, y))
        expected = alpha * F.softplus(-margin) + (1 - alpha) * F.softplus(-worst)
        assert torch.allclose(losses, expected, rtol=1e-9)
    # PGD comes to the same point from anywhere
    losses = AdversarialTraining(attack=PGD(eps=0.1, steps=10), alpha=0).loss(batch_of(model, x, y))
    assert torch.allclose(losses, F.softplus(-worst), rtol=1e-9)
    # and the trained network's weights feel the attacked images as if these were given
    model.zero_grad()
    losses.sum().backward()  # type: ignore[no-untyped-call]
    towards = (1 - 2 * y)[:, None] * direction.sign()
    moved = x.flatten(1) + 0.1 * towards
    slope = torch.sigmoid(-worst) * (1 - 2 * y)
    expected = (slope[:, None] * moved).sum(dim=0)
    assert model.linear.weight.grad is not None
    assert torch.allclose(model.linear.weight.grad[-1], expected, rtol=1e-9)


def test_other_objectives_are_taken_of_both() -> None:
    batch = network_batch()
    attack = BIM(eps=0.05, steps=3)
    of = CrossEntropy() + LogitSqueezing(0.3)
    objective = AdversarialTraining(attack=attack, alpha=0.2, of=of)
    moved = objective.attacked(batch)
    # every pass of training moves the statistics that the attack sees
    aside = copy.deepcopy(batch.classifier)
    clean, attacked = aside(batch.x), aside(moved)
    expected = 0.2 * of(clean, batch.y) + 0.8 * of(attacked, batch.y)
    assert torch.allclose(objective.loss(batch), expected)
    batch = network_batch()
    # a term outside is of the clean images alone
    summed = AdversarialTraining(attack=attack, alpha=0.2) + LogitSqueezing(0.3)
    expected = 0.2 * F.cross_entropy(clean, batch.y, reduction="none")
    expected = expected + 0.8 * F.cross_entropy(attacked, batch.y, reduction="none")
    assert torch.allclose(summed.loss(batch), expected + 0.3 * clean.norm(dim=1))
    summed.require(batch.classifier)


def test_reverse_cross_entropy_can_be_adversarial() -> None:
    objective = AdversarialTraining(attack=BIM(eps=0.1, steps=3), of=ReverseCrossEntropy())
    assert objective.reverse_logits is True
    x, y = images(8, SHAPE), torch.arange(8) % 4
    with pytest.raises(ConfigurationError, match="reverse_logits=True"):
        objective.require(ns.Classifier(small_network(0)))
    batch = batch_of(small_network(0).eval(), x, y, reverse_logits=True)
    objective.require(batch.classifier)
    batch.classifier.eval()
    moved = objective.attacked(batch)
    # the attack makes the Classifier, negated logits and all, answer another class
    logits = batch.classifier(batch.x), batch.classifier(moved)
    before, after = (F.cross_entropy(one, y) for one in logits)
    assert after > before
    reverse = torch.full((8, 4), 1 / 3, dtype=torch.float64).scatter_(1, y[:, None], 0)
    parts = [-(reverse * torch.log_softmax(-one, dim=1)).sum(dim=1) for one in logits]
    assert torch.allclose(objective.loss(batch), 0.5 * parts[0] + 0.5 * parts[1])


def test_the_mixture_by_chance_draws_one_attack_a_sample() -> None:
    attacks = (BIM(eps=0.05, steps=2), BIM(eps=3.0, steps=2, norm="l2"))
    objective = MixedAdversarialTraining(attacks=attacks)
    drawn = []
    for seed in range(12):
        batch = network_batch()
        batch.seed = seed
        moved = objective.attacked(batch)
        # without a random start what an attack makes of a sample is certain
        candidates = [
            attack.perturb(batch.classifier, batch.x, batch.y) for attack in objective.attacks
        ]
        which = torch.stack([(moved - one).flatten(1).abs().amax(1) < 1e-9 for one in candidates])
        assert bool((which.sum(dim=0) == 1).all())
        drawn.append(which[0])
    share = torch.stack(drawn).double().mean()
    assert float(share) == pytest.approx(0.5, abs=0.1)
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])


def test_the_worst_mixture_takes_the_larger_loss() -> None:
    attacks = (BIM(eps=0.05, steps=2), BIM(eps=0.24, steps=2, norm="l2"))
    batch = network_batch(count=60)
    objective = MixedAdversarialTraining(attacks=attacks, mode="max")
    found = losses_of(batch, objective.attacked(batch))
    each = torch.stack(
        [
            losses_of(batch, attack.perturb(batch.classifier, batch.x, batch.y))
            for attack in objective.attacks
        ]
    )
    assert torch.allclose(found, each.amax(dim=0))
    # neither attack is always the worse
    assert 0 < int((each[0] > each[1]).sum()) < 60


def test_divergence_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    p, q = z.softmax(dim=2)
    expected = [
        sum(a * float(np.log(a / b)) for a, b in zip(row_p, row_q, strict=True))
        for row_p, row_q in zip(p.tolist(), q.tolist(), strict=True)
    ]
    assert divergence(p.log(), q.log()).tolist() == pytest.approx(expected, rel=1e-12)
    assert divergence(p.log(), p.log()).tolist() == [0] * 7
    variables = (z[0].clone().requires_grad_(), z[1].clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: divergence(a.log_softmax(dim=1), b.log_softmax(dim=1)), variables
    )


def test_trades_of_a_linear_model() -> None:
    """The worst margin is eps * |w|_1 above or below the clean one, whichever start it had."""
    model = LinearModel((1, 3, 3), 2, seed=1)
    x, y = images(40, (1, 3, 3)), torch.arange(40) % 2
    weight, bias = (torch.from_numpy(value) for value in weights_of(model))
    direction, offset = weight[1] - weight[0], bias[1] - bias[0]
    z = x.flatten(1) @ direction + offset
    reach = 0.05 * direction.abs().sum()

    def answers(logit: torch.Tensor) -> torch.Tensor:
        return torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], dim=1)

    clean = answers(z)
    sides = torch.stack([divergence(clean, answers(z + side * reach)) for side in (-1, 1)])
    for beta in (1.0, 6.0):
        objective = Trades(attack=PGD(eps=0.05, steps=10), beta=beta)
        losses = objective.loss(batch_of(model, x, y))
        cross_entropy = F.softplus(-(2 * y - 1) * z)
        found = (losses - cross_entropy) / beta
        near = (found - sides).abs() < 1e-9
        assert bool(near.any(dim=0).all())
        # a search that ignored its noise would not move, one that had a label would go one way
        assert bool(near.any(dim=1).all())
    assert torch.allclose(
        Trades(beta=0).loss(batch_of(model, x, y)), CrossEntropy()(batch_of(model, x, y).logits, y)
    )


def test_the_divergence_belongs_to_its_batch() -> None:
    logits = torch.zeros(4, 3)
    objective = Divergence(clean=logits.log_softmax(dim=1))
    y = torch.zeros(4, dtype=torch.int64)
    assert objective(Response(logits), y, Misclassified()).tolist() == [0, 0, 0, 0]
    moved = torch.tensor([[3.0, 0.0, 0.0]]).expand(4, 3)
    # from the clean answer to the other, which is not the same the other way round
    forward = sum(np.log((1 / 3) / p) / 3 for p in moved[0].softmax(dim=0).tolist())
    assert objective(Response(moved), y, Misclassified()).tolist() == pytest.approx([forward] * 4)
    with pytest.raises(ConfigurationError, match="leaves out no sample"):
        objective(Response(logits[:2]), y[:2], Misclassified())


# no trace


OBJECTIVES = [
    AdversarialTraining(attack=PGD(eps=0.1, steps=3), alpha=0),
    AdversarialTraining(attack=PGD(eps=0.1, steps=3), alpha=0.5),
    AdversarialTraining.fast(0.1),
    MixedAdversarialTraining(attacks=(PGD(eps=0.1, steps=2), PGD(norm="l2", steps=2)), alpha=0),
    MixedAdversarialTraining(
        attacks=(PGD(eps=0.1, steps=2), PGD(norm="l2", steps=2)), mode="max", alpha=0
    ),
    Trades(attack=PGD(eps=0.1, steps=3)),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.identity[:40])
def test_attacks_leave_no_trace_on_the_network(objective: Any) -> None:
    batch = network_batch(dropout=True)
    state = {name: value.clone() for name, value in batch.classifier.state_dict().items()}
    images_before = batch.x.clone()
    random_state = torch.get_rng_state()
    moved = objective.attacked(batch)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(batch.x, images_before)
    assert not moved.requires_grad
    assert not moved.is_inference()
    assert not torch.equal(moved, batch.x)
    assert all(torch.equal(batch.classifier.state_dict()[name], state[name]) for name in state)
    assert all(module.training for module in batch.classifier.modules())
    assert all(parameter.grad is None for parameter in batch.classifier.parameters())
    assert all(parameter.requires_grad for parameter in batch.classifier.parameters())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.identity[:40])
def test_batch_statistics_come_from_the_training_passes_alone(objective: Any) -> None:
    batch = network_batch()
    alone = copy.deepcopy(batch.classifier)
    moved = objective.attacked(batch)
    clean_too = getattr(objective, "alpha", 1) > 0
    for x in (batch.x, moved) if clean_too else (moved,):
        alone(x)
    objective.loss(batch)
    for (name, ours), expected in zip(
        batch.classifier.module.named_buffers(), alone.module.buffers(), strict=True
    ):
        assert torch.allclose(ours, expected), name


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.identity[:40])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_three_channels_float32_and_noise(objective: Any, num_classes: int) -> None:
    with seeded(0):
        module = SmallNetwork(num_classes, channels=3)
    x = Augmentation(noise=0.3)(torch.rand(12, 3, 6, 6), torch.Generator().manual_seed(0))
    y = torch.arange(12) % num_classes
    batch = batch_of(module, x, y)
    objective.require(batch.classifier)
    moved = objective.attacked(batch)
    # the ball is around the noisy image brought back into the box
    calm = batch_of(module, x.clamp(0, 1), y)
    assert torch.equal(objective.attacked(calm), moved)
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    losses = objective.loss(batch)
    assert losses.shape == (12,)
    assert losses.dtype == torch.float32
    losses.mean().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert batch.answer.shape == (12, num_classes)


# in the training loop


RECIPE = Recipe(epochs=2, batch_size=32, learning_rate=0.02, precision="fp32")


def fresh() -> ns.Classifier:
    with seeded(7):
        module = models.build("wester_a", num_classes=4, in_channels=1, size=8)
    return ns.Classifier(module, mean=0.5, std=0.5)


def test_alpha_one_is_plain_training_to_the_bit() -> None:
    plain, also_plain, hardened = fresh(), fresh(), fresh()
    train(plain, blobs(100, 0), recipe=RECIPE, progress=False)
    attack = PGD(eps=0.1, steps=2)
    for classifier, alpha in ((also_plain, 1), (hardened, 0.5)):
        objective = AdversarialTraining(attack=attack, alpha=alpha)
        train(classifier, blobs(100, 0), objective=objective, recipe=RECIPE, progress=False)
    assert weights_hash(plain) == weights_hash(also_plain)
    assert weights_hash(plain) != weights_hash(hardened)


def test_adversarial_training_resumes_to_the_bit(tmp_path: Path) -> None:
    objective = AdversarialTraining(attack=PGD(eps=0.1, steps=2), alpha=0)
    whole, part, resumed = fresh(), fresh(), fresh()
    train(whole, blobs(100, 0), objective=objective, recipe=RECIPE, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    calls: list[int] = []

    def stop(*_: object) -> None:
        calls.append(1)
        # an epoch has 4 steps of 4 passes each
        if len(calls) == 22:
            raise KeyboardInterrupt

    part.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        train(
            part, blobs(100, 0), objective=objective, recipe=RECIPE, checkpoint=path, progress=False
        )
    assert path.exists()
    other = AdversarialTraining(attack=PGD(eps=0.1, steps=3), alpha=0)
    with pytest.raises(CheckpointError, match="steps=3"):
        train(resumed, blobs(100, 0), objective=other, recipe=RECIPE, checkpoint=path)
    train(
        resumed, blobs(100, 0), objective=objective, recipe=RECIPE, checkpoint=path, progress=False
    )
    assert weights_hash(resumed) == weights_hash(whole)


# what it is good for


LINF = PGD(eps=0.15, steps=4, step_size=0.06)
STRONG = PGD(eps=0.15, steps=20)
SHOWN = 200
"""How many test images are attacked."""


def trained(digits: Digits, objective: TrainingObjective) -> ns.Classifier:
    with seeded(0):
        module = models.build("digits_cnn")
    classifier = ns.Classifier(module, mean=0.5)
    recipe = Recipe(
        epochs=5,
        batch_size=64,
        optimizer="adamw",
        learning_rate=4e-3,
        schedule="one-cycle",
        precision="fp32",
    )
    train(classifier, digits.split.train, objective=objective, recipe=recipe, progress=False)
    return classifier


def robust_accuracy(network: ns.Classifier, digits: Digits, *attacks: BoundedAttack) -> float:
    """The share of test images that none of the attacks fools."""
    x, y = digits.x[:SHOWN], digits.y[:SHOWN]
    fooled = torch.zeros(len(x), dtype=torch.bool)
    for attack in attacks:
        for objective in (None, Margin()):
            one = replace(attack, objective=objective)
            fooled |= one(network, x, y).success
    return 1 - float(fooled.double().mean())


@pytest.fixture(scope="module")
def plain(digits: Digits) -> ns.Classifier:
    return trained(digits, CrossEntropy())


@pytest.mark.parametrize(
    "objective",
    [
        AdversarialTraining(attack=LINF),
        AdversarialTraining(attack=LINF, alpha=0),
        AdversarialTraining.fast(0.15),
    ],
    ids=["half", "madry", "fast"],
)
def test_adversarial_training_raises_robust_accuracy(
    digits: Digits, plain: ns.Classifier, objective: TrainingObjective
) -> None:
    hardened = trained(digits, objective)
    clean = float((hardened.logits(digits.x).argmax(dim=1) == digits.y).double().mean())
    assert clean > 0.93
    ours, theirs = (robust_accuracy(net, digits, STRONG) for net in (hardened, plain))
    assert ours > theirs + 0.3


def test_trades_is_the_more_robust_the_larger_beta(digits: Digits, plain: ns.Classifier) -> None:
    weak, strong = (trained(digits, Trades(attack=LINF, beta=beta)) for beta in (0.2, 6.0))
    robust = [robust_accuracy(network, digits, STRONG) for network in (plain, weak, strong)]
    assert robust[1] > robust[0] + 0.15
    assert robust[2] > robust[1] + 0.1
    clean = float((strong.logits(digits.x).argmax(dim=1) == digits.y).double().mean())
    assert clean > 0.93


def test_the_mixture_holds_against_both_norms(digits: Digits, plain: ns.Classifier) -> None:
    attacks = (
        PGD(eps=0.12, steps=4, step_size=0.05),
        PGD(norm="l2", eps=0.7, steps=4, step_size=0.3),
    )
    mixed = trained(digits, MixedAdversarialTraining(attacks=attacks, alpha=0.25))
    strong = [PGD(norm=attack.norm, eps=attack.eps, steps=20) for attack in attacks]
    ours, theirs = (robust_accuracy(network, digits, *strong) for network in (mixed, plain))
    assert ours > theirs + 0.2


# what it refuses


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"attack": DDN()}, "no ball"),
        ({"attack": JSMA()}, "no ball"),
        ({"attack": "PGD"}, "takes an attack"),
        ({"attack": PGD}, "takes an attack"),
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": 1.1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": "half"}, "alpha"),
        ({"of": LogitSqueezing(0.1)}, "trained on by itself"),
        ({"of": Trades()}, "of the logits"),
        ({"of": AdversarialTraining() + LogitSqueezing(0.1)}, "of the logits"),
        ({"of": "CE"}, "of the logits"),
    ],
)
def test_adversarial_training_is_checked(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        AdversarialTraining(**settings)
    if "attack" not in settings:
        with pytest.raises(ConfigurationError, match=match):
            MixedAdversarialTraining(**settings)
    else:
        with pytest.raises(ConfigurationError, match=match):
            MixedAdversarialTraining(attacks=(PGD(), settings["attack"]))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"attacks": (PGD(),)}, "two or more"),
        ({"attacks": PGD()}, "two or more"),
        ({"mode": "mean"}, "rand or max"),
    ],
)
def test_mixtures_are_checked(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        MixedAdversarialTraining(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"attack": FGSM()}, "by PGD"),
        ({"attack": DDN()}, "by PGD"),
        ({"attack": PGD(objective=Margin())}, "leave objective out"),
        ({"beta": -1}, "beta"),
        ({"beta": float("inf")}, "beta"),
        ({"beta": "6"}, "beta"),
    ],
)
def test_trades_is_checked(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Trades(**settings)


@pytest.mark.parametrize("eps", [0, -0.1, 2, "a lot"])
def test_fast_training_is_checked(eps: Any) -> None:
    with pytest.raises(ConfigurationError, match="eps"):
        AdversarialTraining.fast(eps)


class Rounded(SmallNetwork):
    """A network that no gradient passes."""

    differentiable = False


def test_a_network_that_cannot_be_attacked_is_refused_before_the_training() -> None:
    classifier = ns.Classifier(Rounded())
    for objective in OBJECTIVES:
        with pytest.raises(UnsupportedError, match="BPDA"):
            train(classifier, blobs(20, 0), objective=objective)
