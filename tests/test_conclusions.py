"""What the examiner concludes: by hand-made records, and inside a real certificate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import notsure as ns
from notsure.attacks import PGD, RandomNoise
from notsure.core.errors import ConfigurationError
from notsure.evaluation import Certified, conclusions, within_certificate
from notsure.models import Randomized
from notsure.smoothing import certify
from tests.conftest import Digits
from tests.records import attacked, clean, synthetic

COUNT = 400


def predictions(wrong: int) -> list[int]:
    """Of images of class 0, so many are taken for class 1."""
    return [1] * wrong + [0] * (COUNT - wrong)


@pytest.mark.parametrize(
    ("wrong", "clean_wrong", "judgement"),
    [
        (400, 4, "broken"),
        (340, 4, "broken"),
        (310, 4, "weakened"),
        (100, 4, "weakened"),
        (40, 4, "holds"),
        # who is wrong to begin with holds what there is to hold
        (160, 140, "holds"),
    ],
)
def test_the_word_follows_from_the_interval(wrong: int, clean_wrong: int, judgement: str) -> None:
    records = synthetic(
        clean(y=[0] * COUNT, prediction=predictions(clean_wrong)),
        attacked("PGD", threat="white-box", eps=0.1, y=[0] * COUNT, prediction=predictions(wrong)),
    )
    (conclusion,) = conclusions(records)
    assert conclusion.judgement == judgement
    assert conclusion.lenient.count == COUNT - max(wrong, clean_wrong)
    assert conclusion.clean.count == COUNT - clean_wrong
    assert (conclusion.threat, conclusion.norm, conclusion.eps) == ("white-box", "linf", 0.1)


def test_zero_gradients_are_not_believed_but_do_not_save_a_broken_guard() -> None:
    for wrong, judgement in ((40, "not believable"), (400, "broken")):
        records = synthetic(
            clean(y=[0] * COUNT, prediction=predictions(4)),
            attacked(
                "PGD",
                threat="white-box",
                eps=0.1,
                y=[0] * COUNT,
                prediction=predictions(wrong),
                gradients=[40] * COUNT,
                dead_gradients=[30] * COUNT,
            ),
        )
        (conclusion,) = conclusions(records)
        assert conclusion.judgement == judgement
        if judgement == "not believable":
            assert "zero-gradients" in conclusion.because


def test_the_flags_of_one_guard_are_not_held_against_another() -> None:
    rows = []
    for guard, dead in (("masked", 30), ("sound", 0)):
        rows += [
            clean(guard, y=[0] * COUNT, prediction=predictions(4)),
            attacked(
                "PGD",
                guard=guard,
                threat="white-box",
                y=[0] * COUNT,
                prediction=predictions(40),
                gradients=[40] * COUNT,
                dead_gradients=[dead] * COUNT,
            ),
        ]
    words = {one.guard: one.judgement for one in conclusions(synthetic(*rows))}
    assert words == {"masked": "not believable", "sound": "holds"}


def test_unattacked_guards_have_no_conclusion() -> None:
    with pytest.raises(ConfigurationError, match="Nothing has attacked 'guard'"):
        conclusions(synthetic(clean(y=[0] * 4)))


def test_a_certificate_is_counted_by_its_own_radii() -> None:
    records = synthetic(
        clean(y=[0, 1, 2, 3]),
        attacked(
            "PGD",
            norm="l2",
            eps=1.0,
            y=[0, 1, 2, 3],
            l2=[0.5, 0.5, 1.0, 0.2],
            prediction=[0, 2, 0, 3],
        ),
    )
    # 0 inside and kept, 1 inside and lost, 2 outside, 3 without a certified label; and 4 clean ones
    radius, label = np.array([0.6, 0.6, 0.9, 0.5]), np.array([0, 1, 2, -1])
    found = within_certificate(records, "guard", radius, label)
    assert (found.count, found.n) == (1 + 3, 2 + 3)
    with pytest.raises(ConfigurationError, match="as many radii"):
        within_certificate(records, "guard", radius[:2], label[:2])


@pytest.mark.parametrize(
    ("radius", "fooled", "judgement"),
    [(0.6, 4, "holds"), (0.4, 4, "not believable"), (0.6, 60, "not believable")],
)
def test_a_certificate_is_a_proof_unless_it_is_refuted(
    radius: float, fooled: int, judgement: str
) -> None:
    labels = [0] * COUNT
    records = synthetic(
        clean(y=labels, prediction=predictions(4)),
        attacked(
            "PGD",
            threat="white-box",
            norm="l2",
            eps=0.5,
            y=labels,
            l2=[0.5] * COUNT,
            prediction=predictions(fooled),
            gradients=[40] * COUNT,
            dead_gradients=[30] * COUNT,
        ),
    )
    told = Certified(radius=[radius] * COUNT, label=predictions(4))
    (conclusion,) = conclusions(records, {"guard": told})
    assert conclusion.judgement == judgement
    certain = 100 * (COUNT - 4) / COUNT if radius >= 0.5 else 0
    assert f"certified there: {certain:.1f} %" in conclusion.because


def test_smoothing_holds_inside_its_certificate(digits: Digits) -> None:
    noisy = ns.Classifier(Randomized(digits.guard.classifier.module, sigma=0.1), mean=0.5, std=1.0)
    x, y = digits.x[:24], digits.y[:24]
    certificate = certify(noisy, x, count=300)
    radius = float(certificate.radius.median())
    assert radius > 0
    records = ns.evaluate(
        ns.Guard(noisy),
        x,
        y,
        attacks=[PGD(norm="l2", eps=radius, steps=10), RandomNoise(norm="l2", eps=radius)],
        threats=["white-box"],
        probes=0,
    )
    kept = within_certificate(
        records, "classifier", certificate.radius.numpy(), certificate.label.numpy()
    )
    assert kept.n >= 24
    assert kept.value > 0.95
    assert isinstance(certificate.label, torch.Tensor)
