"""The steps of studies: what they leave is what the library makes, and is made once."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import notsure as ns
from notsure.cli import UNFINISHED, app
from notsure.core.errors import ConfigurationError, DataError, DeadlineError
from notsure.core.state import derived_seed, seeded, weights_hash
from notsure.data import Images
from notsure.purifiers import Purifier
from notsure.studies.datasets import DataSet, drawn
from notsure.studies.declared import DataSpec
from notsure.studies.kinds import Evaluate, FitPurifier, MakeGuard, Train, records_of, study_steps
from notsure.studies.parts import FAMILIES, Builder, completed, described
from notsure.studies.run import plan, run_plan
from notsure.studies.spec import study_of
from notsure.studies.steps import Context, Step
from notsure.studies.store import Store

TINY = """\
name: tiny
title: All kinds of steps on few digits
data:
  digits: {source: digits, train: 300, calibration: 200, test: 120}
defaults:
  networks:
    architecture: digits_cnn
    data: digits
    mean: 0.5
    recipe: {epochs: 3, batch_size: 50, optimizer: adamw, learning_rate: 3e-3, precision: fp32}
  purifiers: {data: digits, recipe: {epochs: 1, batch_size: 50, precision: fp32}}
networks:
  ce: {}
  rce: {objective: ReverseCrossEntropy, seed: 1}
purifiers:
  denoiser: {kind: DenoisingAutoencoder, settings: {width: 4}}
  other: Autoencoder
  several: {kind: MagNet, settings: {count: 2}}
  puvae: {kind: PuVAE, settings: {latent: 2, width: 2, dense: 4}, network: ce}
attacks:
  fgsm: FGSM
  pgd: {kind: PGD, settings: {steps: 3}}
guards:
  density: {network: ce, detectors: {density: KDensity}, fpr: 0.05}
  whole:
    network: rce
    purifier: denoiser
    detectors:
      error: {kind: ReconstructionError, settings: {of: other}}
      both: {kind: LearnedCombination, settings: {detectors: {a: Confidence, b: KDensity}}}
    attack: fgsm
    examples: 200
    fpr: 0.05
    parameters: {width: 4}
evaluations:
  main:
    guards: [density, whole]
    attacks: {oblivious: [fgsm], white-box: [pgd], transfer: [fgsm]}
    substitutes: {bare: {network: rce}}
    eps: [0.2]
    count: 40
    batch_size: 16
    probes: 4
  suite: {guards: [density], suite: quick, threats: [oblivious], eps: [0.1], count: 10, probes: 0}
scales:
  smoke:
"""


def steps_of(text: str, root: Path | None = None) -> dict[str, Step]:
    """The steps of a study by kind and name."""
    study = study_of(text, "tiny.yaml", "smoke")
    return {f"{step.kind} {step.name}": step for step in study_steps(study, root)}


@dataclass(frozen=True)
class Done:
    """A study that was run."""

    store: Store
    steps: dict[str, Step]

    def folder(self, name: str) -> Path:
        return self.store.folder(self.steps[name])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    store, steps = Store(tmp_path_factory.mktemp("store")), steps_of(TINY)
    outcome = run_plan(plan(list(steps.values())), store)
    assert outcome.finished
    return Done(store, steps)


def made_by_hand() -> ns.Guard:
    """The guard "density" of the study, by the library's own calls."""
    split = ns.data.load("digits")
    train = drawn(split.train, 300, 0, what="train")
    with seeded(derived_seed(0, "weights")):
        module = ns.models.build("digits_cnn", num_classes=10, in_channels=1, size=8)
    classifier = ns.Classifier(module, mean=0.5)
    recipe = ns.training.Recipe(
        epochs=3, batch_size=50, optimizer="adamw", learning_rate=3e-3, precision="fp32"
    )
    ns.training.train(classifier, train, recipe=recipe, progress=False)
    guard = ns.Guard(classifier, {"density": ns.detectors.KDensity()})
    guard.fit(train).calibrate(drawn(split.calibration, 200, 0, what="calibration"), fpr=0.05)
    return guard


def apart_from_time(records: ns.Records) -> object:
    return records.table.drop_columns(["seconds"])


def test_a_study_makes_what_the_library_makes(done: Done) -> None:
    by_hand, guard = made_by_hand(), ns.Guard.load(done.folder("guard density"))
    assert weights_hash(guard.classifier.module) == weights_hash(by_hand.classifier.module)
    x = ns.data.load("digits").test.x
    ours, theirs = guard.judge(x), by_hand.judge(x)
    assert torch.equal(ours.label, theirs.label)
    assert torch.equal(ours.scores["density"], theirs.scores["density"])
    bare = ns.Guard.load(done.folder("train ce")).classifier
    assert torch.equal(bare.logits(x), by_hand.classifier.logits(x))


def test_an_evaluation_is_that_of_the_library(done: Done) -> None:
    test = drawn(drawn(ns.data.load("digits").test, 120, 0, what="test"), 40, 0, what="test")
    direct = ns.evaluate(
        {name: ns.Guard.load(done.folder(f"guard {name}")) for name in ("density", "whole")},
        test.x,
        test.y,
        attacks={
            "oblivious": [ns.attacks.FGSM()],
            "white-box": [ns.attacks.PGD(steps=3)],
            "transfer": [ns.attacks.FGSM()],
        },
        threats=["oblivious", "white-box", "transfer"],
        substitutes={"bare": ns.Guard.load(done.folder("train rce")).classifier},
        eps=[0.2],
        batch_size=16,
        probes=4,
    )
    records = records_of(done.folder("evaluate main"))
    assert apart_from_time(records) == apart_from_time(direct)
    assert records.meta["guards"]["whole"]["parameters"] == {"width": 4}
    assert records.meta["guards"]["whole"]["fitted_on"]["name"] == "FGSM"
    assert (records.meta["data"], records.meta["class_names"]) == ("digits", [*"0123456789"])
    assert records_of(done.folder("evaluate suite")).meta["suite"]["name"] == "quick"


def test_a_whole_guard_comes_back_with_its_purifiers(done: Done) -> None:
    guard = ns.Guard.load(done.folder("guard whole"))
    other = Purifier.load(done.folder("fit purifier other") / "purifier.safetensors")
    x = ns.data.load("digits").test.x[:20]
    error = (x - other(x)).flatten(1).square().mean(dim=1).sqrt()
    torch.testing.assert_close(guard.judge(x).scores["error"], error)
    denoiser = Purifier.load(done.folder("fit purifier denoiser") / "purifier.safetensors")
    torch.testing.assert_close(guard.logits(x), guard.classifier.logits(denoiser(x)))


def test_a_result_holds_no_checkpoints(done: Done) -> None:
    files = {name: {p.name for p in done.folder(name).iterdir()} for name in done.steps}
    learnt = {"done.json", "history.json", "purifier.safetensors"}
    assert all(files[f"fit purifier {name}"] == learnt for name in ("several", "puvae", "other"))
    guard = {"done.json", "guard.json", "classifier.safetensors", "parts.safetensors"}
    assert files["train ce"] == {*guard, "history.json"}
    assert files["guard whole"] == guard
    assert files["evaluate main"] == {"done.json", "records.parquet", "run.json"}


def needs_of(step: Step, store: Store) -> dict[str, Path]:
    return {need.identity: store.folder(need) for need in step.needs}


def stopping_after(calls: int) -> Callable[[], float]:
    """A clock whose time is over when it was looked at so often."""
    left = itertools.chain(itertools.repeat(1e9, calls), itertools.repeat(0.0))
    return lambda: next(left)


def test_a_training_stopped_by_the_deadline_ends_the_same(done: Done, tmp_path: Path) -> None:
    step = done.steps["train ce"]
    for _ in range(2):
        # 18 steps in all, cut within an epoch both times
        with pytest.raises(DeadlineError):
            step.run(Context(folder=tmp_path, seconds_left=stopping_after(7)))
        assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]
    step.run(Context(folder=tmp_path))
    for name in ("classifier.safetensors", "history.json", "guard.json"):
        assert (tmp_path / name).read_bytes() == (done.folder("train ce") / name).read_bytes()


def test_a_purifier_stopped_by_the_deadline_ends_the_same(done: Done, tmp_path: Path) -> None:
    step = done.steps["fit purifier several"]
    with pytest.raises(DeadlineError):
        step.run(Context(folder=tmp_path, seconds_left=stopping_after(8)))
    step.run(Context(folder=tmp_path))
    name = "purifier.safetensors"
    whole = done.folder("fit purifier several") / name
    assert (tmp_path / name).read_bytes() == whole.read_bytes()


def test_an_evaluation_stopped_by_the_deadline_ends_the_same(done: Done, tmp_path: Path) -> None:
    step = done.steps["evaluate main"]
    results = needs_of(step, done.store)
    parts = []
    for _ in range(2):
        with pytest.raises(DeadlineError):
            step.run(Context(folder=tmp_path, seconds_left=stopping_after(2), results=results))
        parts.append(len(list((tmp_path / "parts").iterdir())))
    assert parts == [3, 6]
    step.run(Context(folder=tmp_path, results=results))
    records, whole = records_of(tmp_path), records_of(done.folder("evaluate main"))
    assert apart_from_time(records) == apart_from_time(whole)
    assert records.meta == whole.meta


def changed(old: str, new: str) -> set[str]:
    """Which steps have another identity in a study that differs from the tiny one."""
    assert old in TINY
    before, after = steps_of(TINY), steps_of(TINY.replace(old, new))
    assert before.keys() == after.keys()
    return {name for name in before if before[name].identity != after[name].identity}


OF_CE = {
    "train ce", "guard density", "fit purifier puvae", "evaluate main", "evaluate suite"
}  # fmt: skip
OF_RCE = {"train rce", "guard whole", "evaluate main"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ce: {}", "ce: {recipe: {epochs: 4}}", OF_CE),
        ("ce: {}", "ce: {mean: 0.4}", OF_CE),
        ("ce: {}", "ce: {seed: 2}", OF_CE),
        ("ce: {}", "ce: {objective: [CrossEntropy, {kind: LogitSqueezing, settings: {weight: 1}}]}",
         OF_CE),
        ("seed: 1}", "seed: 1, architecture: madry_cnn}", OF_RCE),
        ("latent: 2", "latent: 3", {"fit purifier puvae"}),
        ("{width: 4}}\n  other", "{width: 5}}\n  other",
         {"fit purifier denoiser", "guard whole", "evaluate main"}),
        ("other: Autoencoder", "other: {kind: Autoencoder, settings: {noise: 0.2}}",
         {"fit purifier other", "guard whole", "evaluate main"}),
        ("b: KDensity", "b: {kind: KDensity, settings: {bandwidth: 2}}",
         {"guard whole", "evaluate main"}),
        ("density: KDensity}, fpr: 0.05", "density: KDensity}, fpr: 0.06",
         {"guard density", "evaluate main", "evaluate suite"}),
        ("fgsm: FGSM", "fgsm: {kind: FGSM, settings: {norm: l2}}",
         {"guard whole", "evaluate main"}),
        ("steps: 3", "steps: 4", {"evaluate main"}),
        ("eps: [0.2]", "eps: [0.3]", {"evaluate main"}),
        ("parameters: {width: 4}", "parameters: {width: 5}", {"evaluate main"}),
        ("bare: {network: rce}", "bare: {network: ce}", {"evaluate main"}),
        ("{bare:", "{naked:", {"evaluate main"}),
        ("suite: quick", "suite: standard", {"evaluate suite"}),
        ("test: 120", "test: 110", {"evaluate main", "evaluate suite"}),
        ("calibration: 200", "calibration: 150",
         {"guard density", "guard whole", "evaluate main", "evaluate suite"}),
        # what is said in another way is not another thing
        ("ce: {}", "ce: {objective: {kind: CrossEntropy, settings: {}}, arguments: {}}", set()),
        ("steps: 3", "steps: 3, norm: linf, restarts: 1", set()),
        ("other: Autoencoder", "other: {kind: Autoencoder, settings: {noise: 0.1}}", set()),
        ("title: All", "title: Other", set()),
    ],
)  # fmt: skip
def test_an_identity_changes_with_what_the_result_depends_on(
    old: str, new: str, expected: set[str]
) -> None:
    assert changed(old, new) == expected


def test_every_training_depends_on_its_images() -> None:
    learnt = {name for name in steps_of(TINY) if name.split()[0] in ("train", "fit", "guard")}
    assert changed("train: 300", "train: 299") >= learnt


def test_studies_share_what_they_both_declare() -> None:
    other = TINY.replace("name: tiny", "name: big")
    for old, new in (("ce: {}", "plain: {}"), ("network: ce", "network: plain")):
        other = other.replace(old, new)
    other = other.replace("density: {network", "other: {network").replace("[density", "[other")
    ours, theirs = steps_of(TINY), steps_of(other)
    assert ours["train ce"].identity == theirs["train plain"].identity
    assert ours["guard density"].identity == theirs["guard other"].identity
    # the records hold the guards' names
    assert ours["evaluate main"].identity != theirs["evaluate main"].identity
    assert len(plan([*ours.values(), *theirs.values()])) == len(ours) + 2


def test_networks_of_the_same_content_are_one_step() -> None:
    steps = steps_of(TINY.replace("ce: {}", "ce: {}\n  again: {recipe: {epochs: 3}}"))
    assert "train again" not in steps


def test_identities_do_not_depend_on_the_process_or_on_where_the_data_are(tmp_path: Path) -> None:
    digits = ns.data.load("digits")
    for number in range(2):
        (tmp_path / f"root{number}").mkdir()
        np.savez(
            tmp_path / f"root{number}" / "own.npz",
            x_train=digits.train.pixels,
            y_train=digits.train.labels,
            x_test=digits.test.pixels,
            y_test=digits.test.labels,
        )
    text = TINY.replace("source: digits", "source: own.npz")
    here = {name: step.identity for name, step in steps_of(text, tmp_path / "root0").items()}
    code = (
        "import json, sys; from tests.test_study_kinds import steps_of;"
        "print(json.dumps({n: s.identity for n, s in steps_of(sys.stdin.read()).items()}))"
    )
    environment = {"PYTHONHASHSEED": "7", "NOTSURE_DATA": str(tmp_path / "root1")}
    there = subprocess.run(
        [sys.executable, "-c", code],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
    )
    assert json.loads(there.stdout) == here


def test_steps_travel_to_other_processes() -> None:
    for name, step in steps_of(TINY).items():
        there = pickle.loads(pickle.dumps(step))  # noqa: S301
        assert there.identity == step.identity, name


def test_estimates_grow_with_the_work() -> None:
    few, more = steps_of(TINY), steps_of(TINY.replace("epochs: 3", "epochs: 30"))
    assert few["train ce"].estimate() > 0
    assert more["train ce"].estimate() == pytest.approx(10 * few["train ce"].estimate())
    assert few["evaluate main"].estimate() > 0
    for name in ("denoiser", "other", "puvae"):
        alone, fourfold = (
            steps_of(TINY.replace("recipe: {epochs: 1, batch", f"recipe: {{epochs: {n}, batch"))
            for n in (1, 4)
        )
        short, long = (its[f"fit purifier {name}"].estimate() for its in (alone, fourfold))
        assert long == pytest.approx(4 * short)
        assert short > 0
    hard = TINY.replace("ce: {}", "ce: {objective: AdversarialTraining}")
    assert steps_of(hard)["train ce"].estimate() > 10 * few["train ce"].estimate()


def marked(text: str) -> tuple[str, str]:
    """A text without its mark "§", and the line and column where it stood."""
    before, mark, after = text.partition("§")
    assert mark
    return before + after, f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ce: {}", "ce: {architecture: §digits_cn}", "Did you mean 'digits_cnn'"),
        ("ce: {}", "ce: {arguments: §{depth: 3}}", "does not take that"),
        ("ce: {}", "ce: {arguments: {§size: 8}}", "size is read off the data"),
        ("ce: {}", "ce: {objective: §crossentropy}", "'crossentropy'. Did you mean 'CrossEntropy"),
        ("ce: {}", "ce: {objective: §{kind: LogitSqueezing, settings: {weight: 1}}}", "is a term"),
        ("ce: {}", "ce: {objective: {kind: AdversarialTraining, settings: {attack: §PDG}}}",
         "There is no attack 'PDG'. Did you mean 'PGD'"),
        ("ce: {}", "ce: {objective: §[CrossEntropy, ReverseCrossEntropy]}", "reverse_logits"),
        ("ce: {}", "ce: {recipe: {§epoch: 3}}", "Recipe has no setting 'epoch'. Did you mean"),
        ("ce: {}", "ce: {recipe: {epochs: §2.5}}", "valid integer; got 2.5"),
        ("ce: {}", "ce: {recipe: §{epochs: 0}}", "at least 1"),
        ("ce: {}", "ce: {recipe: {augmentation: {§flips: true}}}", "Did you mean 'flip'"),
        ("ce: {}", "ce: {mean: §[0.5, 0.5]}", "takes 1"),
        ("fgsm: FGSM", "fgsm: §FGMS", "There is no attack 'FGMS'. Did you mean 'FGSM'"),
        ("fgsm: FGSM", "fgsm: §Transfer", "List the attack under the threat 'transfer'"),
        ("steps: 3", "§step: 3", "PGD has no setting 'step'. Did you mean 'steps'"),
        ("steps: 3", "eps: §'a'", "eps has to be a number or a fraction"),
        ("steps: 3", "gradient: {kind: EOT, settings: {§m: 3}}", "EOT has no setting 'm'"),
        ("detectors: {density: KDensity}", "detectors: {density: §kdensity}", "Did you mean 'KDen"),
        ("{of: other}", "{of: §others}", "There is no purifier 'others'. Did you mean 'other'"),
        ("    attack: fgsm\n", "", "LearnedCombination learns from adversarial examples"),
        ("fpr: 0.05}", "§attack: fgsm}", "leave attack out"),
        ("fpr: 0.05}", "fpr: §0.001}", "takes at least 1000"),
        ("kind: PuVAE", "kind: §PuVEA", "There is no purifier 'PuVEA'. Did you mean 'PuVAE'"),
        (", network: ce}\nattacks", "}\nattacks", "PuVAE is trained with a classifier"),
        ("settings: {count: 2}", "§network: ce", "MagNet is trained without a classifier"),
        ("count: 40", "count: §400", "There are 120 test images"),
        ("suite: quick", "suite: §quik", "There is no suite 'quik'"),
        ("threats: [oblivious]", "threats: [§obvious]", "Did you mean 'oblivious'"),
        ("{oblivious: [fgsm]", "{§obvious: [fgsm]", "Did you mean 'oblivious'"),
        ("{oblivious: [fgsm]", "{query-scores: [§fgsm]", "sees scores only"),
        ("{oblivious: [fgsm]", "{oblivious: §[fgsm, fgsm]", "given twice"),
        ("test: 120", "test: §5000", "fewer than 5000"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_anything_runs(old: str, new: str, said: str) -> None:
    assert old in TINY
    text = TINY.replace(old, new, 1)
    text, place = marked(text) if "§" in text else (text, "")
    # a value that is not written at a place of its own is pointed at by what is around it
    with pytest.raises((ConfigurationError, DataError)) as caught:
        steps_of(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"tiny.yaml:{place}")


def test_parts_that_do_not_fit_each_other_are_told(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, (400, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "large.npz", x=x, y=np.arange(400) % 10)
    more = "  large: {source: large.npz}\n  cut: {source: digits, seed: 1}\ndefaults:"
    text = TINY.replace("defaults:", more)
    own = text.replace("settings: {width: 4}}", "settings: {width: 4}, data: large}")
    with pytest.raises(ConfigurationError, match=r"those of 'large.npz' \(1, 12, 12\)"):
        steps_of(own, tmp_path)
    own = text.replace("settings: {width: 4}}", "settings: {width: 4}, data: cut}")
    with pytest.raises(ConfigurationError, match=r"seeds 0 and 1, .* take one cut"):
        steps_of(own, tmp_path)
    own = text.replace("seed: 1}\npurifiers", "seed: 1, data: cut}\npurifiers")
    own = own.replace("    purifier: denoiser\n", "").replace("{of: other}", "{of: null}")
    with pytest.raises(ConfigurationError, match="'density' and 'whole' have other test images"):
        steps_of(own, tmp_path)


def test_missing_data_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTSURE_DATA", raising=False)
    text = TINY.replace("source: digits", "source: mnist")
    with pytest.raises(ConfigurationError, match=r"tiny.yaml:4:20: .*--data-root.*NOTSURE_DATA"):
        steps_of(text)
    (tmp_path / "fashion").mkdir()
    with pytest.raises(DataError, match=r"which has: fashion\. .*hf download ylecun/mnist"):
        steps_of(text, tmp_path)


def test_images_are_drawn_in_the_proportions_of_their_classes() -> None:
    y = torch.tensor([0] * 600 + [1] * 300 + [2] * 100)
    pixels = torch.arange(1000).remainder(256).view(-1, 1, 1, 1).to(torch.uint8)
    images = Images(pixels, y, ("a", "b", "c"))
    some = drawn(images, 100, 3, what="all")
    assert torch.bincount(some.labels).tolist() == [60, 30, 10]
    assert torch.equal(some.pixels, drawn(images, 100, 3, what="all").pixels)
    assert not torch.equal(some.pixels, drawn(images, 100, 4, what="all").pixels)
    assert drawn(images, 1000, 3, what="all") is images
    with pytest.raises(DataError, match="all has 1000 images, fewer than 1001"):
        drawn(images, 1001, 3, what="all")


def test_data_that_changed_after_the_plan_are_refused() -> None:
    found = DataSet.found(DataSpec(source="digits", test=50), None)
    stale = replace(found, digests={**found.digests, "test": "0" * 64})
    assert len(found.images("test")) == 50
    with pytest.raises(DataError, match="not those that the study was planned with"):
        stale.images("test")
    assert len(stale.images("train")) == len(found.images("train"))


@pytest.mark.parametrize("family", ["detector", "purifier", "corrector"])
def test_every_part_is_built_from_its_complete_description(family: str) -> None:
    given: dict[str, object] = {
        "LearnedCombination": {"detectors": {"a": "KDensity"}},
        "DefenseGAN": {"generator": {"kind": "PuVAE", "settings": {"latent": 3}}},
    }
    for name in FAMILIES[family]:
        part = {"kind": name, "settings": given.get(name, {})}
        first = Builder().part(family, part)
        second = Builder().part(family, completed(family, part))
        assert first.settings() == second.settings()


def test_every_attack_is_described_with_its_defaults() -> None:
    for name, kind in FAMILIES["attack"].items():
        told = described(kind())
        assert told["kind"] == name
        assert Builder().part("attack", told).identity == kind().identity


def test_the_command_line_runs_a_study_in_pieces(tmp_path: Path) -> None:
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    cut = TINY.index("purifiers:\n  denoiser")
    text = TINY[:cut] + TINY[TINY.index("attacks:\n  fgsm") :]
    text = text[: text.index("  whole:")] + text[text.index("evaluations:") :]
    text = text.replace("evaluations:", "  bare: {network: ce}\nevaluations:")
    text = text.replace("[density, whole]", "[density, bare]").replace(
        "  purifiers: {data: digits, recipe: {epochs: 1, batch_size: 50, precision: fp32}}\n", ""
    )
    path.write_text(text)
    call = ["run", str(path), "--out", str(out)]
    planned = CliRunner().invoke(app, [*call, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert planned.output.count("to do") == 7
    assert not out.exists()
    stopped = CliRunner().invoke(app, [*call, "--deadline", "0.01s"])
    assert stopped.exit_code == UNFINISHED, stopped.output
    finished = CliRunner().invoke(app, call)
    assert finished.exit_code == 0, finished.output
    assert "white-box" in finished.output
    assert "0 left" in finished.output
    again = CliRunner().invoke(app, call)
    assert "0 steps done" in again.output
    assert "6 done before" in again.output
    assert (out / "tiny-smoke" / "manifest.json").is_file()


def test_the_librarys_study_separates_its_guards(tmp_path: Path) -> None:
    finished = CliRunner().invoke(app, ["run", "digits", "--out", str(tmp_path)])
    assert finished.exit_code == 0, finished.output
    (path,) = tmp_path.glob("*/records.parquet")
    rows = ns.evaluation.robustness(ns.Records.read(path))
    left = {
        (row.guard, row.threat): row.lenient.value
        for row in rows
        if row.eps == 0.2 and row.attack == ns.evaluation.WORST_CASE
    }
    assert left["rce", "oblivious"] > left["ce", "oblivious"]
    assert left["rce", "white-box"] < left["rce", "oblivious"] - 0.1


def test_steps_are_what_they_say() -> None:
    steps = steps_of(TINY)
    kinds = {Train: "train", FitPurifier: "fit purifier", MakeGuard: "guard", Evaluate: "evaluate"}
    for name, step in steps.items():
        assert name.startswith(kinds[type(step)])
    assert [need.name for need in steps["guard whole"].needs] == ["rce", "denoiser", "other"]
    assert [need.name for need in steps["evaluate main"].needs] == ["density", "whole", "rce"]
