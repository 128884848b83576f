"""The SVM on logits against scikit-learn, and what it makes of adversarial digits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from torch import nn

import notsure as ns
from notsure.attacks import BIM, FGSM, PGD, DeepFool
from notsure.core.errors import ConfigurationError, InputError, NotFittedError
from notsure.correctors import LogitSVM
from notsure.correctors.logit_svm import votes_of
from notsure.detectors import Confidence
from notsure.observation import Observation
from tests.conftest import Digits
from tests.toys import images, small_network


def observed(logits: torch.Tensor) -> Observation:
    """An observation with these logits."""
    return Observation(logits[:, :, None, None], ns.Classifier(nn.Flatten()), features=False)


def examples(
    num_classes: int, count: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean and attacked logits and true labels: the true class is second, or hard to tell."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % num_classes
    rows = torch.arange(count)
    noise = torch.randn(count, num_classes, generator=generator, dtype=torch.float64)
    clean = noise.clone()
    clean[rows, y] += 20
    attacked = 5 * noise + 30
    attacked[rows, y] += 6
    attacked[rows, (y + 1) % num_classes] += 8
    return clean, attacked, y


def learnt(machine: LogitSVM, num_classes: int, count: int = 240, **given: Any) -> LogitSVM:
    clean, attacked, y = examples(num_classes, count)
    success = given.get("success", torch.ones(count, dtype=torch.bool))
    for rows in torch.split(torch.arange(count), 77):
        machine.learn(observed(clean[rows]), observed(attacked[rows]), y[rows], success[rows])
    machine.finish_learning(num_classes)
    return machine


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": "rbf"},
        {"kernel": "rbf", "C": 30.0, "gamma": 0.05},
        {"kernel": "linear", "C": 0.3},
    ],
)
def test_it_is_scikit_learns_machine(num_classes: int, settings: dict[str, Any]) -> None:
    _, attacked, y = examples(num_classes, 240)
    centre, scale = attacked.numpy().mean(axis=0), attacked.numpy().std(axis=0)
    reference = SVC(**{"gamma": 1 / num_classes, **settings}, decision_function_shape="ovr")
    reference.fit((attacked.numpy() - centre) / scale, y.numpy())
    machine = learnt(LogitSVM(**settings), num_classes)
    _, other, _ = examples(num_classes, 500, seed=1)
    points = (other.numpy() - centre) / scale
    found = machine.correct(observed(other))
    assert found.shape == (500, num_classes)
    theirs = reference.decision_function(points)
    if num_classes == 2:
        # scikit-learn gives the one decision, for the second class
        assert np.allclose(machine.decisions(other)[:, 0].numpy(), -theirs, atol=1e-8)
        assert np.array_equal((found[:, 1] > found[:, 0]).numpy(), theirs > 0)
    else:
        assert np.allclose(found.numpy(), theirs, atol=1e-8)
        reference.decision_function_shape = "ovo"
        pairwise = reference.decision_function(points)
        assert np.allclose(machine.decisions(other).numpy(), pairwise, atol=1e-8)
    answers = found.argmax(dim=1).numpy()
    # without break_ties, scikit-learn gives equal votes to the class that comes first
    assert np.mean(answers == reference.predict(points)) > (0.9 if num_classes > 2 else 0.999)
    reference.decision_function_shape, reference.break_ties = "ovr", True
    assert np.array_equal(answers, reference.predict(points))
    # it is worth comparing: neither trivial nor guessing
    _, _, truth = examples(num_classes, 500, seed=1)
    assert 0.4 < np.mean(answers == truth.numpy()) < 1


def test_votes_add_up_and_shares_do_not_outweigh_them() -> None:
    decisions = torch.tensor([[2.0, 1e6, -3.0], [-1.0, -1e6, -1e6], [0.0, 0.0, 0.0]])
    scores = votes_of(decisions.double(), 3)
    assert scores.round().tolist() == [[2, 0, 1], [0, 1, 2], [2, 1, 0]]
    assert float((scores - scores.round()).abs().max()) < 1 / 3
    total = torch.tensor([2 + 1e6, -2 - 3.0, -1e6 + 3]).double()
    assert torch.allclose((scores - scores.round())[0], total / (3 * (total.abs() + 1)))


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_scores_are_differentiable_down_to_the_image(num_classes: int, kernel: Any) -> None:
    classifier = ns.Classifier(small_network(3, num_classes=num_classes))
    x, y = images(120, (1, 6, 6), seed=1), torch.arange(120) % num_classes
    machine = LogitSVM(kernel=kernel)
    clean = observed(torch.nn.functional.one_hot(y, num_classes).double() * 9)
    machine.learn(clean, Observation(x, classifier), y, torch.ones(120, dtype=torch.bool))
    machine.finish_learning(num_classes)
    point = images(3, (1, 6, 6), seed=2).requires_grad_()

    def score(image: torch.Tensor) -> torch.Tensor:
        return machine.correct(Observation(image, classifier))

    (gradient,) = torch.autograd.grad(score(point)[:, 0].sum(), point)
    assert bool((gradient.flatten(1).norm(dim=1) > 1e-6).all())
    assert torch.autograd.gradcheck(score, (point,), atol=1e-5)


def test_single_precision_is_close() -> None:
    machine = learnt(LogitSVM(), 10)
    _, other, _ = examples(10, 300, seed=1)
    exact, rounded = machine.correct(observed(other)), machine.correct(observed(other.float()))
    assert rounded.dtype == torch.float32
    same = exact.round() == rounded.round()
    assert float(same.double().mean()) > 0.999
    assert torch.allclose(exact[same].float(), rounded[same], atol=1e-4)


def test_only_examples_that_fooled_the_classifier_count() -> None:
    clean, attacked, y = examples(3, 240)
    machine = learnt(LogitSVM(), 3)
    other = LogitSVM()
    generator = torch.Generator().manual_seed(5)
    junk = 100 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    right, wrong = clean[:60], clean[:60].roll(1, dims=1)
    yes, no = torch.ones(60, dtype=torch.bool), torch.zeros(60, dtype=torch.bool)
    # neither what failed nor what was wrong to begin with
    other.learn(observed(right), observed(junk), y[:60], no)
    other.learn(observed(wrong), observed(junk), y[:60], yes)
    other.learn(observed(clean), observed(attacked), y, torch.ones(240, dtype=torch.bool))
    other.finish_learning(3)
    assert torch.equal(other.vectors, machine.vectors)
    assert torch.equal(other.weights, machine.weights)
    assert torch.equal(other.centre, machine.centre)


def test_a_limit_takes_examples_from_everywhere() -> None:
    limited = learnt(LogitSVM(limit=5), 3)
    # of 80 examples of each class the numbers 0, 20, 40, 59 and 79, classes taking turns
    kept = torch.tensor([0, 20, 40, 59, 79])
    taken = torch.zeros(240, dtype=torch.bool)
    taken[torch.cat([3 * kept + number for number in range(3)])] = True
    by_hand = learnt(LogitSVM(limit=None), 3, success=taken)
    assert torch.allclose(limited.centre, by_hand.centre)
    _, other, _ = examples(3, 50, seed=1)
    assert torch.allclose(limited.decisions(other), by_hand.decisions(other), atol=1e-2)


def test_a_logit_that_never_changes_does_no_harm() -> None:
    """One logit is read as two, of which the first is 0."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(100) % 2
    values = torch.randn(100, generator=generator, dtype=torch.float64) + 4.0 * (1 - y)
    logits = torch.stack([torch.zeros(100, dtype=torch.float64), values], dim=1)
    machine = LogitSVM()
    clean = observed(torch.nn.functional.one_hot(y, 2).double() * 9)
    machine.learn(clean, observed(logits), y, torch.ones(100, dtype=torch.bool))
    machine.finish_learning(2)
    found = machine.correct(observed(logits))
    assert bool(torch.isfinite(found).all())
    assert float((found.argmax(dim=1) == y).double().mean()) > 0.9


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"kernel": "sigmoid"}, "rbf or linear"),
        ({"C": 0.0}, "C has to be > 0"),
        ({"C": math.nan}, "C has to be > 0"),
        ({"gamma": -1.0}, "gamma has to be > 0"),
        ({"kernel": "linear", "gamma": 1.0}, "belongs to the kernel"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        LogitSVM(**settings)


def test_what_is_missing_is_named(digits: Digits) -> None:
    clean, attacked, y = examples(4, 80)
    machine = LogitSVM()
    with pytest.raises(NotFittedError, match="not fitted"):
        machine.correct(observed(clean))
    machine.learn(observed(clean), observed(attacked), y, (y == 0) | (y == 3))
    with pytest.raises(InputError, match=r"true class is 1, 2 \(of 4\).*stronger attack"):
        machine.finish_learning(4)
    guard = ns.Guard(digits.guard.classifier, [Confidence()], corrector=LogitSVM())
    with pytest.raises(ConfigurationError, match=r"attack=.*FGSM"):
        guard.fit(digits.split.train)
    with pytest.raises(InputError, match="true class is"):
        guard.fit(digits.split.train, attack=FGSM(eps=1e-4))


@pytest.fixture(scope="module")
def guard(digits: Digits) -> ns.Guard:
    guard = ns.Guard(digits.guard.classifier, [Confidence()], corrector=LogitSVM(C=10.0))
    guard.fit(digits.split.train, attack=FGSM(eps=0.15))
    return guard.calibrate(digits.split.calibration, fpr=0.05)


@pytest.mark.parametrize("attack", [FGSM(eps=0.15), FGSM(eps=0.1), BIM(eps=0.15), DeepFool()])
def test_it_corrects_what_is_flagged(guard: ns.Guard, digits: Digits, attack: Any) -> None:
    """Figure 14 of martin 9.3: also under attacks that it was not trained on."""
    x, y = digits.x, digits.y
    found = attack(guard.classifier, x, y)
    verdict = guard.judge(found.x)
    assert bool(verdict.accepted.all())
    assert not bool((verdict.label == ns.NOT_SURE).any())
    corrected = verdict.corrected & found.success
    assert int(corrected.sum()) > 20
    with torch.no_grad():
        base = guard.classifier.logits(found.x).argmax(dim=1)
    assert not bool((base[corrected] == y[corrected]).any())
    # of which the classifier has none right
    assert float((verdict.label[corrected] == y[corrected]).double().mean()) > 0.6
    rest = ~verdict.corrected
    assert torch.equal(verdict.label[rest], base[rest])


def test_clean_images_lose_little(guard: ns.Guard, digits: Digits) -> None:
    with torch.no_grad():
        base = guard.classifier.logits(digits.x).argmax(dim=1)
    before = float((base == digits.y).double().mean())
    after = float((guard.judge(digits.x).label == digits.y).double().mean())
    assert after > before - 0.04


def test_saved_and_loaded_it_judges_the_same(
    guard: ns.Guard, digits: Digits, tmp_path: Path
) -> None:
    guard.save(tmp_path)
    again = ns.Guard.load(tmp_path)
    x = FGSM(eps=0.2)(guard.classifier, digits.x, digits.y).x
    ours, theirs = guard.judge(x), again.judge(x)
    assert bool(ours.corrected.any())
    assert torch.equal(ours.label, theirs.label)
    assert torch.equal(ours.margin, theirs.margin)
    assert torch.equal(ours.corrected, theirs.corrected)
    found = again.respond(x).logits
    assert torch.equal(found, guard.respond(x).logits)


def test_an_attack_goes_through_it(guard: ns.Guard, digits: Digits) -> None:
    x, y = digits.x[:80], digits.y[:80]
    oblivious = PGD(eps=0.15, steps=40)(guard.classifier, x, y)
    blind = guard.judge(oblivious.x).label != y
    found = PGD(eps=0.15, steps=40)(guard, x, y)
    fooled = guard.judge(found.x).label != y
    assert torch.equal(found.success, fooled)
    assert int(fooled.sum()) > int(blind.sum()) + 10
    # and where it corrects, too
    assert bool((guard.judge(found.x).corrected & fooled).any())
