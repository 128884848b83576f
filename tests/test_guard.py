"""The Guard: fit, calibrate, judge, be attacked, be saved and loaded; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import notsure as ns
from notsure import models
from notsure.calibration import calibrated
from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    InputError,
    NotFittedError,
)
from notsure.detectors import Confidence, Detector, KDensity, NonMaximalEntropy
from notsure.observation import Observation
from tests.conftest import Digits
from tests.toys import small_network

SHAPE = (1, 8, 8)


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes of noisy images, each bright in one quarter."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 4
    x = 0.15 + 0.1 * torch.rand(count, *SHAPE, generator=generator)
    for label in range(4):
        rows = slice(4 * (label // 2), 4 * (label // 2) + 4)
        columns = slice(4 * (label % 2), 4 * (label % 2) + 4)
        x[y == label, :, rows, columns] += 0.5 + 0.2 * torch.rand(
            int((y == label).sum()), 1, 1, 1, generator=generator
        )
    return x.clamp(0, 1), y


def trained() -> ns.Classifier:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        module = models.build("digits_cnn", num_classes=4)
        classifier = ns.Classifier(module, mean=0.5, std=0.5)
    ns.training.train(
        classifier,
        blobs(400, 0),
        recipe=ns.training.Recipe(epochs=4, optimizer="adamw", learning_rate=3e-3),
        progress=False,
    )
    return classifier


@pytest.fixture(scope="module")
def classifier() -> ns.Classifier:
    return trained()


def all_detectors() -> list[Detector]:
    return [KDensity(), Confidence(), NonMaximalEntropy()]


@pytest.fixture(scope="module")
def guard(classifier: ns.Classifier) -> ns.Guard:
    guard = ns.Guard(classifier, all_detectors())
    return guard.fit(*blobs(400, 0)).calibrate(blobs(300, 1)[0], fpr=0.05)


def test_the_five_lines(classifier: ns.Classifier) -> None:
    x, y = blobs(40, 5)
    adversarial = ns.attacks.PGD(norm="linf", eps=0.3, steps=40)(classifier, x, y, seed=0)
    assert adversarial.success.shape == (40,)
    guard = ns.Guard(classifier, detectors=[KDensity(bandwidth=1.0)])
    guard = guard.fit(*blobs(400, 0)).calibrate(blobs(300, 1)[0], fpr=0.01)
    verdict = guard.judge(x)
    assert set(verdict.label[~verdict.accepted].tolist()) <= {ns.NOT_SURE}
    records = ns.evaluate(
        guard, x, y, attacks=[ns.attacks.FGSM()], threats=["oblivious", "white-box"]
    )
    assert len(records.ordinary()) == 3 * 40


def test_labels_follow_from_scores_and_thresholds(guard: ns.Guard) -> None:
    x, _ = blobs(50, 6)
    x[:10] = torch.rand(10, *SHAPE, generator=torch.Generator().manual_seed(0))
    verdict = guard.judge(x)
    assert guard.calibration is not None
    over = torch.stack(
        [score > guard.calibration.thresholds[name] for name, score in verdict.scores.items()]
    )
    assert torch.equal(verdict.accepted, ~over.any(dim=0))
    assert torch.equal(verdict.label == ns.NOT_SURE, ~verdict.accepted)
    assert torch.equal(verdict.label[verdict.accepted], verdict.prediction[verdict.accepted])
    assert not bool(verdict.accepted[:10].any())
    small = guard.judge(x, batch_size=7)
    assert torch.equal(small.label, verdict.label)
    assert torch.allclose(small.rejection, verdict.rejection, atol=1e-4)
    response = guard.respond(x)
    assert response.rejection is not None
    assert torch.equal(response.accepted, verdict.accepted)
    assert torch.allclose(guard.rejection(x), response.rejection)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 9999),
    count=st.integers(20, 400),
    detectors=st.integers(1, 4),
    fpr=st.floats(0.05, 0.5),
    ties=st.booleans(),
    rule=st.sampled_from(["any", "all"]),
)
def test_calibration_keeps_the_false_positive_rate(
    seed: int, count: int, detectors: int, fpr: float, ties: bool, rule: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {
        str(number): torch.randn(count, generator=generator, dtype=torch.float64) * 10**number
        for number in range(detectors)
    }
    if ties:
        scores = {name: values.round() for name, values in scores.items()}
    calibration = calibrated(scores, fpr, count, rule)
    over = torch.stack([v > calibration.thresholds[name] for name, v in scores.items()])
    flagged = over.any(dim=0) if rule == "any" else over.all(dim=0)
    assert torch.equal(calibration.rejection(scores) > 0, flagged)
    rejected = int(flagged.sum())
    assert rejected <= fpr * count + 1e-6
    assert calibration.measured_fpr == rejected / count
    assert all(scale > 0 for scale in calibration.scales.values())
    if detectors == 1 and not ties:
        # a single detector uses up what it may reject
        assert rejected == int(fpr * count + 1e-9)


def test_a_detector_aware_attack_passes_where_an_oblivious_one_is_caught(digits: Digits) -> None:
    guard, x, y = digits.guard, digits.x[:100], digits.y[:100]
    attack = ns.attacks.PGD(eps=0.25, steps=40)
    oblivious = guard.judge(attack(guard.classifier, x, y).x)
    blind = oblivious.accepted & (oblivious.prediction != y)
    found = attack(guard, x, y)
    aware = guard.judge(found.x)
    assert torch.equal(found.success, aware.accepted & (aware.prediction != y))
    assert int(found.success.sum()) > int(blind.sum()) + 20


def test_restarts_find_the_classes_that_pass_the_detector(digits: Digits) -> None:
    guard, x, y = digits.guard, digits.x[:120], digits.y[:120]
    once = ns.attacks.PGD(eps=0.15)(guard, x, y).success
    often = ns.attacks.PGD(eps=0.15, restarts=6)(guard, x, y).success
    assert not bool((once & ~often).any())
    assert int(often.sum()) >= int(once.sum()) + 6


class _Stubborn(Detector):
    """Rejects everything by the same score: no attack can evade it."""

    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, observation: Observation) -> torch.Tensor:
        return observation.logits.sum(dim=1) * 0 + 1.0


def test_an_attack_cannot_beat_what_cannot_be_beaten(classifier: ns.Classifier) -> None:
    guard = ns.Guard(classifier, [_Stubborn()]).calibrate(blobs(100, 1)[0], fpr=0.05)
    assert guard.calibration is not None
    guard.calibration.thresholds["_Stubborn"] = 0.5
    x, y = blobs(20, 7)
    found = ns.attacks.PGD(eps=0.5)(guard, x, y)
    assert not bool(found.success.any())
    assert torch.equal(found.x, x)


def test_saved_and_loaded_it_judges_the_same(guard: ns.Guard, tmp_path: Path) -> None:
    folder = guard.save(tmp_path / "guard")
    assert sorted(path.suffix for path in folder.iterdir()) == [
        ".json",
        ".safetensors",
        ".safetensors",
    ]
    again = ns.Guard.load(folder)
    x, y = blobs(50, 8)
    ours, theirs = guard.judge(x), again.judge(x)
    assert torch.equal(ours.label, theirs.label)
    assert torch.equal(ours.rejection, theirs.rejection)
    for name, score in ours.scores.items():
        assert torch.equal(score, theirs.scores[name])
    assert again.calibration == guard.calibration
    with pytest.raises(InputError, match="fit already"):
        again.calibrate(blobs(400, 0)[0])
    attack = ns.attacks.PGD(eps=0.3)
    assert torch.equal(attack(guard, x, y).x, attack(again, x, y).x)


def test_a_foreign_classifier_is_handed_in_and_checked(tmp_path: Path) -> None:
    network = small_network(0).float()
    guard = ns.Guard(ns.Classifier(network, mean=0.3), [Confidence()])
    x = torch.rand(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    guard.calibrate(x, fpr=0.1)
    folder = guard.save(tmp_path)
    assert not (folder / "classifier.safetensors").exists()
    with pytest.raises(CheckpointError, match="hand it in"):
        ns.Guard.load(folder)
    again = ns.Guard.load(folder, ns.Classifier(network, mean=0.3))
    assert torch.equal(again.judge(x).label, guard.judge(x).label)
    with pytest.raises(CheckpointError, match="weights are not those"):
        ns.Guard.load(folder, ns.Classifier(small_network(1).float(), mean=0.3))
    with pytest.raises(CheckpointError, match="settings"):
        ns.Guard.load(folder, ns.Classifier(network))


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "guard.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (lambda f: (f / "guard.json").unlink(), "There is no guard.json"),
        (lambda f: (f / "guard.json").write_text("{"), "damaged, not JSON"),
        (lambda f: (f / "guard.json").write_text("[]"), "not one of ours"),
        (lambda f: _edit(f, format=99), "reads format 2"),
        (lambda f: _edit(f, detectors=3), "changed by hand"),
        (lambda f: (f / "parts.safetensors").write_bytes(b"x"), "changed after"),
        (lambda f: (f / "classifier.safetensors").unlink(), "missing"),
    ],
)
def test_a_damaged_guard_is_not_loaded(
    guard: ns.Guard, tmp_path: Path, damage: Any, remedy: str
) -> None:
    damage(guard.save(tmp_path))
    with pytest.raises(CheckpointError, match=remedy):
        ns.Guard.load(tmp_path)


def test_an_unknown_detector_is_named(guard: ns.Guard, tmp_path: Path) -> None:
    guard.save(tmp_path)
    entry = {"name": "x", "type": "Oracle", "settings": {}}
    _edit(tmp_path, detectors=[entry])
    with pytest.raises(CheckpointError, match="'Oracle'"):
        ns.Guard.load(tmp_path)
    with pytest.raises(CheckpointError, match="no folder"):
        ns.Guard.load(tmp_path / "elsewhere")


def test_data_is_used_once(classifier: ns.Classifier) -> None:
    x, y = blobs(400, 0)
    guard = ns.Guard(classifier, [KDensity()]).fit(x, y)
    with pytest.raises(InputError, match="Keep train, calibration and test apart"):
        guard.calibrate(x[:200])
    mixed = torch.cat([blobs(300, 1)[0], x[:1]])
    with pytest.warns(UserWarning, match="1 of 301"):
        guard.calibrate(mixed)
    x, y = blobs(300, 1)
    with pytest.raises(InputError, match="calibration already"):
        ns.evaluate(guard, x[:100], y[:100], attacks=[ns.attacks.FGSM()])


def test_calibration_says_what_it_needs(classifier: ns.Classifier) -> None:
    x, y = blobs(400, 0)
    clean, labels = blobs(300, 1)
    guard = ns.Guard(classifier, [KDensity()])
    with pytest.raises(NotFittedError, match=r"guard\.fit"):
        guard.calibrate(clean)
    guard.fit(x, y)
    with pytest.raises(NotFittedError, match="no thresholds"):
        guard.judge(clean)
    with pytest.raises(NotFittedError, match="calibrate"):
        ns.attacks.PGD(eps=0.1)(guard, clean, labels)
    with pytest.raises(NotFittedError, match="calibrate"):
        guard.save("unused")
    with pytest.raises(NotFittedError, match="not calibrated"):
        ns.evaluate(guard, clean, labels, attacks=[ns.attacks.FGSM()])
    with pytest.raises(InputError, match="empty"):
        guard.calibrate(clean[:0])
    with pytest.raises(InputError, match="images of every class"):
        guard.calibrate(clean[labels == 2][:60], fpr=0.1)
    with pytest.raises(ConfigurationError, match="at least 1000"):
        guard.calibrate(clean, fpr=0.001)
    for fpr in (0, 1, -0.1, 5):
        with pytest.raises(ConfigurationError, match="share of clean images"):
            guard.calibrate(clean, fpr=fpr)


def test_fitting_says_what_it_needs(classifier: ns.Classifier) -> None:
    x, y = blobs(400, 0)
    guard = ns.Guard(classifier, [KDensity()])
    with pytest.raises(InputError, match="class 3 of 4 has none"):
        guard.fit(x[y < 3], y[y < 3])
    with pytest.raises(InputError, match=r"numbered 0\.\.3"):
        guard.fit(x, y + 1)
    with pytest.raises(InputError, match="400 images but 3 labels"):
        guard.fit(x, y[:3])
    with pytest.raises(ConfigurationError, match="give instances"):
        ns.Guard(classifier, [KDensity])  # type: ignore[list-item]


def test_two_detectors_of_a_kind_get_names() -> None:
    guard = ns.Guard(small_network(0), [KDensity(bandwidth=1), KDensity(bandwidth=2)])
    assert list(guard.detectors) == ["KDensity", "KDensity-2"]
    named = ns.Guard(small_network(0), {"narrow": KDensity(bandwidth=1)})
    assert list(named.detectors) == ["narrow"]


def test_without_detectors_everything_is_accepted(classifier: ns.Classifier) -> None:
    guard = ns.Guard(classifier)
    verdict = guard.judge(blobs(10, 3)[0])
    assert bool(verdict.accepted.all())
    assert not guard.rejects
    assert guard.respond(blobs(10, 3)[0]).rejection is None


def test_it_leaves_the_classifier_as_it_was(classifier: ns.Classifier) -> None:
    x, y = blobs(200, 0)
    classifier.train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    state = torch.get_rng_state()
    ns.Guard(classifier, [KDensity()]).fit(x, y).calibrate(blobs(200, 1)[0]).judge(x)
    assert classifier.training
    assert all(torch.equal(before[name], v) for name, v in classifier.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    classifier.eval()


def test_images_are_streamed_to_the_same_result(digits: Digits) -> None:
    split, guard = digits.split, digits.guard
    streamed = ns.Guard(guard.classifier, [KDensity()])
    streamed.fit(split.train, batch_size=100).calibrate(split.calibration, fpr=0.02)
    ours, theirs = guard.judge(digits.x), streamed.judge(digits.x)
    assert torch.equal(ours.label, theirs.label)
    assert torch.allclose(ours.rejection, theirs.rejection, atol=1e-3)
    assert torch.equal(streamed.seen["fit"], guard.seen["fit"])
    with pytest.raises(InputError, match="leave y out"):
        streamed.fit(split.train, split.train.y)
    with pytest.raises(InputError, match="takes labels"):
        streamed.fit(digits.x)
    with pytest.raises(InputError, match="fit already"):
        streamed.calibrate(split.train)
