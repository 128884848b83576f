"""Objectives and terms against the reports' formulas, written out in float64; their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import notsure as ns
from notsure import models
from notsure.attacks import BIM, MIM, PGD, Margin
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.state import seeded
from notsure.training import (
    AdversarialTraining,
    Augmentation,
    CrossEntropy,
    LabelEmbedding,
    LabelSmoothing,
    LogitObjective,
    LogitSqueezing,
    MixedAdversarialTraining,
    OutputVarianceMinimization,
    Recipe,
    ReverseCrossEntropy,
    Sum,
    Trades,
    TrainingObjective,
    train,
)
from notsure.training.loop import Step
from notsure.training.objectives import Batch, reverse_cross_entropy
from tests.conftest import Digits
from tests.toys import small_network

Array = npt.NDArray[np.float64]
Reference = Callable[[Array, Array], float]


def log_softmax(z: Array) -> Array:
    shifted = z - z.max()
    result: Array = shifted - np.log(np.exp(shifted).sum())
    return result


def case(num_classes: int, count: int = 11, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float64 and labels; some classes have one sample, or none."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, num_classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, num_classes, (count,), generator=generator)


def label_smoothing(z: Array, y: int, weight: float) -> float:
    others = [i for i in range(len(z)) if i != y]
    return -weight * float(np.mean(log_softmax(z)[others]))


def embedding_of(num_classes: int) -> LabelEmbedding:
    generator = np.random.default_rng(num_classes)
    matrix = generator.random((num_classes, num_classes)) + 2 * np.eye(num_classes)
    return LabelEmbedding.from_similarity(matrix, temperature=0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_terms_are_the_formulas(num_classes: int, dtype: torch.dtype) -> None:
    logits, y = case(num_classes)
    z, labels = logits.numpy(), y.tolist()
    relative, absolute = (1e-5, 1e-6) if dtype == torch.float32 else (1e-12, 0.0)

    def check(objective: TrainingObjective, expected: list[float]) -> None:
        found = objective(logits.to(dtype), y)
        assert found.dtype == dtype
        np.testing.assert_allclose(found.double().numpy(), expected, rtol=relative, atol=absolute)

    weight = 0.3
    smooth = [label_smoothing(row, label, weight) for row, label in zip(z, labels, strict=True)]
    check(LabelSmoothing(weight), smooth)
    check(LogitSqueezing(weight), [weight * math.sqrt(sum(v * v for v in row)) for row in z])

    embedding = embedding_of(num_classes)
    check(
        embedding,
        [
            -float(np.dot(embedding.targets[label], log_softmax(row)))
            for row, label in zip(z, labels, strict=True)
        ],
    )
    cross_entropy = [-log_softmax(row)[label] for row, label in zip(z, labels, strict=True)]
    squeezed = CrossEntropy() + LabelSmoothing(weight) + LogitSqueezing(weight)
    length = [weight * float(np.linalg.norm(row)) for row in z]
    check(squeezed, [sum(parts) for parts in zip(cross_entropy, smooth, length, strict=True)])


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_output_variance_is_the_formula(num_classes: int) -> None:
    logits, y = case(num_classes, count=14)
    log_f = np.stack([log_softmax(row) for row in logits.numpy()])
    total = 0.0
    for label in range(num_classes):
        of_class = log_f[y.numpy() == label]
        if len(of_class):
            total += float(np.linalg.norm(of_class - of_class.mean(axis=0), axis=1).sum())
    term = OutputVarianceMinimization(weight=0.7)
    losses = term(logits, y)
    assert losses.mean().item() == pytest.approx(0.7 * total / 14, rel=1e-12)
    assert OutputVarianceMinimization().weight == 1
    # it belongs to the samples, in whatever order they stand
    order = torch.randperm(14, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(term(logits[order], y[order]), losses[order])


def test_a_class_of_one_sample_has_no_variance_and_no_gradient() -> None:
    logits, _ = case(5, count=4)
    logits[2] = logits[1]
    y = torch.tensor([0, 3, 3, 4])
    variable = logits.clone().requires_grad_()
    losses = OutputVarianceMinimization()(variable, y)
    # the two of class 3 are the same, so that they lie on their mean
    assert losses.tolist() == [0, 0, 0, 0]
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert variable.grad is not None
    assert torch.equal(variable.grad, torch.zeros_like(logits))


def test_squeezing_zero_logits_has_no_gradient() -> None:
    variable = torch.zeros(3, 4, requires_grad=True)
    LogitSqueezing(2.0)(variable, torch.arange(3)).sum().backward()  # type: ignore[no-untyped-call]
    assert variable.grad is not None
    assert torch.equal(variable.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize(
    "objective",
    [
        CrossEntropy(),
        ReverseCrossEntropy(),
        LabelSmoothing(0.4),
        LogitSqueezing(0.4),
        OutputVarianceMinimization(),
        CrossEntropy() + LabelSmoothing(0.4) + LogitSqueezing(0.2) + OutputVarianceMinimization(),
    ],
    ids=lambda objective: objective.name,
)
def test_gradients(objective: TrainingObjective, num_classes: int) -> None:
    logits, y = case(num_classes)
    variable = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: objective(z, y), (variable,))
    assert torch.autograd.gradcheck(lambda z: embedding_of(num_classes)(z, y), (variable,))


def test_smoothing_is_least_where_it_is_said_to_be() -> None:
    for num_classes, weight in ((3, 0.5), (10, 1.0), (10, 6.0)):
        wrong = weight / ((1 + weight) * (num_classes - 1))
        probabilities = torch.full((1, num_classes), wrong, dtype=torch.float64)
        probabilities[0, 1] = 1 / (1 + weight)
        logits = probabilities.log().requires_grad_()
        objective = CrossEntropy() + LabelSmoothing(weight)
        (gradient,) = torch.autograd.grad(objective(logits, torch.tensor([1])).sum(), logits)
        assert float(gradient.abs().max()) < 1e-12


def test_endless_smoothing_is_reverse_cross_entropy() -> None:
    logits, y = case(10)
    reverse = ReverseCrossEntropy()(-logits, y)
    gaps = []
    for weight in (1e1, 1e3, 1e5):
        # the formula itself: the term refuses a weight that a classifier cannot be trained with
        smoothed = CrossEntropy()(logits, y) + weight * reverse_cross_entropy(logits, y)
        gaps.append(float((smoothed / weight - reverse).abs().max()))
    assert gaps[0] > 0.1
    assert gaps[2] < 1e-3
    assert gaps[1] == pytest.approx(100 * gaps[2], rel=1e-6)
    # up to where it may be used, it is the term's formula
    term = LabelSmoothing(8.9)(logits, y)
    assert torch.allclose(term, 8.9 * reverse_cross_entropy(logits, y))


@pytest.mark.parametrize(("num_classes", "weight"), [(2, 1.0), (3, 2.5), (10, 9.0)])
def test_smoothing_that_turns_the_labels_round_is_refused(num_classes: int, weight: float) -> None:
    with pytest.raises(ConfigurationError, match="ReverseCrossEntropy"):
        LabelSmoothing(weight)(*case(num_classes))


@pytest.mark.parametrize("kind", [LabelSmoothing, LogitSqueezing, OutputVarianceMinimization])
@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan, "1", None])
def test_weights_are_checked(kind: Any, weight: Any) -> None:
    with pytest.raises(ConfigurationError, match="weight"):
        kind(weight)


def classifier(*, reverse_logits: bool = False) -> ns.Classifier:
    return ns.Classifier(small_network(0), reverse_logits=reverse_logits)


def test_what_can_be_trained_on() -> None:
    for term in (LabelSmoothing(0.1), LogitSqueezing(0.1), OutputVarianceMinimization()):
        with pytest.raises(ConfigurationError, match=f"CrossEntropy\\(\\) \\+ {term.name}"):
            term.require(classifier())
        with pytest.raises(ConfigurationError, match="is a term"):
            (term + LogitSqueezing(0.1)).require(classifier())
        (term + CrossEntropy()).require(classifier())
    for term in (LabelSmoothing(0.1), OutputVarianceMinimization()):
        with pytest.raises(ConfigurationError, match="reverse_logits"):
            ReverseCrossEntropy() + term
    # the length of the logits is the same either way
    (ReverseCrossEntropy() + LogitSqueezing(0.1)).require(classifier(reverse_logits=True))
    with pytest.raises(ConfigurationError, match="reverse_logits=True"):
        (ReverseCrossEntropy() + LogitSqueezing(0.1)).require(classifier())


def test_a_sum_is_of_logits_where_all_its_parts_are() -> None:
    logits, y = case(4)
    whole = CrossEntropy() + LogitSqueezing(0.5)
    assert whole.of_logits
    assert torch.allclose(whole(logits, y), CrossEntropy()(logits, y) + 0.5 * logits.norm(dim=1))
    network = classifier().double()
    x = torch.rand(5, 1, 6, 6, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0])
    batch = Batch(Step(network, x, y, 0, bf16=False), network)
    assert torch.allclose(whole.loss(batch), whole(batch.logits, y))
    mixed = AdversarialTraining() + LogitSqueezing(0.5)
    assert not mixed.of_logits
    with pytest.raises(ConfigurationError, match="batch"):
        mixed(logits, y)


def test_an_identity_tells_everything() -> None:
    nested = LabelEmbedding.from_similarity(np.eye(3), temperature=0.5)
    objectives = [
        CrossEntropy(),
        ReverseCrossEntropy(),
        CrossEntropy() + LabelSmoothing(0.1),
        CrossEntropy() + LabelSmoothing(0.2),
        CrossEntropy() + LogitSqueezing(0.1),
        CrossEntropy() + OutputVarianceMinimization(0.1),
        nested,
        LabelEmbedding.from_similarity(np.eye(3), temperature=0.4),
        AdversarialTraining(),
        AdversarialTraining(alpha=0.25),
        AdversarialTraining(of=ReverseCrossEntropy()),
        AdversarialTraining(of=CrossEntropy() + LogitSqueezing(0.1)),
        AdversarialTraining(of=CrossEntropy() + LogitSqueezing(0.2)),
        AdversarialTraining(of=nested),
        AdversarialTraining(attack=PGD(eps=0.3, steps=39)),
        AdversarialTraining(attack=PGD(eps=0.3, steps=40, norm="l2")),
        AdversarialTraining(attack=PGD(eps=0.3, steps=40, step_size=0.01)),
        AdversarialTraining(attack=PGD(eps=0.3, steps=40, objective=Margin())),
        # the same settings under another name
        AdversarialTraining(attack=BIM(eps=0.3, steps=10)),
        AdversarialTraining(attack=MIM(eps=0.3, steps=10, decay=0)),
        AdversarialTraining.fast(0.3),
        AdversarialTraining.fast(0.3, alpha=0.5),
        MixedAdversarialTraining(),
        MixedAdversarialTraining(mode="max"),
        MixedAdversarialTraining(attacks=(PGD(eps=0.3), PGD(eps=1, norm="l1"))),
        Trades(),
        Trades(beta=1),
        Trades(attack=PGD(eps=0.2)),
    ]
    assert len({objective.identity for objective in objectives}) == len(objectives)
    assert "steps=39" in AdversarialTraining(attack=PGD(steps=39)).identity
    assert AdversarialTraining().identity == AdversarialTraining().identity
    # these two train alike, as neither matters there
    lazy = AdversarialTraining(attack=PGD(eps=0.3, leap=False, early_stop=False))
    assert lazy.identity == AdversarialTraining(attack=PGD(eps=0.3)).identity


def test_a_row_of_a_label_embedding_is_the_softmax() -> None:
    matrix = [[2.0, 1.0, 0.0], [0.5, 1.5, 1.0], [0.0, -1.0, 0.25]]
    embedding = LabelEmbedding.from_similarity(matrix, temperature=0.5)
    for row, target in zip(matrix, embedding.targets, strict=True):
        expected = np.exp(log_softmax(np.array(row) / 0.5))
        np.testing.assert_allclose(target, expected, rtol=1e-12)
    # least where the network answers with the target
    logits = torch.tensor(embedding.targets, dtype=torch.float64).log().requires_grad_()
    losses = embedding(logits, torch.arange(3))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert float(gradient.abs().max()) < 1e-12
    entropy = [-sum(p * math.log(p) for p in row) for row in embedding.targets]
    assert losses.tolist() == pytest.approx(entropy)


def test_a_cold_label_embedding_is_cross_entropy() -> None:
    logits, y = case(6)
    matrix = np.random.default_rng(0).random((6, 6)) + np.eye(6)
    cold = LabelEmbedding.from_similarity(matrix, temperature=1e-5)
    assert torch.equal(torch.tensor(cold.targets), torch.eye(6))
    assert torch.allclose(cold(logits, y), CrossEntropy()(logits, y), rtol=1e-14)


class Told(nn.Module):
    """Answers with the probabilities that its images hold, whatever its mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).log()


def test_label_embedding_from_confusion_is_the_symmetrised_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(700) % 3
    answers = torch.rand(700, 3, generator=generator) + 2 * torch.eye(3)[y]
    answers = answers / answers.sum(dim=1, keepdim=True)
    told = ns.Classifier(Told()).train()
    embedding = LabelEmbedding.from_confusion(told, (answers[:, None, None, :], y), temperature=0.2)
    means = np.stack([answers[y == label].double().numpy().mean(axis=0) for label in range(3)])
    symmetric = (means + means.T) / 2
    expected = [np.exp(log_softmax(row / 0.2)) for row in symmetric]
    np.testing.assert_allclose(embedding.targets, expected, rtol=1e-6)
    assert told.training
    with pytest.raises(InputError, match="no image of class 2"):
        LabelEmbedding.from_confusion(
            told, (answers[y < 2][:, None, None, :], y[y < 2]), temperature=0.2
        )


def test_label_embedding_from_class_means_is_the_cosine(digits: Digits) -> None:
    images = digits.split.train
    means = np.stack(
        [images.x[images.y == k].double().flatten(1).numpy().mean(axis=0) for k in range(10)]
    )
    means = means - means.mean(axis=0)
    cosine = (means @ means.T) / np.outer(*[np.linalg.norm(means, axis=1)] * 2)
    embedding = LabelEmbedding.from_class_means(images, temperature=0.3)
    expected = [np.exp(log_softmax(row / 0.3)) for row in cosine]
    np.testing.assert_allclose(embedding.targets, expected, rtol=1e-6)
    same = LabelEmbedding.from_class_means((images.x, images.y), temperature=0.3)
    np.testing.assert_allclose(same.targets, embedding.targets, rtol=1e-6)
    # martin's example: an 8 is like some digits more than like others
    assert max(embedding.targets[8][:8]) > 4 * min(embedding.targets[8][:8])


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ([[1.0]], "at least 2"),
        ([[0.7, 0.3]], "K rows of K"),
        ([[0.7, 0.3], [0.5]], "K rows of K"),
        ("ab", "K rows of K"),
        ([[0.7, 0.2], [0.3, 0.7]], "sum to 1"),
        ([[1.2, -0.2], [0.3, 0.7]], "probabilities"),
        ([[0.7, 0.3], [math.nan, 0.7]], "finite"),
        ([[0.7, 0.3], [0.6, 0.4]], "target of class 1 is no larger at 1 than at class 0"),
        ([[0.5, 0.5], [0.4, 0.6]], "target of class 0"),
    ],
)
def test_label_embeddings_are_checked(targets: Any, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        LabelEmbedding(targets=targets)


def test_label_embeddings_say_what_does_not_fit() -> None:
    for temperature in (0, -1, math.inf, math.nan):
        with pytest.raises(ConfigurationError, match="temperature"):
            LabelEmbedding.from_similarity(np.eye(3), temperature=temperature)
    with pytest.raises(ConfigurationError, match="3 classes, the classifier has 4"):
        LabelEmbedding.from_similarity(np.eye(3), temperature=1)(*case(4))
    x, y = torch.rand(6, 1, 2, 2), torch.tensor([0, 0, 1, 1, 2, 2])
    x[y == 2] = x[y == 1]
    with pytest.raises(ConfigurationError, match="no larger"):
        LabelEmbedding.from_class_means((x, y), temperature=0.1)
    with pytest.raises(InputError, match="no image of class 1"):
        LabelEmbedding.from_class_means((x, y + (y > 0).long()), temperature=0.1)
    with pytest.raises(InputError, match="divide by 255"):
        LabelEmbedding.from_class_means((255 * x, y), temperature=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_gaussian_and_leaves_the_box(dtype: torch.dtype) -> None:
    x = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    noisy = Augmentation(noise=0.2)(x, torch.Generator().manual_seed(1))
    drawn = (noisy - x) / 0.2
    assert noisy.dtype == dtype
    assert abs(float(drawn.mean())) < 0.01
    assert float(drawn.std()) == pytest.approx(1, abs=0.01)
    assert float((drawn.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.01)
    assert float(noisy.min()) < -0.3
    assert float(noisy.max()) > 1.3
    assert torch.equal(noisy, Augmentation(noise=0.2)(x, torch.Generator().manual_seed(1)))
    assert not torch.equal(noisy, Augmentation(noise=0.2)(x, torch.Generator().manual_seed(2)))


def test_noise_comes_after_the_other_augmentations() -> None:
    x = torch.rand(50, 1, 8, 8)
    plain = Augmentation(crop_padding=2, flip=True)(x, torch.Generator().manual_seed(3))
    noisy = Augmentation(crop_padding=2, flip=True, noise=0.1)(x, torch.Generator().manual_seed(3))
    added = noisy - plain
    assert float(added.std()) == pytest.approx(0.1, rel=0.1)
    # the padding has noise as well
    assert bool((noisy[plain == 0] != 0).all())
    for noise in (-0.1, math.inf, math.nan):
        with pytest.raises(ConfigurationError, match="noise"):
            Augmentation(noise=noise)


def trained(digits: Digits, objective: TrainingObjective, noise: float = 0.0) -> ns.Classifier:
    with seeded(0):
        module = models.build("digits_cnn")
    found = ns.Classifier(module, mean=0.5, reverse_logits=objective.reverse_logits is True)
    recipe = Recipe(
        epochs=10,
        batch_size=64,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="one-cycle",
        precision="fp32",
        augmentation=Augmentation(noise=noise),
    )
    train(found, digits.split.train, objective=objective, recipe=recipe, progress=False)
    return found


def accuracy(network: ns.Classifier, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((network.logits(x).argmax(dim=1) == y).double().mean())


def scatter_ratio(network: ns.Classifier, x: torch.Tensor, y: torch.Tensor) -> float:
    """Squared distances of features to their class's mean over those of the means to the centre."""
    with torch.no_grad():
        features = network.logits_and_features(x)[1].double()
    centre = features.mean(dim=0)
    within = between = 0.0
    for label in range(10):
        of_class = features[y == label]
        mean = of_class.mean(dim=0)
        within += float((of_class - mean).square().sum())
        between += len(of_class) * float((mean - centre).square().sum())
    return within / between


@pytest.fixture(scope="module")
def plain(digits: Digits) -> ns.Classifier:
    return trained(digits, CrossEntropy())


def test_reverse_cross_entropy_draws_the_classes_together(
    digits: Digits, plain: ns.Classifier
) -> None:
    reverse = trained(digits, ReverseCrossEntropy())
    assert accuracy(reverse, digits.x, digits.y) > 0.95
    ours, theirs = (scatter_ratio(net, digits.x, digits.y) for net in (reverse, plain))
    assert ours < 0.8 * theirs


def test_smoothing_and_squeezing_reach_what_they_ask_for(
    digits: Digits, plain: ns.Classifier
) -> None:
    def confidence(network: ns.Classifier) -> float:
        return float(network.logits(digits.x).detach().softmax(dim=1).amax(dim=1).median())

    smooth = trained(digits, CrossEntropy() + LabelSmoothing(0.5))
    assert accuracy(smooth, digits.x, digits.y) > 0.95
    assert confidence(smooth) == pytest.approx(1 / 1.5, abs=0.05)
    assert confidence(plain) > 0.95
    squeezed = trained(digits, CrossEntropy() + LogitSqueezing(0.1))
    assert accuracy(squeezed, digits.x, digits.y) > 0.95
    long, short = (
        float(net.logits(digits.x).detach().norm(dim=1).median()) for net in (plain, squeezed)
    )
    assert short < 0.5 * long


def test_output_variance_minimization_narrows_the_answers(
    digits: Digits, plain: ns.Classifier
) -> None:
    narrow = trained(digits, CrossEntropy() + OutputVarianceMinimization())
    assert accuracy(narrow, digits.x, digits.y) > 0.9
    term = OutputVarianceMinimization()
    ours, theirs = (
        float(term(net.logits(digits.x).detach(), digits.y).mean()) for net in (narrow, plain)
    )
    assert ours < 0.3 * theirs
    # and the report's second find, that it is the more robust for it
    attack = PGD(eps=0.15, steps=20, objective=Margin())
    fooled = [
        float(attack(network, digits.x, digits.y).success.double().mean())
        for network in (plain, narrow)
    ]
    assert fooled[1] < fooled[0] - 0.07


def test_label_embedding_teaches_the_resemblance(digits: Digits) -> None:
    objective = LabelEmbedding.from_class_means(digits.split.train, temperature=0.4)
    network = trained(digits, objective)
    assert accuracy(network, digits.x, digits.y) > 0.95
    answers = network.logits(digits.x).softmax(dim=1).detach().double()
    means = torch.stack([answers[digits.y == label].mean(dim=0) for label in range(10)])
    targets = torch.tensor(objective.targets, dtype=torch.float64)
    off = ~torch.eye(10, dtype=torch.bool)
    correlation = np.corrcoef(means[off].numpy(), targets[off].numpy())[0, 1]
    assert correlation > 0.9


def test_smoothing_squeezing_and_noise_raise_robustness(
    digits: Digits, plain: ns.Classifier
) -> None:
    """Shafahi et al. 2019, lemesle figure 5: under PGD, with the loss of the logits' margin."""
    objective = CrossEntropy() + LabelSmoothing(0.5) + LogitSqueezing(0.3)
    hardened = trained(digits, objective, noise=0.3)
    attack = PGD(eps=0.15, steps=20, objective=Margin())
    fooled = [
        float(attack(network, digits.x, digits.y).success.double().mean())
        for network in (plain, hardened)
    ]
    assert fooled[1] < fooled[0] - 0.2


def test_every_objective_is_a_function_of_its_samples(digits: Digits) -> None:
    """None of those that say nothing of the batch depends on a sample's neighbours."""
    logits, y = case(10, count=20)
    objectives: list[LogitObjective | Sum] = [
        CrossEntropy(),
        ReverseCrossEntropy(),
        LabelSmoothing(0.3),
        LogitSqueezing(0.3),
        embedding_of(10),
    ]
    for objective in objectives:
        alone = torch.cat([objective(logits[i : i + 1], y[i : i + 1]) for i in range(20)])
        assert torch.allclose(objective(logits, y), alone, rtol=1e-12)
