"""What studies are made of besides plain trainings: stand-ins, retrofits, fitted attacks, zoo."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import notsure as ns
from notsure.attacks import APGD, JSMA, PGD, AdvGAN, AutoAttack, FittedAdvGAN, Square
from notsure.core.errors import ConfigurationError, DataError
from notsure.core.state import weights_hash
from notsure.data import Images
from notsure.models import JumpReLU, with_jump_relu
from notsure.studies import estimates
from notsure.studies.datasets import drawn
from notsure.studies.kinds import (
    Evaluate,
    FitAttack,
    MakeGuard,
    Retrofit,
    Train,
    records_of,
    study_steps,
)
from notsure.studies.made_of_data import EmbeddedLabels, with_data
from notsure.studies.run import plan, run_plan
from notsure.studies.spec import load_study, study_of
from notsure.studies.steps import Step
from notsure.studies.store import Store
from notsure.training import (
    AdversarialTraining,
    CrossEntropy,
    LabelEmbedding,
    LogitSqueezing,
    TrainingObjective,
)

TEXT = """\
name: parts
title: All that a study can be made of
data:
  digits: {source: digits, train: 400, calibration: 200, test: 120}
defaults:
  networks:
    architecture: digits_cnn
    data: digits
    mean: 0.5
    recipe: {epochs: 12, batch_size: 50, optimizer: adamw, learning_rate: 3e-3, precision: fp32}
  guards: {fpr: 0.05}
networks:
  base: {}
  embedded: {objective: {kind: LabelEmbedding, settings: {temperature: 0.2}}}
  jump: {retrofit: {of: base, kappa: 0.3}}
  found: {retrofit: {of: base, accuracy_loss: 0.05}}
attacks:
  fgsm: FGSM
  advgan: {kind: AdvGAN, settings: {eps: 0.3, width: 4}, network: base,
           recipe: {epochs: 25, batch_size: 50, learning_rate: 4e-3, images: 300, seed: 3}}
guards:
  base: {network: base, detectors: {density: KDensity}}
  jump: {network: jump, detectors: {density: KDensity}}
  learnt:
    network: base
    detectors: {both: {kind: LearnedCombination, settings: {detectors: {a: Confidence}}}}
    attack: advgan
    examples: 150
evaluations:
  main:
    guards: [base, jump]
    attacks:
      oblivious: [fgsm, advgan]
      white-box: [advgan]
      query-decisions: [advgan]
      transfer: [fgsm]
    substitutes: {jumping: {network: jump}}
    eps: [0.2]
    count: 40
    probes: 0
scales:
  smoke:
"""


def steps_of(text: str, root: Path | None = None, cache: Path | None = None) -> dict[str, Step]:
    """The steps of a study by kind and name."""
    study = study_of(text, "parts.yaml", "smoke")
    return {f"{step.kind} {step.name}": step for step in study_steps(study, root, cache=cache)}


@dataclass(frozen=True)
class Done:
    """A study that was run."""

    store: Store
    steps: dict[str, Step]

    def folder(self, name: str) -> Path:
        return self.store.folder(self.steps[name])

    def classifier(self, name: str) -> ns.Classifier:
        return ns.Guard.load(self.folder(name)).classifier


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    store, steps = Store(tmp_path_factory.mktemp("store")), steps_of(TEXT)
    outcome = run_plan(plan(list(steps.values())), store)
    assert outcome.finished
    return Done(store, steps)


def part(name: str, count: int) -> Images:
    return drawn(getattr(ns.data.load("digits"), name), count, 0, what=name)


def with_other(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


def changed(old: str, new: str) -> set[str]:
    """Which steps have another identity in a study that differs from this one."""
    before, after = steps_of(TEXT), steps_of(with_other(old, new))
    assert before.keys() == after.keys()
    return {name for name in before if before[name].identity != after[name].identity}


# --- what was there before


def test_identities_of_plain_steps_are_those_of_the_stores_that_exist() -> None:
    found = {step.name: step.identity for step in study_steps(load_study("digits", "smoke"))}
    # a change here has everything that was ever trained be trained again
    assert found["CrossEntropy"] == "f7fa5ed686f4af16"
    assert found["ReverseCrossEntropy"] == "a8e8b20383dcd793"
    assert found["rce"] == "9b2fcb1a691d8831"


# --- retrofits


def test_a_retrofit_is_the_trained_network_with_jump_relu(done: Done) -> None:
    base, jump = done.classifier("train base"), done.classifier("retrofit jump")
    x = ns.data.load("digits").test.x
    assert torch.equal(jump.module(x - 0.5), with_jump_relu(base.module, 0.3)(x - 0.5))
    assert torch.equal(jump.logits(x), jump.module(x - 0.5))
    units = [unit for unit in jump.module.modules() if isinstance(unit, JumpReLU)]
    assert [unit.kappa for unit in units] == [0.3] * 3
    assert not torch.equal(jump.logits(x), base.logits(x))


def test_a_kappa_is_found_on_the_calibration_images(done: Done) -> None:
    by_hand = ns.training.retrofit(
        done.classifier("train base"), part("calibration", 200), accuracy_loss=0.05
    )
    found = done.classifier("retrofit found")
    assert weights_hash(found.module) == weights_hash(by_hand.module)
    images = part("calibration", 200)
    right = [
        float((one.logits(images.x).argmax(dim=1) == images.y).double().mean())
        for one in (done.classifier("train base"), found)
    ]
    assert right[0] - 0.05 <= right[1] < right[0]


def test_a_retrofit_depends_on_what_it_is_told() -> None:
    of_jump = {"retrofit jump", "guard jump", "evaluate main"}
    assert changed("kappa: 0.3", "kappa: 0.4") == of_jump
    assert changed("kappa: 0.3", "kappa: 0.3, spread: 0.1") == of_jump
    assert changed("accuracy_loss: 0.05", "accuracy_loss: 0.04") == {"retrofit found"}
    # kappa alone asks no image; what it is looked for on does
    assert changed("calibration: 200", "calibration: 150") == {
        "retrofit found", "guard base", "guard jump", "guard learnt", "evaluate main",
    }  # fmt: skip


# --- label embedding


def test_targets_are_made_of_the_training_images(done: Done) -> None:
    train = part("train", 400)
    step = done.steps["train embedded"]
    assert isinstance(step, Train)
    by_hand = step.untrained()
    ns.training.train(
        by_hand,
        train,
        objective=LabelEmbedding.from_class_means(train, temperature=0.2),
        recipe=step.recipe,
        progress=False,
    )
    trained = done.classifier("train embedded")
    assert weights_hash(trained.module) == weights_hash(by_hand.module)
    # targets that leave a share to other classes leave the network less certain
    x = ns.data.load("digits").test.x
    with torch.no_grad():
        certain = [
            float(one.logits(x).softmax(dim=1).amax(dim=1).mean())
            for one in (trained, done.classifier("train base"))
        ]
    assert certain[0] < certain[1] - 0.05


def test_an_identity_rests_on_the_temperature_and_on_no_computed_number() -> None:
    assert changed("temperature: 0.2", "temperature: 0.3") == {"train embedded"}
    settings = steps_of(TEXT)["train embedded"].settings()
    assert settings["objective"] == {"kind": "EmbeddedLabels", "settings": {"temperature": 0.2}}


def test_what_is_made_of_data_is_found_within_other_objectives() -> None:
    images = part("train", 400)
    wanted = LabelEmbedding.from_class_means(images, temperature=0.2)
    inner = EmbeddedLabels(temperature=0.2) + LogitSqueezing(weight=0.1)
    attack = PGD(eps=0.1, steps=2)
    of: TrainingObjective = AdversarialTraining(attack=attack, alpha=0.3, of=inner)
    made = with_data(of, images)
    by_hand = AdversarialTraining(attack=attack, alpha=0.3, of=wanted + LogitSqueezing(weight=0.1))
    assert made.identity == by_hand.identity
    # the placeholder stays as it was, and what needs no images is left alone
    assert "EmbeddedLabels" in of.identity
    plain = AdversarialTraining(attack=attack) + LogitSqueezing(weight=0.1)
    assert with_data(plain, images).identity == plain.identity
    assert with_data(CrossEntropy(), images) == CrossEntropy()
    with pytest.raises(ConfigurationError, match="made of the training images first"):
        inner(torch.zeros(2, 10), torch.zeros(2, dtype=torch.long))


def test_targets_can_be_written_out() -> None:
    rows = [[0.91 if a == b else 0.01 for b in range(10)] for a in range(10)]
    step = steps_of(with_other("{temperature: 0.2}", f"{{targets: {rows}}}"))["train embedded"]
    assert isinstance(step, Train)
    assert step.objective == LabelEmbedding(targets=tuple(map(tuple, rows)))


# --- attacks that are fitted first


@pytest.fixture(scope="module")
def fitted_by_hand(done: Done) -> FittedAdvGAN:
    """The fitted attack of the study, by the library's own calls."""
    images = drawn(part("train", 400), 300, 3, what="train")
    attack = AdvGAN(eps=0.3, width=4, epochs=25, batch_size=50, learning_rate=4e-3)
    return attack.fit(done.classifier("train base"), images.x, images.y, seed=3)


def test_an_attack_is_fitted_on_the_networks_training_images(
    done: Done, fitted_by_hand: FittedAdvGAN
) -> None:
    fitted = FittedAdvGAN.load(done.folder("fit attack advgan") / "attack.safetensors")
    assert fitted.identity == fitted_by_hand.identity
    assert len(fitted.history) == 25
    assert fitted.history[-1] > fitted.history[0]


def test_an_evaluation_with_a_fitted_attack_is_that_of_the_library(
    done: Done, fitted_by_hand: FittedAdvGAN
) -> None:
    test, fitted = drawn(part("test", 120), 40, 0, what="test"), fitted_by_hand
    direct = ns.evaluate(
        {name: ns.Guard.load(done.folder(f"guard {name}")) for name in ("base", "jump")},
        test.x,
        test.y,
        attacks={
            "oblivious": [ns.attacks.FGSM(), fitted],
            "white-box": [fitted],
            "query-decisions": [fitted],
            "transfer": [ns.attacks.FGSM()],
        },
        threats=["oblivious", "white-box", "query-decisions", "transfer"],
        substitutes={"jumping": done.classifier("retrofit jump")},
        eps=[0.2],
        probes=0,
    )
    records = records_of(done.folder("evaluate main"))
    ours, theirs = (one.table.drop_columns(["seconds"]) for one in (records, direct))
    assert ours == theirs
    rows = {
        (row.guard, row.threat): row
        for row in ns.evaluation.robustness(records)
        if row.attack == "AdvGAN"
    }
    # it was fitted against the bare network, and keeps its own eps beside the list
    assert rows["base", "oblivious"].eps == pytest.approx(0.3)
    assert rows["base", "oblivious"].strict.value < 0.6


def test_a_guard_can_learn_from_a_fitted_attack(done: Done, fitted_by_hand: FittedAdvGAN) -> None:
    step = done.steps["guard learnt"]
    assert [(need.kind, need.name) for need in step.needs] == [
        ("train", "base"),
        ("fit attack", "advgan"),
    ]
    guard = ns.Guard.load(done.folder("guard learnt"))
    train = part("train", 400)
    detector = ns.detectors.LearnedCombination({"a": ns.detectors.Confidence()})
    by_hand = ns.Guard(done.classifier("train base"), {"both": detector})
    by_hand.fit(train, attack=fitted_by_hand, examples=150)
    by_hand.calibrate(part("calibration", 200), fpr=0.05)
    x = ns.data.load("digits").test.x[:50]
    assert torch.equal(guard.judge(x).scores["both"], by_hand.judge(x).scores["both"])


def test_a_fitted_attack_depends_on_what_it_is_told() -> None:
    of_advgan = {"fit attack advgan", "guard learnt", "evaluate main"}
    assert changed("{eps: 0.3, width: 4}", "{eps: 0.2, width: 4}") == of_advgan
    assert changed("seed: 3}", "seed: 4}") == of_advgan
    assert changed("images: 300", "images: 299") == of_advgan
    # where a number is written does not matter
    there, here = "width: 4}", "width: 4, epochs: 25}"
    text = with_other(there, here).replace("recipe: {epochs: 25, ", "recipe: {")
    assert (
        steps_of(text)["fit attack advgan"].identity == steps_of(TEXT)["fit attack advgan"].identity
    )
    assert "fit attack advgan" in changed("base: {}", "base: {seed: 1}")


def test_the_same_attack_against_two_networks_is_two() -> None:
    other = "  other: {kind: AdvGAN, settings: {eps: 0.3, width: 4}, network: jump}\nguards:\n  b"
    text = with_other("guards:\n  b", other).replace("[fgsm, advgan]", "[fgsm, advgan, other]")
    steps = steps_of(text)
    assert {"fit attack advgan", "fit attack other"} <= steps.keys()
    assert {need.name for need in steps["evaluate main"].needs} >= {"advgan", "other"}


def test_steps_travel_to_other_processes() -> None:
    for name, step in steps_of(TEXT).items():
        assert pickle.loads(pickle.dumps(step)).identity == step.identity, name  # noqa: S301


# --- what cannot be


def marked(text: str) -> tuple[str, str]:
    """A text without its mark "§", and the line and column where it stood."""
    before, mark, after = text.partition("§")
    assert mark
    return before + after, f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{of: base, kappa: 0.3}", "{of: §bas, kappa: 0.3}", "no network 'bas'. Did you mean"),
        ("{of: base, kappa: 0.3}", "{of: §found, kappa: 0.3}", "retrofitted itself"),
        ("{of: base, kappa: 0.3}", "{of: §jump, kappa: 0.3}", "retrofitted itself"),
        ("{of: base, kappa: 0.3}", "§{of: base}", "kappa or an accuracy_loss"),
        ("kappa: 0.3}", "kappa: 0.3, §kapa: 1}", "Did you mean 'kappa'"),
        ("{of: base, kappa: 0.3}", "§{of: base, kappa: -1}", "kappa has to be at least 0"),
        ("accuracy_loss: 0.05", "accuracy_loss: §1.5", "less than 1"),
        ("{retrofit: {of: base, kappa: 0.3}}", "§{retrofit: {of: base, kappa: 1}, seed: 2}",
         "leave seed out"),
        ("base: {}", "base: {architecture: resnet32}", "holds no nn.ReLU"),
        ("base: {}", "base: §{architecture: null}", "'architecture' missing"),
        ("{temperature: 0.2}", "{§temprature: 0.2}", "LabelEmbedding has no setting 'temprature'"),
        ("{temperature: 0.2}", "{temperature: §0}", "temperature has to be > 0"),
        ("kind: LabelEmbedding, settings: {temperature: 0.2}", "kind: LabelEmbedding",
         "LabelEmbedding needs temperature"),
        (" network: base,\n           recipe", "\n           recipe", "against a network: name it"),
        ("network: base,\n           recipe", "network: §bse,\n           recipe",
         "There is no network 'bse'"),
        ("{epochs: 25,", "{§epoch: 8,", "FitRecipe has no setting 'epoch'. Did you mean 'epochs'"),
        ("{epochs: 25,", "{epochs: §8.5,", "got 8.5"),
        ("width: 4}", "width: 4, epochs: 9}", "epochs stands among the settings as well"),
        ("images: 300", "images: §500", "There are 400 training images, fewer than 500"),
        ("{eps: 0.3, width", "{eps: §3.0, width", "eps has to be > 0, and at most 1"),
        ("fgsm: FGSM", "fgsm: {kind: FGSM, §network: base}", "FGSM is not fitted"),
        ("base: {}", "base: {objective: {kind: AdversarialTraining, settings: {attack: §AdvGAN}}}",
         "only an entry of attacks can be"),
        ("[fgsm, advgan]", "§[advgan, advgan]", "given twice"),
        ("base: {}", "base: {architecture: §'timm:resnet1'}", "timm has no model 'resnet1'"),
        ("base: {}", "base: {architecture: 'timm:test_resnet', arguments: §{depth: 3}}",
         "does not take that"),
        ("base: {}", "base: {architecture: 'timm:densenet121', arguments: §{resize: 8}}",
         "does not take images resized to 8x8"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_anything_runs(old: str, new: str, said: str) -> None:
    if "timm:" in new:
        pytest.importorskip("timm")
    text = with_other(old, new)
    text, place = marked(text) if "§" in text else (text, "")
    with pytest.raises((ConfigurationError, DataError)) as caught:
        steps_of(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"parts.yaml:{place}")


def test_an_attack_fitted_on_other_images_is_told(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (600, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "large.npz", x=x, y=np.arange(600) % 10)
    text = with_other("defaults:\n", "  large: {source: large.npz}\ndefaults:\n")
    text = text.replace("jump: {retrofit", "big: {data: large}\n  jump: {retrofit", 1)
    text = text.replace("network: base,\n           recipe", "network: big,\n           recipe")
    with pytest.raises(ConfigurationError, match=r"those of 'large.npz' \(1, 12, 12\)"):
        steps_of(text, tmp_path)


# --- estimates


def test_estimates_follow_the_passes() -> None:
    plain = estimates.passes_of_attack(PGD(steps=10))
    assert estimates.passes_of_attack(PGD(steps=10, restarts=3)) > 2.5 * plain
    assert estimates.passes_of_attack(PGD(steps=10), stochastic=True) > 15 * plain
    assert estimates.passes_of_attack(Square(queries=500)) == 501
    parts = [estimates.passes_of_attack(one) for one in AutoAttack().parts]
    assert estimates.passes_of_attack(AutoAttack()) == sum(parts)
    assert estimates.passes_of_attack(APGD(targets=9)) > 8 * estimates.passes_of_attack(APGD())
    small, large = (estimates.passes_of_attack(JSMA(gamma=0.1), size) for size in (100, 1000))
    assert large > 9 * small


def test_suites_have_an_estimate_that_grows_with_them() -> None:
    def seconds(
        suite: str, threats: str = "[oblivious, white-box]", network: str = "base"
    ) -> float:
        evaluation = (
            f"evaluations:\n  main: {{guards: [{network}], suite: {suite}, threats: {threats}, "
            "eps: [0.1, 0.2], count: 20}\nscales:\n  smoke:\n"
        )
        step = steps_of(TEXT[: TEXT.index("evaluations:")] + evaluation)["evaluate main"]
        return step.estimate()

    quick, standard, full = (seconds(one) for one in ("quick", "standard", "full"))
    assert 0 < 2 * quick < standard
    assert 1.2 * standard < full
    assert seconds("quick", "[oblivious]") < quick
    assert seconds("quick", "[oblivious, white-box, transfer]") > 1.1 * quick
    assert all(math.isfinite(step.estimate()) for step in steps_of(TEXT).values())


def test_chance_in_a_network_counts() -> None:
    noisy = "base: {architecture: randomized, arguments: {of: digits_cnn, sigma: 0.1}}"
    plain, drawn_often = (
        steps_of(text)["evaluate main"] for text in (TEXT, with_other("base: {}", noisy))
    )
    assert drawn_often.estimate() > 3 * plain.estimate()
    step = steps_of(with_other("kappa: 0.3", "kappa: 0.3, spread: 0.1"))["retrofit jump"]
    assert isinstance(step, Retrofit)
    assert step.stochastic


def test_a_network_of_timm_is_a_network_like_others() -> None:
    pytest.importorskip("timm")
    steps = steps_of(
        with_other("embedded: {", "zoo: {architecture: 'timm:test_resnet'}\n  embedded: {")
    )
    step = steps["train zoo"]
    assert isinstance(step, Train)
    assert step.settings()["architecture"] == "timm:test_resnet"
    assert math.isfinite(step.estimate())
    assert weights_hash(step.untrained().module) == weights_hash(step.untrained().module)
    assert replace(step, seed=1).identity != step.identity


def test_steps_are_what_they_say() -> None:
    kinds = {
        Train: "train",
        Retrofit: "retrofit",
        FitAttack: "fit attack",
        MakeGuard: "guard",
        Evaluate: "evaluate",
    }
    for name, step in steps_of(TEXT).items():
        assert name.startswith(kinds[type(step)])
    assert len({type(step) for step in steps_of(TEXT).values()}) == len(kinds)
