"""A guard with all its parts: purifier, detectors, corrector; certain or left to chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import notsure as ns
from notsure.attacks import BPDA, EOT, FGSM, PGD, Misclassified
from notsure.attacks.problem import AUTOGRAD
from notsure.core.errors import ConfigurationError, NotFittedError, UnsupportedError
from notsure.core.randomness import own_streams
from notsure.correctors import Corrector
from notsure.detectors import Confidence, Detector, KDensity
from notsure.evaluation.threats import Oblivious, WhiteBox
from notsure.observation import Observation
from notsure.purifiers import Purifier
from notsure.training import History
from tests.test_guard import blobs, trained


class Shrinking(Purifier):
    """Pulls pixels towards grey by a share that it is told."""

    def __init__(self, *, share: float = 0.2, shape: Any = None) -> None:
        self.share = share
        super().__init__(shape=shape)

    def settings(self) -> dict[str, Any]:
        return {"share": self.share, "shape": None if self.shape is None else list(self.shape)}

    def make_networks(self, shape: Any) -> None:
        self.register_buffer("grey", torch.full(shape, 0.5))

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x, self.get_buffer("grey").to(x), self.share)

    def fit(self, data: Any, **_: Any) -> History:
        self.build(tuple(data[0].shape[1:]))
        self.get_buffer("trained").fill_(1)
        return History()


class Rounding(Shrinking):
    """Rounds to a few levels, through which no gradient flows."""

    differentiable = False

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 15).round() / 15


class Shaky(Shrinking):
    """Adds noise, each image's own."""

    stochastic = True

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        streams = own_streams(len(x))
        noise = torch.randn_like(x) if streams is None else streams.normal(x.shape[1:])
        return (x + self.share * noise).clamp(0, 1)


class Moved(Detector):
    """How far the purifier moves an image."""

    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, observation: Observation) -> torch.Tensor:
        return (observation.x - observation.purified).flatten(1).square().sum(dim=1)


class Always(Corrector):
    """Answers with the class that was commonest among the adversarial examples."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("answer", torch.zeros(0))
        self._labels: list[torch.Tensor] = []

    def settings(self) -> dict[str, Any]:
        return {}

    @property
    def fitted(self) -> bool:
        return len(self.get_buffer("answer")) > 0

    def learn(
        self, clean: Observation, attacked: Observation, y: torch.Tensor, success: torch.Tensor
    ) -> None:
        assert clean.x.shape == attacked.x.shape
        wrong = attacked.classifier.logits(attacked.x).argmax(dim=1) != y
        assert torch.equal(wrong, success)
        self._labels.append(y[success])

    def finish_learning(self, num_classes: int) -> None:
        self.answer = torch.bincount(torch.cat(self._labels), minlength=num_classes).float()

    def correct(self, observation: Observation) -> torch.Tensor:
        return self.get_buffer("answer").expand_as(observation.logits) + 0 * observation.logits


@pytest.fixture(scope="module")
def classifier() -> ns.Classifier:
    return trained()


def fitted(purifier: Purifier) -> Purifier:
    purifier.fit(blobs(100, 0))
    return purifier


def whole(classifier: ns.Classifier, **parts: Any) -> ns.Guard:
    guard = ns.Guard(classifier, {"a": KDensity(), "b": Confidence(), "c": Moved()}, **parts)
    guard.fit(*blobs(400, 0), attack=FGSM(eps=0.3), examples=100)
    return guard.calibrate(blobs(300, 1)[0], fpr=0.05)


def test_the_classifier_sees_what_the_purifier_leaves(classifier: ns.Classifier) -> None:
    purifier = fitted(Shrinking(share=0.3))
    guard = whole(classifier, purifier=purifier)
    x, _ = blobs(20, 5)
    observation = guard.observe(x)
    expected = x + 0.3 * (0.5 - x)
    assert torch.allclose(observation.purified, expected)
    assert torch.allclose(observation.logits, classifier.logits(expected), atol=1e-5)
    assert torch.allclose(observation.bare_logits, classifier.logits(x), atol=1e-5)
    assert torch.allclose(observation.logits_of(x.flip(3)), classifier.logits(expected.flip(3)))
    assert torch.allclose(guard.logits(x), observation.logits)
    bare = ns.Guard(classifier).observe(x)
    assert bare.purified is x
    assert torch.equal(bare.bare_logits, bare.logits)


def test_a_gradient_attack_goes_through_the_purifier(classifier: ns.Classifier) -> None:
    """A purifier that takes away a share of every change leaves a gradient of that share."""
    x, y = blobs(40, 5)
    variable = x.clone().requires_grad_()
    guard = ns.Guard(classifier, purifier=fitted(Shrinking(share=0.4)))
    (through,) = torch.autograd.grad(guard.logits(variable).sum(), variable)
    inside = guard.observe(x).purified.detach().requires_grad_()
    (behind,) = torch.autograd.grad(classifier.logits(inside).sum(), inside)
    assert torch.allclose(through, 0.6 * behind, atol=1e-5)
    found = PGD(eps=0.3)(guard, x, y)
    assert float(found.success.double().mean()) > 0.5
    assert torch.equal(guard.judge(found.x).label != y, found.success)


def test_rules_flag_any_or_all(classifier: ns.Classifier) -> None:
    x = torch.cat([blobs(60, 6)[0], torch.rand(60, 1, 8, 8)])
    for rule in ("any", "all"):
        guard = whole(classifier, rule=rule)
        verdict = guard.judge(x)
        assert guard.calibration is not None
        limits = guard.calibration.thresholds
        over = torch.stack([score > limits[name] for name, score in verdict.scores.items()])
        expected = over.any(dim=0) if rule == "any" else over.all(dim=0)
        assert torch.equal(~verdict.accepted, expected)
        assert guard.calibration.measured_fpr <= 0.05


def test_a_corrector_answers_what_is_flagged(classifier: ns.Classifier) -> None:
    guard = whole(classifier, corrector=Always())
    x, y = blobs(60, 7)
    x[:20] = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    verdict = guard.judge(x)
    answer = int(guard.corrector.get_buffer("answer").argmax()) if guard.corrector else -1
    assert bool(verdict.corrected[:20].any())
    assert not bool(verdict.corrected[20:].all())
    assert bool(verdict.accepted.all())
    assert not guard.rejects
    base = classifier.logits(x).argmax(dim=1)
    assert torch.equal(verdict.label, torch.where(verdict.corrected, answer, base))
    assert torch.equal(verdict.corrected, verdict.rejection > 0)
    response = guard.respond(x)
    assert response.rejection is None
    assert torch.equal(response.prediction, verdict.label)
    assert bool(torch.isinf(guard.rejection(x)).all())
    # nothing can be rejected, so that misclassification is all an attack goes for
    assert PGD().default_goal(guard) == Misclassified()
    found = PGD(eps=0.3)(guard, x, y)
    assert torch.equal(guard.judge(found.x).label != y, found.success)


@pytest.mark.parametrize("kind", [Shrinking, Shaky])
def test_saved_and_loaded_the_whole_judges_the_same(
    classifier: ns.Classifier, tmp_path: Path, kind: Any
) -> None:
    guard = whole(classifier, purifier=fitted(kind(share=0.1)), corrector=Always(), rule="all")
    again = ns.Guard.load(guard.save(tmp_path))
    x, _ = blobs(50, 8)
    ours, theirs = guard.judge(x), again.judge(x)
    assert torch.equal(ours.label, theirs.label)
    assert torch.equal(ours.rejection, theirs.rejection)
    assert torch.equal(ours.corrected, theirs.corrected)
    assert again.rule == "all"


def test_a_guard_left_to_chance_answers_by_vote(classifier: ns.Classifier) -> None:
    guard = whole(classifier, purifier=fitted(Shaky(share=0.8)))
    assert guard.stochastic
    x, _ = blobs(60, 9)
    x = x * 0.3 + 0.35
    verdict = guard.judge(x, batch_size=60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    shuffled = guard.judge(x[order], batch_size=7)
    assert torch.equal(shuffled.label, verdict.label[order])
    assert torch.allclose(shuffled.rejection, verdict.rejection[order], atol=1e-4)
    # one draw decides otherwise somewhere, fifteen are steadier than one
    ones = [guard.judge(x, votes=1, seed=seed).prediction for seed in range(6)]
    many = [guard.judge(x, votes=15, seed=seed).prediction for seed in range(6)]

    def unrest(answers: list[torch.Tensor]) -> float:
        return float((torch.stack(answers) != answers[0]).double().mean())

    assert unrest(ones) > 1.5 * unrest(many) > 0
    with pytest.raises(ConfigurationError, match="votes"):
        guard.judge(x, votes=0)


def test_the_examiner_takes_a_guard_left_to_chance(classifier: ns.Classifier) -> None:
    guard = whole(classifier, purifier=fitted(Shaky(share=0.2)))
    x, y = blobs(30, 10)
    records = ns.evaluate(
        guard, x, y, attacks=[PGD(eps=0.3, steps=5)], threats=["oblivious", "white-box"]
    )
    assert len(records.ordinary()) == 3 * 30


def test_threats_give_attacks_the_gradients_that_suit(classifier: ns.Classifier) -> None:
    attack = PGD(eps=0.3)
    for purifier, source in (
        (Shrinking(), AUTOGRAD),
        (Rounding(), BPDA()),
        (Shaky(), EOT(of=AUTOGRAD)),
    ):
        guard = ns.Guard(classifier, purifier=fitted(purifier))
        assert WhiteBox().adapt(attack, guard).source == source
        assert Oblivious().adapt(attack, guard).source == AUTOGRAD
        own = PGD(eps=0.3, gradient=EOT(n=3))
        assert WhiteBox().adapt(own, guard) is own


def test_what_is_hard_to_differentiate_is_attacked_through(classifier: ns.Classifier) -> None:
    guard = ns.Guard(classifier, purifier=fitted(Rounding()))
    x, y = blobs(40, 5)
    assert not guard.differentiable
    with pytest.raises(UnsupportedError, match="BPDA"):
        PGD(eps=0.3)(guard, x, y)
    found = PGD(eps=0.3, gradient=BPDA())(guard, x, y)
    assert float(found.success.double().mean()) > 0.5
    assert torch.equal(found.success, guard.judge(found.x).label != y)


def test_parts_that_do_not_fit_are_refused(classifier: ns.Classifier) -> None:
    with pytest.raises(ConfigurationError, match="no Purifier"):
        ns.Guard(classifier, purifier=Confidence())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="give detectors"):
        ns.Guard(classifier, corrector=Always())
    with pytest.raises(ConfigurationError, match="any or all"):
        ns.Guard(classifier, [Confidence()], rule="most")  # type: ignore[arg-type]
    guard = ns.Guard(classifier, [KDensity()], corrector=Always())
    with pytest.raises(ConfigurationError, match="say which attack"):
        guard.fit(*blobs(100, 0))
    guard = ns.Guard(classifier, [KDensity()], purifier=Shrinking())
    with pytest.raises(NotFittedError, match="Shrinking"):
        guard.fit(*blobs(100, 0))


def test_an_interrupted_fit_leaves_nothing_behind(
    classifier: ns.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = blobs(200, 0)
    guard = ns.Guard(classifier, [KDensity(bandwidth=1.0)])
    with monkeypatch.context() as patch:
        patch.setattr(KDensity, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            guard.fit(x, y)
    guard.fit(x, y)
    detector = guard.detectors["KDensity"]
    assert len(detector.get_buffer("points")) == len(x)


def test_few_examples_are_taken_from_all_over_the_data(classifier: ns.Classifier) -> None:
    """More images lie between two examples than the last batch holds."""
    guard = ns.Guard(classifier, [KDensity()], corrector=Always())
    guard.fit(*blobs(103, 0), attack=FGSM(eps=0.4), examples=5, batch_size=50)
    assert guard.corrector is not None
    assert guard.corrector.fitted


def test_the_examiner_asks_the_whole_what_becomes_of_an_attack_on_a_part(
    classifier: ns.Classifier,
) -> None:
    """Images that fool the bare classifier need not fool what stands behind a purifier."""
    x, y = blobs(30, 11)
    for parts in ({"purifier": fitted(Shrinking(share=0.9))}, {"corrector": Always()}):
        guard = whole(classifier, **parts)
        records = ns.evaluate(guard, x, y, attacks=[PGD(eps=0.3)], threats=["oblivious"])
        attacked = records.ordinary().where(threat="oblivious")
        attack = Oblivious().adapt(PGD(eps=0.3), guard)
        verdict = guard.judge(attack(classifier, x, y, seed=0).x)
        assert attacked.column("success").any()
        assert (attacked.column("prediction") == verdict.prediction.numpy()).all()
