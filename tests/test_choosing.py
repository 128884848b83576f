"""Choosing a guard: what is written down, who wins and why, what the folder holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import notsure as ns
from notsure.adapters import load_model
from notsure.choosing import (
    BARE,
    Fitted,
    Settings,
    candidates,
    cross_validated,
    fit_guard,
    load_guard,
)
from notsure.choosing.card import CARD
from notsure.choosing.command import run_fit
from notsure.choosing.fitting import CHOICE, EXAMINED, drawn
from notsure.choosing.inputs import MODEL, Source, of_training
from notsure.choosing.named import detectors_in, purifier_in
from notsure.choosing.results import Result, compared
from notsure.choosing.telling import chosen_because, numbers_of, set_aside, short
from notsure.cli import app
from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    InputError,
    UnsupportedError,
)
from notsure.core.state import seeded
from notsure.core.storage import save_tensors
from notsure.detectors import Confidence, Detector
from notsure.evaluation import WORST_CASE, robustness
from notsure.evaluation.outcomes import Outcomes
from notsure.observation import Observation
from tests.conftest import Digits

BOTH = ["oblivious", "white-box"]


def test_parts_are_written_as_people_write_them() -> None:
    assert str(detectors_in("K-density")[0]) == "KDensity"
    assert [str(one) for one in detectors_in("kdensity + log-odds")] == ["KDensity", "LogOdds"]
    assert str(detectors_in("non-ME")[0]) == "NonMaximalEntropy"
    told = detectors_in("lid(neighbours=5, reference=300) + deep_knn")
    assert [str(one) for one in told] == ["LID(neighbours=5, reference=300)", "DeepKNN"]
    assert told[0].build().settings() == {"neighbours": 5, "reference": 300}
    assert str(purifier_in("PuVAE(latent=4)")) == "PuVAE(latent=4)"
    assert str(purifier_in("denoiser")) == "DenoisingAutoencoder"
    assert (detectors_in("none"), purifier_in("None")) == ((), None)
    comparing = detectors_in("ReconstructionError(of=magnet, p=1)")[0]
    assert str(comparing) == "ReconstructionError(of=MagNet, p=1)"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kdensty", "Did you mean KDensity"),
        ("lid(neighbors=3)", "Did you mean 'neighbours'"),
        ("lid(3)", "cannot be read"),
        ("lid(neighbours=open('x'))", "cannot be read"),
        ("lid(neighbours={[]: 1})", "cannot be read"),
        ("lid + lid", "twice"),
        ("kdensity +", "cannot be read"),
        ("__import__('os').system('true')", "cannot be read"),
        ("learned-combination", "not built from a line of text"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        detectors_in(text)


def test_settings_out_of_range_are_the_parts_own_errors() -> None:
    with pytest.raises(ConfigurationError):
        detectors_in("lid(neighbours=0)")[0].build()
    with pytest.raises(ConfigurationError, match="one purifier"):
        purifier_in("denoiser + magnet")
    with pytest.raises(ConfigurationError, match="takes a trained generator"):
        purifier_in("defense-gan")


def test_candidates_are_every_combination_once() -> None:
    names = [one.name for one in candidates(["kdensity", "none"], ["none", "denoiser"])]
    denoiser = "DenoisingAutoencoder"
    assert names == ["KDensity", f"{denoiser} + KDensity", denoiser]
    auto = candidates(["auto"])
    kinds = {one.detectors[0].kind for one in auto}
    assert len(auto) == len(kinds) == 8
    # what compares with a purifier needs one
    assert "ReconstructionError" not in kinds
    behind = [one.name for one in candidates(["auto"], ["magnet"])]
    assert "MagNet + ReconstructionError" in behind
    assert "MagNet" in behind
    assert all(one.optional for one in auto)
    assert not any(one.optional for one in candidates(["kdensity"]))
    with pytest.raises(ConfigurationError, match="give --purifier, or ReconstructionError"):
        candidates(["kdensity + reconstruction-error"])
    with pytest.raises(ConfigurationError, match="there is no guard"):
        candidates(["none"])


class OffGrid(Detector):
    """How far pixels are from the sixteen greys of the digits: clean images are on all of them.

    Gradient attacks do not end there, and an attacker who rounds would: it looks unbeatable.
    """

    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, observation: Observation) -> torch.Tensor:
        # digits are multiples of 1/16, stored in 8 bits
        x = observation.x
        greys = (torch.arange(17, dtype=x.dtype) / 16 * 255).round() / 255
        return (x[..., None] - greys).abs().amin(dim=4).flatten(1).amax(dim=1)


def _fitted(classifier: ns.Classifier, detector: Detector, digits: Digits) -> ns.Guard:
    return ns.Guard(classifier, [detector]).fit(digits.split.train)


@pytest.fixture(scope="module")
def course(
    digits: Digits, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Sequence[Result], Path]:
    """Three candidates: one is good, one is not, and one only seems unbeatable."""
    with seeded(2):
        hardened = ns.Classifier(ns.models.build("digits_cnn"), mean=0.5, std=1.0)
    ns.training.train(
        hardened,
        digits.split.train,
        objective=ns.training.AdversarialTraining.fast(eps=0.15),
        recipe=ns.training.Recipe(
            epochs=15, batch_size=64, optimizer="adamw", learning_rate=3e-3, schedule="one-cycle"
        ),
        progress=False,
    )
    plain = digits.guard.classifier
    guards = {
        BARE: ns.Guard(plain),
        "plain": _fitted(plain, Confidence(), digits),
        "grid": _fitted(plain, OffGrid(), digits),
        "hardened": _fitted(hardened, Confidence(), digits),
    }
    settings = Settings(fpr=0.02, eps=(0.1, 0.2), folds=2, count=60)
    folder = tmp_path_factory.mktemp("choosing")
    found, left_out = cross_validated(
        guards, digits.split.calibration, settings, kept=[BARE], folder=folder
    )
    assert left_out == {}
    return found, folder


def test_the_good_one_wins_and_the_clearly_worse_is_dropped(
    course: tuple[Sequence[Result], Path],
) -> None:
    found, folder = course
    assert found[0].name == "hardened"
    by_name = {one.name: one for one in found}
    best, plain, bare = by_name["hardened"], by_name["plain"], by_name[BARE]
    assert best.score > plain.score + 0.2
    assert (best.clean_accuracy.n, best.folds, best.looked) == (60, 2, (1, 2))
    assert best.doubts == ()
    assert (plain.clean_accuracy.n, plain.folds) == (30, 1)
    assert plain.dropped.startswith("dropped after fold 1: hardened withstood more on")
    # the network by itself is there to the end, for comparison
    assert (bare.folds, bare.looked, bare.dropped) == (2, (), "")
    for one in found:
        for before, after in zip(one.oblivious, one.white_box, strict=True):
            # who knows the guard can do what those can who do not
            assert not bool((before.fooled & ~after.fooled).any())
            assert not bool((after.held & after.fooled).any())
        small, large = one.white_box
        assert not bool((small.fooled & ~large.fooled).any())
    # each fold attacks images of its own
    images = [
        ns.Records.read(folder / f"fold-{number}" / "records.parquet").meta["images"]
        for number in (1, 2)
    ]
    assert images[0] != images[1]


def test_who_is_ahead_for_lack_of_a_way_through_is_set_aside(
    course: tuple[Sequence[Result], Path],
) -> None:
    found, folder = course
    grid = next(one for one in found if one.name == "grid")
    # the suite breaks nothing, and a closer look does not believe it
    assert grid.score > 0.9
    assert (grid.folds, grid.looked) == (1, (1,))
    assert any(doubt.startswith("survives-unbounded: ") for doubt in grid.doubts)
    assert found[-1] is grid
    settings = Settings(fpr=0.02, eps=(0.1, 0.2), folds=2, count=60)
    told = chosen_because(found, "hardened", settings)
    assert "grid seems to withstand more" in told
    assert "is not believed" in told
    assert "set aside after fold 1" in set_aside(grid)
    assert numbers_of(grid, settings)["doubts"] == list(grid.doubts)
    # the leader was attacked with more effort, and that is in the records
    closer = ns.Records.read(folder / "fold-1-hardened" / "records.parquet")
    attacks = closer.meta["attacks"].values()
    steps = {one["steps"] for one in attacks if one["name"] == "SelectivePGD" and one["eps"] < 1}
    assert 40 in steps  # four times those of the quick suite
    assert [one["queries"] for one in attacks if one["name"] == "Square"] == [1000]


def test_folds_share_no_image_and_thresholds_come_from_the_others(digits: Digits) -> None:
    guard = _fitted(digits.guard.classifier, Confidence(), digits)
    held_out = digits.split.calibration
    settings = Settings(fpr=0.02, eps=(0.05,), folds=2, count=8)
    found, _ = cross_validated({"confidence": guard}, held_out, settings)
    assert found[0].clean_accuracy.n == 8
    # the thresholds of the last fold: one half of the images set them
    assert guard.calibration is not None
    assert guard.calibration.count == len(held_out) // 2
    assert guard.overlap(held_out.x)["calibration"] == len(held_out) // 2


def _result(name: str, *fooled: Sequence[int]) -> Result:
    made = []
    for own in fooled:
        mask = np.array(own, bool)
        made.append(Outcomes(right=~mask, rejected=mask & False, fooled=mask, held=~mask))
    return Result(name, tuple(made), tuple(made), folds=1)


def test_candidates_are_compared_image_by_image() -> None:
    first = _result("first", [0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 1])
    second = _result("second", [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1])
    against = compared(first, second)
    # at how many eps: 2 2 1 0 2 1 against 2 0 0 2 1 1
    assert (against.n, against.gained, against.lost) == (6, 3, 1)
    # a fair coin shows 3 or more heads in 4 throws with probability 5/16
    assert against.p == pytest.approx(5 / 16)
    assert first.score == pytest.approx((5 / 6 + 3 / 6) / 2)
    # one that was dropped is compared over what both were attacked with
    assert compared(first, _result("third", [1, 1], [1, 1])).n == 2


def test_too_few_images_for_the_folds_are_told(digits: Digits) -> None:
    guard = {"confidence": _fitted(digits.guard.classifier, Confidence(), digits)}
    with pytest.raises(ConfigurationError, match=r"cannot resolve a false-positive rate of 0\.001"):
        cross_validated(guard, digits.split.calibration, Settings(fpr=0.001, eps=(0.1,)))
    with pytest.raises(ConfigurationError, match="at least 2 folds"):
        Settings(fpr=0.1, eps=(0.1,), folds=1)
    with pytest.raises(ConfigurationError, match="count=2"):
        Settings(fpr=0.1, eps=(0.1,), folds=3, count=2)


class Broken(Detector):
    """Gives NaN."""

    def settings(self) -> dict[str, Any]:
        return {}

    def score(self, observation: Observation) -> torch.Tensor:
        return observation.logits.sum(dim=1) * torch.nan


def test_only_what_may_be_left_out_is(digits: Digits) -> None:
    parts = {"confidence": Confidence(), "broken": Broken()}
    guards = {name: _fitted(digits.guard.classifier, one, digits) for name, one in parts.items()}
    settings = Settings(fpr=0.02, eps=(0.05,), folds=2, count=6)
    found, left_out = cross_validated(
        guards, digits.split.calibration, settings, optional=["broken"]
    )
    assert [one.name for one in found] == ["confidence"]
    assert "not finite" in left_out["broken"]
    with pytest.raises(InputError, match="not finite"):
        cross_validated(guards, digits.split.calibration, settings)


@pytest.fixture(scope="module")
def checkpoint(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that `train` wrote to a file."""
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    with seeded(1):
        classifier = ns.Classifier(ns.models.build("digits_cnn"), mean=0.5, std=1.0)
    recipe = ns.training.Recipe(epochs=5, batch_size=64, optimizer="adamw", learning_rate=3e-3)
    ns.training.train(
        classifier, digits.split.train, recipe=recipe, checkpoint=path, progress=False
    )
    return path


@pytest.fixture(scope="module")
def fitted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """`notsure guard fit` with two candidates."""
    return _fit(checkpoint, tmp_path_factory.mktemp("guard"))


def _fit(checkpoint: Path, out: Path, **settings: Any) -> Fitted:
    chosen: dict[str, Any] = {
        "detectors": ["confidence", "kdensity"],
        "purifiers": ["none"],
        "fpr": 0.02,
        "eps": ["0.1", "0.15"],
        "norm": "linf",
        "suite": "quick",
        "folds": 2,
        "count": 20,
        "purifier_epochs": None,
        "fit_count": None,
        "by_position": False,
        "skip_bad": False,
        "seed": 0,
        "words": ["notsure", "guard", "fit", "net file"],
    }
    with (out.parent / f"{out.name}.log").open("w") as log:
        console = Console(file=log, width=200)
        source = Source(spec=str(checkpoint))
        return run_fit(source, "digits", out, console, **{**chosen, **settings})


def test_the_folder_holds_the_guard_that_was_examined(fitted: Fitted, digits: Digits) -> None:
    again = ns.Guard.load(fitted.folder)
    assert not (fitted.folder / MODEL).exists()
    verdict, expected = again.judge(digits.x), fitted.guard.judge(digits.x)
    assert torch.equal(verdict.label, expected.label)
    for name, scores in expected.scores.items():
        assert torch.equal(verdict.scores[name], scores)
    # all calibration images set the thresholds in the end, and no test image did
    assert again.calibration is not None
    assert again.calibration.count == len(digits.split.calibration)
    assert again.overlap(digits.x) == {"fit": 0, "calibration": 0}
    assert again.overlap(digits.split.calibration.x)["fit"] == 0


def test_the_better_in_cross_validation_is_taken(fitted: Fitted) -> None:
    best = max((one for one in fitted.results if one.name != BARE), key=lambda one: one.score)
    assert fitted.name == best.name
    told = json.loads((fitted.folder / CHOICE).read_text())
    assert told["chosen"] == fitted.name
    assert {one["name"] for one in told["candidates"]} == {"Confidence", "KDensity", BARE}
    entry = next(one for one in told["candidates"] if one["name"] == best.name)
    assert entry["score"] == pytest.approx(
        np.mean([budget["white_box"]["value"] for budget in entry["budgets"]])
    )
    assert entry["budgets"][0]["white_box"]["n"] == 20
    assert "the network by itself" in told["because"]
    assert "p = " in told["because"]
    # its figures on test images, which had no say in the choice, are told beside those that had
    examined = told["examined"]
    assert examined["suite"] == fitted.records.meta["suite"]
    rows = [row for row in robustness(fitted.records) if row.attack == WORST_CASE]
    assert [
        (one["guard"], one["threat"], one["eps"], one["lenient"]["value"], one["strict"]["count"])
        for one in examined["worst_cases"]
    ] == [(row.guard, row.threat, row.eps, row.lenient.value, row.strict.count) for row in rows]
    assert told["data"]["sizes"] == fitted.split.record.sizes


def test_the_card_has_the_figures_of_the_records(fitted: Fitted) -> None:
    text = (fitted.folder / CARD).read_text()
    records = ns.Records.read(fitted.folder / EXAMINED / "records.parquet")
    rows = [row for row in robustness(records) if row.attack == WORST_CASE]
    threats = {row.threat for row in rows if row.guard == fitted.name}
    assert threats == {"oblivious", "transfer", "query-decisions", "query-scores", "white-box"}
    bare = {(row.threat, row.eps): row for row in rows if row.guard == BARE}
    for row in rows:
        if row.guard != fitted.name or row.eps is None:
            continue
        line = next(
            one
            for one in text.splitlines()
            if one.startswith(f"| {row.threat}: ") and f"linf {row.eps:g} (" in one
        )
        other = bare[row.threat, row.eps]
        assert short(row.lenient) in line
        assert short(row.strict) in line
        assert line.endswith(f"| {short(other.lenient)} |")
    assert "over 20 test images" in text
    assert f"at most 2 %; it rejected {100 * fitted.guard.calibration.measured_fpr:.2f} %" in text  # type: ignore[union-attr]
    assert "notsure guard fit 'net file'" in text
    assert fitted.because in text
    assert "too-few-samples" in text
    # the code that it shows reads it
    assert 'ns.Guard.load("path/to/this/folder")' in text


def test_the_same_command_goes_on_and_another_is_refused(fitted: Fitted, checkpoint: Path) -> None:
    written = (fitted.folder / EXAMINED / "records.parquet").stat().st_mtime_ns
    again = _fit(checkpoint, fitted.folder)
    assert (fitted.folder / EXAMINED / "records.parquet").stat().st_mtime_ns == written
    assert again.because == fitted.because
    with pytest.raises(CheckpointError, match="holds another run"):
        _fit(checkpoint, fitted.folder, eps=["0.12"])


def test_a_guard_that_is_refused_leaves_the_folder_as_it_was(
    checkpoint: Path, tmp_path: Path
) -> None:
    made = _fit(checkpoint, tmp_path / "guard", detectors=["confidence"], count=4)
    card = (made.folder / CARD).read_text()
    with pytest.raises(CheckpointError, match="holds another run"):
        _fit(checkpoint, made.folder, detectors=["confidence"], count=4, fpr=0.2)
    again = ns.Guard.load(made.folder)
    assert again.calibration == made.guard.calibration
    assert (made.folder / CARD).read_text() == card


def test_a_wrong_setting_is_told_before_anything_is_trained(
    checkpoint: Path, tmp_path: Path, digits: Digits
) -> None:
    for wrong in ("lid(neighbours=0)", "reconstruction-error(of=denoiser, p=0)"):
        with pytest.raises(ConfigurationError):
            fit_guard(
                of_training(checkpoint),
                digits.split,
                tmp_path / "none",
                detectors=[wrong],
                purifiers=["denoiser"],
            )
    assert not (tmp_path / "none").exists()


def test_a_purifier_is_trained_and_saved_with_the_guard(
    checkpoint: Path, tmp_path: Path, digits: Digits
) -> None:
    loaded = of_training(checkpoint)
    made = fit_guard(
        loaded,
        digits.split,
        tmp_path / "guard",
        detectors=["reconstruction-error"],
        purifiers=["DenoisingAutoencoder(width=4, bottleneck=4)"],
        purifier_epochs=2,
        fpr=0.05,
        eps=[0.1],
        threats=BOTH,
        count=4,
    )
    assert made.name == "DenoisingAutoencoder(width=4, bottleneck=4) + ReconstructionError"
    assert made.results == ()
    assert not (made.folder / CHOICE).exists()
    x = digits.x[:50]
    assert torch.equal(ns.Guard.load(made.folder).judge(x).label, made.guard.judge(x).label)


BUILDER = '''
import torch
from notsure import models

def build_model():
    torch.default_generator.manual_seed(0)

    class Wrapped(torch.nn.Module):
        """A network that notsure does not know."""

        def __init__(self):
            super().__init__()
            self.inner = models.build("digits_cnn")

        def forward(self, x):
            return {"logits": self.inner(x - 0.5)}

    return Wrapped()
'''


def test_a_guard_around_a_foreign_network_finds_it_again(
    tmp_path: Path, digits: Digits, checkpoint: Path
) -> None:
    (tmp_path / "own.py").write_text(BUILDER)
    network = of_training(checkpoint).classifier.module
    weights = tmp_path / "weights.safetensors"
    save_tensors(weights, {f"inner.{name}": v for name, v in network.state_dict().items()})
    source = Source(spec=f"{tmp_path / 'own.py'}:build_model", checkpoint=str(weights), size=8)
    loaded = source.load()
    made = fit_guard(
        loaded,
        digits.split,
        tmp_path / "guard",
        detectors=["confidence"],
        eps=[0.1],
        threats=BOTH,
        count=4,
    )
    with pytest.raises(CheckpointError, match="hand it in"):
        ns.Guard.load(made.folder)
    source.save(made.folder)
    again = load_guard(made.folder)
    assert torch.equal(again.judge(digits.x).label, made.guard.judge(digits.x).label)
    save_tensors(weights, {f"inner.{k}": v + 0.01 for k, v in network.state_dict().items()})
    with pytest.raises(CheckpointError, match="weights are not those"):
        load_guard(made.folder)


def test_models_that_cannot_be_guarded_are_told_at_once(
    tmp_path: Path, digits: Digits, checkpoint: Path
) -> None:
    loaded = of_training(checkpoint)
    with seeded(3):
        fresh = ns.models.build("digits_cnn")
    untrained = tmp_path / "own.py"
    untrained.write_text("from notsure import models\nbuild = lambda: models.build('digits_cnn')\n")
    with pytest.raises(ConfigurationError, match="hardly more than chance"):
        fit_guard(load_model(f"{untrained}:build", size=8), digits.split, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    hard = ns.Classifier(fresh)
    hard.module.differentiable = False  # type: ignore[assignment]
    silent = replace(loaded, target=hard, no_gradients="it is a service")
    with pytest.raises(UnsupportedError, match="it is a service"):
        fit_guard(silent, digits.split, tmp_path / "none")
    for wrong in (
        {"fpr": 0.0},
        {"eps": ["a"]},
        {"eps": [8]},
        {"eps": [0, 0.1]},
        {"norm": "l1"},
        {"norm": "l2"},
        {"folds": 1},
        {"suite": "fast"},
        {"threats": ["white-box", "magic"]},
        {"detectors": ["confidence", "kdensity"], "fpr": 0.001},
        {"purifier_epochs": 0},
        {"threats": ["oblivious"]},
    ):
        with pytest.raises(ConfigurationError):
            fit_guard(loaded, digits.split, tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()
    plain = tmp_path / "plain.safetensors"
    save_tensors(plain, fresh.state_dict())
    with pytest.raises(CheckpointError, match="weights and no network"):
        Source(spec=str(plain)).load()
    with pytest.raises(ConfigurationError, match="leave size out"):
        Source(spec=str(checkpoint), size=8).load()


def test_test_images_are_drawn_from_all_over(digits: Digits) -> None:
    train = digits.split.train
    by_class = train.select(train.labels.argsort())
    some = drawn(by_class, 60, 0)
    assert set(some.labels.tolist()) == set(range(10))
    assert torch.equal(some.labels, drawn(by_class, 60, 0).labels)
    assert len(drawn(by_class, 10**6, 0)) == len(train)


def test_the_command_reads_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def run(source: Source, data: str, out: Path, console: Console, **settings: Any) -> None:
        asked.update(settings, source=source, data=data, out=out)

    monkeypatch.setattr("notsure.choosing.command.run_fit", run)
    line = ["guard", "fit", "timm:resnet18", "--data", "digits", "--checkpoint", "w.safetensors"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert asked["source"] == Source(spec="timm:resnet18", checkpoint="w.safetensors")
    assert (asked["data"], asked["detectors"], asked["purifiers"]) == (
        "digits",
        ["kdensity"],
        ["none"],
    )
    options = "--detector auto --purifier puvae --purifier none --eps 8/255 --fpr 0.05 --skip-bad"
    done = CliRunner().invoke(app, [*line, *options.split(), "--out", "here"])
    assert done.exit_code == 0, done.output
    assert asked["purifiers"] == ["puvae", "none"]
    assert (asked["eps"], asked["fpr"], asked["skip_bad"]) == (["8/255"], 0.05, True)
    assert asked["out"] == Path("here")
