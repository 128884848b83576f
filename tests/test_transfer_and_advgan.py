"""Attacks by way of a substitute, where a substitute is from, and learnt perturbations."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import notsure as ns
from notsure.attacks import (
    BIM,
    FGSM,
    ILCM,
    PGD,
    Attack,
    AutoAttack,
    LeastLikely,
    Misclassified,
    NaturalEvolution,
    RandomNoise,
    Square,
    Targeted,
    Undetected,
)
from notsure.attacks.base import Budget
from notsure.attacks.generative import AdvGAN, FittedAdvGAN
from notsure.attacks.generator import Generator
from notsure.attacks.geometry import Linf, norm_named
from notsure.attacks.minimal import DDN
from notsure.attacks.problem import Precision, Problem
from notsure.attacks.transfer import Distilled, Transfer, distill
from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    DeadlineError,
    InputError,
    NotFittedError,
    UnsupportedError,
)
from notsure.core.state import seeded, weights_hash
from notsure.core.stopping import stopping
from notsure.core.storage import load_tensors, save_tensors
from notsure.core.target import NOT_SURE, Access, Response
from tests.conftest import Digits
from tests.toys import LinearModel, SmallNetwork, images, small_network

SHAPE = (1, 6, 6)


class Dense(nn.Module):
    """A network of another kind than the convolutional ones, quick to train."""

    def __init__(self, size: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(size, 96), nn.ReLU(), nn.Linear(96, num_classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


@pytest.fixture(scope="module")
def substitute(digits: Digits) -> ns.Classifier:
    """Trained on the digits as the guard's classifier was, from another seed."""
    with seeded(7):
        classifier = ns.Classifier(Dense(), mean=0.5, std=0.5)
    recipe = ns.training.Recipe(
        epochs=25, batch_size=64, optimizer="adamw", learning_rate=3e-3, seed=7
    )
    ns.training.train(classifier, digits.split.train, recipe=recipe, progress=False)
    return classifier


def toy(seed: int, num_classes: int = 4) -> tuple[ns.Classifier, torch.Tensor, torch.Tensor]:
    classifier = ns.Classifier(small_network(seed, num_classes=num_classes), mean=0.4, std=0.3)
    x = images(9, SHAPE, seed=seed)
    y = classifier.logits(x).argmax(dim=1).detach()
    y[0] = (y[0] + 1) % max(2, num_classes)
    return classifier, x, y


def sibling(classifier: ns.Classifier) -> ns.Classifier:
    """A network that is not quite the same."""
    other = copy.deepcopy(classifier)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + 0.1 * noise.to(parameter.dtype))
    return other


def share(success: torch.Tensor) -> float:
    return float(success.double().mean())


class Watched:
    """Shows what its access says, counts the images it is asked about, and keeps them."""

    rejects: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __init__(self, of: nn.Module, access: Access = Access.DECISIONS) -> None:
        self.view = (ns.DecisionsOnly if access == Access.DECISIONS else ns.ScoresOnly)(of)
        self.access, self.asked = access, 0
        self.kept: list[torch.Tensor] = []

    def respond(self, x: torch.Tensor) -> Response:
        if x.requires_grad:
            raise ArithmeticError("a gradient was asked for")
        self.asked += len(x)
        self.kept.append(x.clone())
        return self.view.respond(x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.respond(x).logits

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x),), -torch.inf)


@dataclass(frozen=True, kw_only=True)
class Spy(Attack):
    """Keeps the problem that it was given, and proposes the clean images."""

    needs = Access.DECISIONS
    confidence: float = 0.0
    precision: Precision = "fp32"
    seen: ClassVar[list[Problem]] = []

    @property
    def search_precision(self) -> Precision:
        return self.precision

    def search(self, problem: Problem) -> torch.Tensor:
        Spy.seen.append(problem)
        return problem.x


# Transfer


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("kind", [FGSM, BIM, ILCM])
def test_a_transfer_to_itself_is_the_attack_itself(kind: Any, early_stop: bool) -> None:
    classifier, x, y = toy(3)
    # by default to its end, whatever the attack's own setting
    attack = kind(eps=0.15, early_stop=not early_stop)
    carried = Transfer(attack=attack, substitute=classifier, early_stop=early_stop)
    found = carried(classifier, x, y, seed=4)
    white_box = replace(attack, early_stop=early_stop)(classifier, x, y, seed=4)
    assert int(found.success.sum()) > 1
    assert torch.equal(found.x, white_box.x)
    assert torch.equal(found.success, white_box.success)
    assert Transfer(attack=attack, substitute=classifier).attack == replace(
        attack, early_stop=False
    )
    # the target was asked about the clean image and never for a gradient
    assert bool((found.queries == 1).all())
    assert bool((found.gradients == 0).all())


def test_what_transfers_lies_between_noise_and_white_box(
    digits: Digits, substitute: ns.Classifier
) -> None:
    target, x, y = digits.guard.classifier, digits.x, digits.y
    attack = PGD(eps=0.2, steps=20, leap=False)
    carried = Transfer(attack=attack, substitute=substitute)
    transferred = share(carried(target, x, y).success)
    assert transferred > 3 * share(RandomNoise(eps=0.2)(target, x, y).success)
    assert transferred <= share(attack(target, x, y).success)
    # stopping at the substitute's boundary is what transfers badly
    stopped = Transfer(attack=attack, substitute=substitute, early_stop=True)(target, x, y)
    assert transferred > share(stopped.success) + 0.1


def test_a_minimum_norm_attack_transfers_by_its_confidence(
    digits: Digits, substitute: ns.Classifier
) -> None:
    target, x, y = digits.guard.classifier, digits.x[:150], digits.y[:150]
    shares = []
    for confidence in (0.0, 8.0):
        attack = DDN(confidence=confidence, steps=30)
        found = Transfer(attack=attack, substitute=substitute)(target, x, y)
        shares.append(share(found.success))
        # the margin is asked of the substitute, not of the target
        margin_free = target.logits(found.x).argmax(dim=1) != y
        assert torch.equal(margin_free, found.success)
    assert shares[1] > shares[0] + 0.2


def test_wanted_labels_are_kept(digits: Digits, substitute: ns.Classifier) -> None:
    target, x, y = digits.guard.classifier, digits.x[:200], digits.y[:200]
    wanted = (y + 1) % 10
    carried = Transfer(attack=PGD(eps=0.4), substitute=substitute)
    found = carried(target, x, y, goal=Targeted(label=wanted), batch_size=64)
    reached = target.logits(found.x).argmax(dim=1)
    assert share(found.success) > 0.3
    assert torch.equal(reached == wanted, found.success)


def test_the_problem_on_the_substitute() -> None:
    target, x, y = toy(1)
    other = ns.Classifier(small_network(2))
    Spy.seen.clear()
    for goal in (LeastLikely(), Undetected(Misclassified()), Misclassified(confidence=0.25)):
        Transfer(attack=Spy(confidence=0.2), substitute=other)(target, x, y, goal=goal)
    least, bare, confident = Spy.seen
    logits = target.logits(x).detach()
    wrong = logits.argmax(dim=1) != y
    assert bool(wrong[0])
    # there is nothing to do for whom the target gets wrong, not for whom the substitute does
    assert torch.equal(bare.untouched, wrong)
    assert not torch.equal(bare.untouched, bare.clean.prediction != y)
    # the labels are the target's, for it is judged by them
    assert torch.equal(least.labels, LeastLikely().labels(logits, y))
    assert not torch.equal(least.labels, LeastLikely().labels(least.clean.logits, y))
    # nobody rejects there
    assert bare.goal == Misclassified(confidence=0.2)
    assert confident.goal == Misclassified(confidence=0.25)
    for problem in Spy.seen:
        assert torch.equal(problem.y, y)
        assert problem.target is other


def test_a_substitute_that_rejects_has_to_accept(digits: Digits) -> None:
    Spy.seen.clear()
    x, y = digits.x[:5], digits.y[:5]
    Transfer(attack=Spy(), substitute=digits.guard)(digits.guard, x, y)
    Transfer(attack=Spy(), substitute=digits.guard)(digits.guard.classifier, x, y)
    assert Spy.seen[0].goal == Undetected(Misclassified())
    assert Spy.seen[1].goal == Misclassified()
    demanding = Undetected(Misclassified(), slack=0.5)
    Transfer(attack=Spy(), substitute=digits.guard)(digits.guard, x, y, goal=demanding)
    assert Spy.seen[2].goal == demanding


def test_the_attack_keeps_its_precision_on_the_substitute() -> None:
    target, x, y = toy(1)
    Spy.seen.clear()
    for precision in ("fp32", "bf16"):
        Transfer(attack=Spy(precision=precision), substitute=target)(target, x, y)
    assert [problem.precision for problem in Spy.seen] == ["fp32", "bf16"]


def test_every_ball_can_be_changed() -> None:
    target, _, _ = toy(1)
    for attack in (PGD(eps=0.1), Square(eps=0.1), AutoAttack(eps=0.1)):
        changed = Transfer(attack=attack, substitute=target).with_eps("51/255")
        assert changed.budget is not None
        assert changed.budget.eps == pytest.approx(0.2)
    with pytest.raises(ConfigurationError, match="no eps"):
        Transfer(attack=DDN(), substitute=target).with_eps(0.2)


def test_against_a_guard_success_is_wrong_and_accepted(
    digits: Digits, substitute: ns.Classifier
) -> None:
    x, y = digits.x[:200], digits.y[:200]
    found = Transfer(attack=PGD(eps=0.15), substitute=substitute)(digits.guard, x, y)
    verdict = digits.guard.judge(found.x)
    assert torch.equal(found.success, verdict.accepted & (verdict.prediction != y))
    assert bool(found.success.any())


def test_nothing_but_the_decision_is_asked_of_the_target() -> None:
    classifier, x, y = toy(3)
    target = Watched(classifier)
    found = Transfer(attack=PGD(eps=0.3), substitute=classifier)(target, x, y)
    assert share(found.success) > 0.5
    # once for the attacker and once for the judge
    assert target.asked == 2 * len(x)
    with pytest.raises(UnsupportedError, match="Transfer"):
        PGD(eps=0.3)(target, x, y)


def shifted(model: LinearModel, by: float) -> ns.Classifier:
    """The same network with its decision boundary moved."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.linear.bias[0] += by
    return ns.Classifier(moved)


def test_what_did_not_fool_the_substitute_is_proposed() -> None:
    model = LinearModel(SHAPE, 2, seed=1)
    target = ns.Classifier(model)
    x = images(40, SHAPE, seed=1)
    y = torch.zeros(40, dtype=torch.int64)
    x = x[target.logits(x).argmax(dim=1) == 0]
    y = y[: len(x)]
    stubborn = shifted(model, 15.0)
    attack = PGD(eps=0.2)
    assert not bool(attack(stubborn, x, y).success.any())
    found = Transfer(attack=attack, substitute=stubborn)(target, x, y)
    assert share(found.success) == share(attack(target, x, y).success) > 0.5


def test_what_the_substitute_gets_wrong_anyway_is_attacked() -> None:
    model = LinearModel(SHAPE, 2, seed=1)
    target = ns.Classifier(model)
    x = images(40, SHAPE, seed=1)
    x = x[target.logits(x).argmax(dim=1) == 0]
    y = torch.zeros(len(x), dtype=torch.int64)
    mistaken = shifted(model, -15.0)
    attack = PGD(eps=0.2)
    found = Transfer(attack=attack, substitute=mistaken)(target, x, y)
    assert share(found.success) == share(attack(target, x, y).success) > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_transferred_sample_does_not_feel_its_batch(dtype: torch.dtype) -> None:
    target, x, y = toy(4)
    target, x = target.to(dtype), x.to(dtype)
    attack = Transfer(attack=PGD(eps=0.3, restarts=2), substitute=sibling(target))
    together = attack(target, x, y, seed=3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = attack(target, x[order], y[order], seed=3, batch_size=4)
    assert int(together.success.sum()) > 1
    assert together.x.dtype == dtype
    assert torch.allclose(shuffled.x, together.x[order], atol=1e-6)
    assert not torch.equal(attack(target, x, y, seed=4).x, together.x)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 10])
def test_transfer_between_networks_of_any_number_of_classes(num_classes: int) -> None:
    target, x, y = toy(6, num_classes=num_classes)
    found = Transfer(attack=PGD(eps=0.5), substitute=sibling(target))(target, x, y)
    assert torch.equal(found.success, target.logits(found.x).argmax(dim=1) != y)
    assert int(found.success.sum()) > 3
    assert bool(found.success[0])
    assert float(found.distance["l2"][0]) == 0


def test_a_query_attack_has_the_substitute_to_itself() -> None:
    target, x, y = toy(3)
    view = ns.ScoresOnly(target)
    attack = replace(BIM(eps=0.15, steps=5), gradient=NaturalEvolution(samples=20, sigma=1e-4))
    found = Transfer(attack=attack, substitute=view)(target, x, y)
    assert int(found.success.sum()) > 1
    assert bool((found.queries == 1).all())


def test_a_transfer_is_known_by_attack_and_substitute() -> None:
    target, _, _ = toy(1)
    one = Transfer(attack=PGD(eps=0.1), substitute=target)
    assert json.loads(json.dumps(one.settings())) == one.settings()
    same = Transfer(attack=PGD(eps="1/10"), substitute=copy.deepcopy(target))
    assert same.identity == one.identity
    others = [
        Transfer(attack=PGD(eps=0.2), substitute=target),
        Transfer(attack=BIM(eps=0.1, steps=40), substitute=target),
        Transfer(attack=PGD(eps=0.1), substitute=target, early_stop=True),
        Transfer(attack=PGD(eps=0.1), substitute=ns.Classifier(target.module)),
        Transfer(attack=PGD(eps=0.1), substitute=ns.Classifier(small_network(9), 0.4, 0.3)),
        PGD(eps=0.1, early_stop=False),
    ]
    assert len({attack.identity for attack in (one, *others)}) == 1 + len(others)
    assert one.name == "Transfer(PGD)"
    assert one.budget == Budget(Linf(), 0.1)
    assert one.with_eps(0.2).identity == others[0].identity
    assert one == replace(one)
    assert one != others[0]


def test_a_transfer_leaves_no_trace_on_the_substitute() -> None:
    target, x, y = toy(1)
    other = ns.Classifier(small_network(2)).train()
    state = {name: value.clone() for name, value in other.state_dict().items()}
    Transfer(attack=PGD(eps=0.2), substitute=other)(target, x, y)
    assert all(module.training for module in other.modules())
    assert all(torch.equal(state[name], value) for name, value in other.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in other.parameters())


def test_what_cannot_be_transferred_is_refused(digits: Digits) -> None:
    target, x, y = toy(1)
    with pytest.raises(ConfigurationError, match="PGD"):
        Transfer(attack="pgd", substitute=target)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="scores only"):
        Transfer(attack=PGD(eps=0.1), substitute=ns.ScoresOnly(target))
    with pytest.raises(UnsupportedError, match=r"torch\.nn\.Module"):
        Transfer(attack=PGD(eps=0.1), substitute="resnet")  # type: ignore[arg-type]
    fewer = ns.Classifier(small_network(1, num_classes=3))
    known = y < 3
    with pytest.raises(ConfigurationError, match="3 classes apart, the target 4"):
        Transfer(attack=PGD(eps=0.1), substitute=fewer)(target, x[known], y[known])
    wide = ns.Classifier(ns.models.build("digits_cnn", in_channels=3))
    with pytest.raises(InputError, match="3-channel"):
        Transfer(attack=PGD(eps=0.1), substitute=wide)(digits.guard, digits.x[:3], digits.y[:3])
    with pytest.raises(ConfigurationError, match="no eps"):
        Transfer(attack=DDN(), substitute=target).with_eps(0.1)


# distillation


@pytest.fixture(scope="module")
def taught(digits: Digits) -> dict[Access, tuple[Distilled, Watched]]:
    """Substitutes that were taught by scores and by labels."""
    found = {}
    for access in (Access.SCORES, Access.DECISIONS):
        target = Watched(digits.guard.classifier, access)
        x = digits.split.train.x
        found[access] = (
            distill(target, x, epochs=12, batch_size=64, learning_rate=3e-3, seed=1),
            target,
        )
    return found


@pytest.mark.parametrize(
    ("access", "least"), [(Access.SCORES, 0.9), (Access.DECISIONS, 0.85)], ids=["scores", "labels"]
)
def test_a_distilled_substitute_agrees_with_its_teacher(
    digits: Digits, taught: dict[Access, tuple[Distilled, Watched]], access: Access, least: float
) -> None:
    found, target = taught[access]
    assert found.agreement > least
    # on images that neither distillation nor its own check has seen
    theirs = digits.guard.classifier.logits(digits.x).argmax(dim=1)
    ours = found.classifier.logits(digits.x).argmax(dim=1)
    assert share(ours == theirs) > least
    assert found.queries == target.asked == len(digits.split.train)
    assert found.unanswered == 0
    assert len(found.history) == 12
    assert found.history[-1] < found.history[0] / 4
    assert not any(module.training for module in found.classifier.modules())


def test_attacks_on_the_distilled_substitute_transfer(
    digits: Digits, taught: dict[Access, tuple[Distilled, Watched]]
) -> None:
    target, x, y = digits.guard.classifier, digits.x, digits.y
    attack = Transfer(
        attack=PGD(eps=0.2, steps=20), substitute=taught[Access.DECISIONS][0].classifier
    )
    found = attack(Watched(target), x, y)
    assert share(found.success) > 3 * share(RandomNoise(eps=0.2)(target, x, y).success)


def linear_case(num_logits: int = 3) -> tuple[ns.Classifier, LinearModel, torch.Tensor]:
    teacher = LinearModel((1, 3, 3), num_logits, seed=3)
    with torch.no_grad():
        teacher.linear.weight.mul_(2)
        teacher.linear.bias.mul_(2)
    return (
        ns.Classifier(teacher),
        LinearModel((1, 3, 3), num_logits, seed=4),
        images(400, (1, 3, 3), seed=5),
    )


@pytest.mark.parametrize("temperature", [1.0, 5.0])
@pytest.mark.parametrize("num_logits", [1, 3])
def test_scores_teach_the_probabilities(num_logits: int, temperature: float) -> None:
    teacher, student, x = linear_case(num_logits)
    training: dict[str, Any] = {"epochs": 80, "batch_size": 40, "learning_rate": 0.1}
    before = weights_hash(student)
    found = distill(teacher, x, student=student, temperature=temperature, **training)
    with torch.no_grad():
        theirs = teacher.logits(x).softmax(dim=1)
        ours = found.classifier.logits(x).softmax(dim=1)
    assert float((ours - theirs).abs().max()) < 0.05
    assert found.agreement > 0.95
    assert found.classifier.logits(x).dtype == torch.float64
    # what was given is a pattern, not the pupil
    assert weights_hash(student) == before
    assert found.classifier.module is not student
    labels = distill(ns.DecisionsOnly(teacher), x, student=student, **training)
    with torch.no_grad():
        ours = labels.classifier.logits(x).softmax(dim=1)
    # labels do not tell how sure the teacher is
    assert float((ours - theirs).abs().max()) > 0.1


@pytest.mark.parametrize("access", [Access.SCORES, Access.DECISIONS])
def test_augmentation_follows_the_sign_of_the_label_s_gradient(access: Access) -> None:
    teacher, student, x = linear_case()
    target = Watched(teacher, access)
    # the student stays as it is, so that where it sends the images is known
    found = distill(
        target,
        x,
        student=student,
        epochs=1,
        rounds=2,
        step=0.05,
        held_out=0.25,
        learning_rate=1e-12,
        batch_size=1000,
    )
    held, first, second, third = target.kept
    assert [len(part) for part in target.kept] == [100, 300, 300, 600]
    assert found.queries == target.asked == 1300
    assert len(found.history) == 3
    asked = torch.cat([held, first]).flatten(1)
    assert torch.equal(asked.sort(dim=0).values, x.flatten(1).sort(dim=0).values)
    for start, moved in ((first, second), (torch.cat([first, second]), third)):
        labels = teacher.logits(start).argmax(dim=1)
        with torch.no_grad():
            weight = student.linear.weight
            average = student(start).softmax(dim=1) @ weight
        expected = (start + 0.05 * (weight[labels] - average).sign().view_as(start)).clamp(0, 1)
        assert torch.allclose(moved, expected, atol=1e-9)


def test_not_sure_teaches_nothing(digits: Digits) -> None:
    classifier = digits.guard.classifier
    x = digits.split.train.x

    def unsure_of_the_upper_half(batch: torch.Tensor) -> torch.Tensor:
        labels = classifier.logits(batch).argmax(dim=1)
        return torch.where(labels >= 5, NOT_SURE, labels)

    upper = unsure_of_the_upper_half(x) == NOT_SURE
    target = ns.DecisionsOnly(unsure_of_the_upper_half, num_classes=10)
    found = distill(target, x, student=Dense(), epochs=20, learning_rate=3e-3, batch_size=64)
    assert found.queries == len(x)
    assert found.unanswered == int(upper.sum())
    assert found.agreement > 0.9
    # a view shows no logit where it is NOT SURE, whose argmax is 0: that must not be learnt
    told = found.classifier.logits(x[upper]).argmax(dim=1)
    assert share(told == 0) < 0.5
    nothing = ns.DecisionsOnly(lambda batch: torch.full((len(batch),), NOT_SURE), num_classes=10)
    with pytest.raises(InputError, match="NOT SURE about 50 of 50"):
        distill(nothing, x[:50])


def test_distillation_is_a_function_of_its_seed_and_leaves_no_trace() -> None:
    module = small_network(1)
    target = ns.Classifier(module).train()
    x = images(60, SHAPE)
    random_state = torch.get_rng_state()
    state = {name: value.clone() for name, value in target.state_dict().items()}
    # dropout and batch normalisation in the student, too
    pattern = small_network(2)
    found = [
        distill(target, x, student=pattern, epochs=2, rounds=1, batch_size=20, seed=seed)
        for seed in (0, 0, 1)
    ]
    hashes = [weights_hash(one.classifier) for one in found]
    assert hashes[0] == hashes[1] != hashes[2]
    assert found[0].history == found[1].history
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(part.training for part in target.modules())
    assert all(torch.equal(state[name], value) for name, value in target.state_dict().items())
    assert all(p.grad is None for p in target.parameters())
    with torch.inference_mode():
        inside = distill(
            target, x.clone(), student=pattern, epochs=2, rounds=1, batch_size=20, seed=0
        )
    assert weights_hash(inside.classifier) == hashes[0]
    # the default student starts from its seed, whatever the state of the global generator
    digit_like = images(20, (1, 8, 8))
    fresh = []
    for state_of in (1, 2):
        with seeded(state_of):
            fresh.append(distill(LinearModel((1, 8, 8), 10), digit_like, epochs=1).classifier)
    assert type(fresh[0].module).__name__ == "DigitsCNN"
    assert weights_hash(fresh[0]) == weights_hash(fresh[1])


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"epochs": 0}, "epochs"),
        ({"rounds": -1}, "rounds"),
        ({"step": 0.0}, "step"),
        ({"temperature": 0.0}, "temperature"),
        ({"held_out": 1.0}, r"in \(0, 1\)"),
        ({"batch_size": 1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"student": "digits"}, "digits_cnn"),
        ({"student": Dense(num_classes=3)}, "3 classes apart, the target 10"),
    ],
)
def test_settings_of_a_distillation_are_checked(change: dict[str, Any], remedy: str) -> None:
    x = torch.rand(20, 1, 8, 8)
    with pytest.raises(ConfigurationError, match=remedy):
        distill(Dense(), x, **change)


def test_what_cannot_be_distilled_is_refused() -> None:
    x = torch.rand(20, 1, 8, 8)
    with pytest.raises(ConfigurationError, match="decisions"):
        distill(ns.DecisionsOnly(Dense()), x, temperature=2.0)
    with pytest.raises(ConfigurationError, match="square"):
        distill(LinearModel((1, 4, 5), 3).float(), torch.rand(20, 1, 4, 5))
    with pytest.raises(InputError, match="too few"):
        distill(Dense(), x[:2])
    with pytest.raises(InputError, match="divide by 255"):
        distill(Dense(), x * 255)
    with pytest.raises(ns.NotSureError, match="learning"):
        distill(Dense(), x, student=Dense(), learning_rate=1e30)


# AdvGAN


QUICK = AdvGAN(eps=0.25, epochs=8, batch_size=50, learning_rate=5e-3)


@pytest.fixture(scope="module")
def fitted(digits: Digits) -> FittedAdvGAN:
    """A generator that was trained against the guard's bare classifier."""
    train = digits.split.train
    return QUICK.fit(digits.guard.classifier, train.x[:500], train.y[:500])


def test_advgan_fools_far_more_than_noise(digits: Digits, fitted: FittedAdvGAN) -> None:
    target, x, y = digits.guard.classifier, digits.x, digits.y
    found = fitted(Watched(target), x, y)
    assert share(found.success) > 0.6 > 5 * share(RandomNoise(eps=0.25)(target, x, y).success)
    assert float(found.distance["linf"].max()) <= 0.25 + 1e-6
    assert torch.equal(found.success, target.logits(found.x).argmax(dim=1) != y)
    assert bool((found.queries == 1).all())
    assert bool((found.gradients == 0).all())
    assert len(fitted.history) == QUICK.epochs
    assert fitted.history[-1] > 0.6 > fitted.history[0]


def test_advgan_against_a_black_box(
    digits: Digits, taught: dict[Access, tuple[Distilled, Watched]]
) -> None:
    substitute = taught[Access.DECISIONS][0].classifier
    train = digits.split.train
    attack = QUICK.fit(substitute, train.x[:500], train.y[:500])
    x, y = digits.x, digits.y
    target = Watched(digits.guard.classifier)
    found = attack(target, x, y)
    noise = RandomNoise(eps=0.25)(target, x, y)
    assert share(found.success) > 5 * share(noise.success)
    carried = Transfer(attack=attack, substitute=substitute)(target, x, y)
    assert torch.equal(carried.x, found.x)


def test_advgan_makes_for_its_class(digits: Digits) -> None:
    target, train = digits.guard.classifier, digits.split.train
    settings = replace(QUICK, norm="l2", eps=2.5)
    attack = settings.fit(target, train.x[:500], train.y[:500], goal=Targeted(label=3))
    others = digits.y != 3
    x, y = digits.x[others], digits.y[others]
    found = attack(target, x, y)
    assert share(found.success) > 0.8
    assert torch.equal(found.success, target.logits(found.x).argmax(dim=1) == 3)
    assert float(found.distance["l2"].max()) <= 2.5 + 1e-5
    with pytest.raises(InputError, match="equal the true label"):
        attack(target, digits.x, digits.y)
    # what makes for a class leaves the true one as well
    assert share(attack(target, x, y, goal=Misclassified()).success) >= share(found.success)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [1e-3, 100.0])
def test_perturbations_keep_to_the_ball_by_themselves(
    norm: str, dtype: torch.dtype, gain: float
) -> None:
    advgan = AdvGAN(norm=norm, eps=0.2)
    x = images(6, (3, 9, 8)).to(dtype)
    x[:3] = x[:3].round()
    with seeded(0):
        generator = Generator(channels=3).to(dtype)
    with torch.no_grad():
        for parameter in generator.last.parameters():
            parameter.mul_(gain)
        delta = advgan.proposed(generator, x)
        perturbed = advgan.applied(delta, x)
    length = norm_named(norm).distance(perturbed - x)
    assert float(length.max()) <= 0.2 + 1e-6
    assert float(perturbed.min()) >= 0
    assert float(perturbed.max()) <= 1
    if gain > 1:
        # it makes use of the ball: only the box shortens what stands in the middle of it
        assert float(length[3:].min()) > 0.19
        assert norm == "linf" or float(norm_named(norm).distance(delta).min()) > 1
    else:
        assert float(length.max()) < 0.2


def test_an_image_does_not_feel_its_batch_mates(digits: Digits, fitted: FittedAdvGAN) -> None:
    target, x, y = digits.guard.classifier, digits.x[:40], digits.y[:40]
    together = fitted(target, x, y)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = fitted(target, x[order], y[order], batch_size=7)
    assert torch.allclose(shuffled.x, together.x[order], atol=1e-5)
    alone = fitted(target, x[4:5], y[4:5], seed=9)
    assert torch.allclose(alone.x, together.x[4:5], atol=1e-5)
    # in training mode as well
    fitted.generator.train()
    assert torch.equal(fitted(target, x, y).x, together.x)
    assert fitted.generator.training
    fitted.generator.eval()


@pytest.mark.parametrize(
    ("shape", "num_logits"), [((1, 8, 8), 1), ((3, 11, 14), 2), ((1, 28, 28), 3), ((3, 32, 32), 4)]
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_any_size_of_images(shape: tuple[int, int, int], num_logits: int, norm: str) -> None:
    target = ns.Classifier(LinearModel(shape, num_logits, seed=2))
    x = images(10, shape)
    y = target.logits(x).argmax(dim=1).detach()
    eps = 0.5 * norm_named(norm).largest_radius(x[0].numel())
    # a length bound far inside of the ball, so that it counts
    advgan = AdvGAN(norm=norm, eps=eps, epochs=12, batch_size=4, learning_rate=1e-2, bound=0.1)
    attack = advgan.fit(target, x, y)
    found = attack(target, x, y)
    assert share(found.success) >= 0.5
    assert float(found.distance[norm].max()) <= eps + 1e-6


def test_the_length_bound_keeps_perturbations_short(digits: Digits) -> None:
    target, x = digits.guard.classifier, digits.x[:100]
    train = digits.split.train
    lengths = []
    for beta in (0.0, 10.0):
        advgan = replace(QUICK, beta=beta, bound=0.5, epochs=5)
        attack = advgan.fit(target, train.x[:300], train.y[:300])
        with torch.no_grad():
            perturbed = advgan.applied(advgan.proposed(attack.generator, x), x)
        lengths.append(float(norm_named("l2").distance(perturbed - x).mean()))
    assert lengths[1] < 0.6 < 1.0 < lengths[0]


def test_the_discriminator_pulls_towards_clean_images(digits: Digits) -> None:
    x, y = digits.split.train.x[:300], digits.split.train.y[:300]
    target = digits.guard.classifier
    shares = []
    for alpha in (0.0, 1000.0):
        advgan = replace(QUICK, alpha=alpha, beta=0.0, epochs=5)
        with torch.no_grad():
            perturbed = advgan.proposed(advgan.fit(target, x, y).generator, digits.x[:100])
        shares.append(float(perturbed.abs().mean()))
    assert shares[1] < shares[0]


def test_advgan_against_a_guard(digits: Digits) -> None:
    guard, x, y = digits.guard, digits.x, digits.y
    seen = digits.split.train.x[:500], digits.split.train.y[:500]
    advgan = replace(QUICK, eps=0.4)
    oblivious = advgan.fit(guard.classifier, *seen, seed=2)
    aware = advgan.fit(guard, *seen, seed=2)
    assert aware.undetected
    assert not oblivious.undetected
    found = aware(guard, x, y)
    verdict = guard.judge(found.x)
    assert torch.equal(found.success, verdict.accepted & (verdict.prediction != y))
    assert share(found.success) > 5 * share(RandomNoise(eps=0.4)(guard, x, y).success)
    # who was told of the detector is rejected less often where the class is wrong
    rejected = []
    for attack in (oblivious, aware):
        verdict = guard.judge(attack(guard.classifier, x, y).x)
        rejected.append(share(~verdict.accepted[verdict.prediction != y]))
    assert rejected[1] < rejected[0] - 0.05


def test_fitting_is_a_function_of_its_seed_and_leaves_no_trace() -> None:
    module = ns.models.build("digits_cnn")
    target = ns.Classifier(nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.3), module)).train()
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % 10
    parameters = list(target.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    state = {name: value.clone() for name, value in target.state_dict().items()}
    random_state, before = torch.get_rng_state(), x.clone()
    advgan = AdvGAN(epochs=2, batch_size=8)
    fits = [advgan.fit(target, x, y, seed=seed) for seed in (0, 0, 1)]
    with torch.inference_mode():
        fits.append(advgan.fit(target, x.clone(), y.clone(), seed=0))
    hashes = [weights_hash(one.generator) for one in fits]
    assert hashes[0] == hashes[1] == hashes[3] != hashes[2]
    assert fits[0].identity == fits[1].identity != fits[2].identity
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(x, before)
    assert all(part.training for part in target.modules())
    assert all(torch.equal(state[name], value) for name, value in target.state_dict().items())
    assert torch.equal(parameters[0].grad, torch.ones_like(parameters[0]))
    assert all(p.grad is None and p.requires_grad for p in parameters[1:])
    assert all(p.grad is None for p in fits[0].generator.parameters())


def test_a_fitted_attack_comes_back_from_its_file(
    digits: Digits, fitted: FittedAdvGAN, tmp_path: Path
) -> None:
    path = tmp_path / "advgan.safetensors"
    random_state = torch.get_rng_state()
    fitted.save(path)
    again = FittedAdvGAN.load(path)
    assert torch.equal(torch.get_rng_state(), random_state)
    x, y = digits.x[:30], digits.y[:30]
    target = digits.guard.classifier
    assert torch.equal(again(target, x, y).x, fitted(target, x, y).x)
    assert again.identity == fitted.identity
    assert again.history == fitted.history
    assert again.advgan == QUICK
    assert json.loads(json.dumps(again.settings())) == again.settings()
    assert again.name == "AdvGAN"
    tensors, note = load_tensors(path)
    tensors["last.bias"] = tensors["last.bias"] + 1
    save_tensors(path, tensors, note=note)
    with pytest.raises(CheckpointError, match="not those that were saved"):
        FittedAdvGAN.load(path)
    save_tensors(path, tensors, note={**note, "channels": 3})
    with pytest.raises(CheckpointError, match="save the fitted attack again"):
        FittedAdvGAN.load(path)
    save_tensors(path, tensors)
    with pytest.raises(CheckpointError, match="no fitted AdvGAN"):
        FittedAdvGAN.load(path)
    with pytest.raises(CheckpointError, match="no other"):
        FittedAdvGAN.load(tmp_path / "other")


class Detached(nn.Module):
    """Cuts the graph without saying so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().flatten(1)[:, :3]


class Wavering(nn.Module):
    """A network that draws from torch's generator."""

    stochastic = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.network(x + 0.1 * torch.randn_like(x))
        return answer


@pytest.mark.parametrize("wavers", [False, True])
def test_a_fit_that_stops_goes_on_to_the_same_attack(wavers: bool, tmp_path: Path) -> None:
    with seeded(0):
        module = SmallNetwork(size=8).double().eval()
    target = ns.Classifier(Wavering(module) if wavers else module)
    x = images(24, (1, 8, 8))
    y = torch.arange(24) % 4
    attack = AdvGAN(eps=0.2, epochs=4, batch_size=10, width=2)
    whole = attack.fit(target, x, y, seed=3)
    path, asked = tmp_path / "training.safetensors", []

    def reason() -> Exception | None:
        asked.append(1)
        return DeadlineError("late") if len(asked) == 2 else None

    with stopping(reason), pytest.raises(DeadlineError):
        attack.fit(target, x, y, seed=3, checkpoint=path)
    # nobody's generator was left where the training was
    torch.rand(5)
    resumed = attack.fit(target, x, y, seed=3, checkpoint=path)
    assert weights_hash(resumed.generator) == weights_hash(whole.generator)
    assert resumed.history == whole.history
    with pytest.raises(CheckpointError, match="is no checkpoint of this training of AdvGAN"):
        attack.fit(target, x, y, seed=4, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError):
        attack.fit(target, x, y, seed=3, checkpoint=path)


def test_what_advgan_cannot_do_is_refused(digits: Digits, fitted: FittedAdvGAN) -> None:
    target, x, y = digits.guard.classifier, digits.x[:20], digits.y[:20]
    with pytest.raises(NotFittedError, match=r"\.fit\(target"):
        AdvGAN()(target, x, y)
    with pytest.raises(UnsupportedError, match="scores only"):
        AdvGAN().fit(ns.ScoresOnly(target), x, y)
    with pytest.raises(UnsupportedError, match="distilled"):
        AdvGAN().fit(Detached(), x, y % 3)
    for goal in (Targeted(label=(y + 1) % 10), LeastLikely(), Undetected(LeastLikely())):
        with pytest.raises(ConfigurationError, match=r"Targeted\(label=3\)"):
            AdvGAN().fit(target, x, y, goal=goal)
    with pytest.raises(InputError, match="wanted class 2"):
        AdvGAN().fit(target, x, torch.full_like(y, 2), goal=Targeted(label=2))
    with pytest.raises(InputError, match="numbered"):
        AdvGAN().fit(target, x, y, goal=Targeted(label=10))
    with pytest.raises(ConfigurationError, match=r"0\.\.255"):
        AdvGAN(norm="l2", eps=9.0).fit(target, x, y)
    with pytest.raises(InputError, match="8x8"):
        AdvGAN().fit(LinearModel((1, 6, 6), 3), images(5, (1, 6, 6)), y[:5] % 3)
    with pytest.raises(InputError, match="divide by 255"):
        AdvGAN().fit(target, x * 255, y)
    with pytest.raises(ns.NotSureError, match="learning rate"):
        replace(QUICK, learning_rate=1e30).fit(target, x, y)
    with pytest.raises(InputError, match="float64"):
        fitted(copy.deepcopy(target).double(), x.double(), y)
    wide = LinearModel((3, 8, 8), 10).float()
    with pytest.raises(InputError, match="1-channel"):
        fitted(wide, torch.rand(3, 3, 8, 8), y[:3])


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"norm": "l1"}, "linf and l2"),
        ({"eps": 0}, "> 0"),
        ({"eps": 8}, "8/255"),
        ({"eps": "much"}, "fraction"),
        ({"epochs": 0}, "epochs"),
        ({"width": 0}, "width"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"confidence": -1.0}, "confidence"),
        ({"beta": float("nan")}, "beta"),
        ({"bound": -0.1}, "bound"),
    ],
)
def test_settings_of_advgan_are_checked(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        AdvGAN(**settings)
