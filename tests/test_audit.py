"""Audits: figures recomputed from the records, limits, worst images, resuming, what stops one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree  # our own file
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import notsure as ns
from notsure import adapters
from notsure.adapters import Loaded
from notsure.audit import Audit, Requirement, requirements, run_audit
from notsure.audit.preprocessing import explanations
from notsure.cli import app
from notsure.core.errors import CheckpointError, ConfigurationError, DeadlineError, InputError
from notsure.core.stopping import stopping
from notsure.data import Images
from tests.conftest import Digits

EPS = [0.05, 0.1]
COUNT = 40


def bare(digits: Digits, folder: Path) -> Loaded:
    """The digits classifier, by the road of a folder."""
    ns.Guard(digits.guard.classifier).save(folder / "model")
    return adapters.load_model(folder / "model")


def images_of(digits: Digits, count: int = COUNT) -> Images:
    return digits.split.test.select(slice(0, count))


@pytest.fixture(scope="module")
def audited(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, Loaded]:
    """An audit of the bare classifier."""
    folder = tmp_path_factory.mktemp("audit")
    loaded = bare(digits, folder)
    limits = requirements(["robust=0.999", "clean=0.5"])
    done = run_audit(
        loaded, images_of(digits), folder / "out", eps=EPS, limits=limits, most=8, data="digits"
    )
    return done, loaded


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(folder / "records.parquet").to_pylist()
    return [row for row in rows if row["probe"] is None]


def test_the_figures_are_those_of_the_records(audited: tuple[Audit, Loaded]) -> None:
    """Image by image, independently of the library's own tables."""
    done, _ = audited
    rows = _rows(done.folder)
    fooled = dict.fromkeys(range(COUNT), False)
    lost = dict.fromkeys(range(COUNT), False)
    clean = 0
    for row in rows:
        right = row["prediction"] == row["y"]
        clean += row["threat"] == "clean" and right and row["accepted"]
        if row["linf"] <= 0.1 + 1e-6:
            fooled[row["index"]] |= bool(row["accepted"] and not right)
            lost[row["index"]] |= not (row["accepted"] and right)
    told = json.loads((done.folder / "verdict.json").read_text())
    assert told["clean"]["count"] == clean
    assert told["robust"]["count"] == COUNT - sum(fooled.values())
    assert told["strict"]["count"] == COUNT - sum(lost.values())
    assert told["robust"]["n"] == COUNT
    # at least one image falls, and not all do: the figures say something
    assert 0 < told["robust"]["count"] < COUNT
    at = told["by_threat"]["white-box"]
    assert at["0.05"]["lenient"]["count"] >= at["0.1"]["lenient"]["count"]
    assert told["by_threat"].keys() == {
        "oblivious", "transfer", "query-decisions", "query-scores", "white-box"
    }  # fmt: skip


def test_limits_decide_and_are_told(audited: tuple[Audit, Loaded]) -> None:
    done, _ = audited
    told = json.loads((done.folder / "verdict.json").read_text())
    assert not told["passed"]
    assert [(one["figure"], one["met"]) for one in told["limits"]] == [
        ("robust", False), ("clean", True)
    ]  # fmt: skip
    line = done.figures.line
    assert line.startswith("notsure audit: FAIL model on digits, linf 0.1, n = 40: robust ")
    assert "(at least 99.9 %)" in line
    assert "\n" not in line
    suite = ElementTree.parse(done.folder / "junit.xml").getroot()  # noqa: S314
    assert suite.get("tests") == "2"
    assert suite.get("failures") == "1"
    failed = [
        case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None
    ]
    assert failed == ["robust >= 0.999"]


def test_the_worst_images_fool_the_model_from_their_files(
    audited: tuple[Audit, Loaded], digits: Digits
) -> None:
    picture = pytest.importorskip("PIL.Image")
    done, loaded = audited
    folder = done.folder / "adversarial"
    with np.load(folder / "adversarial.npz", allow_pickle=False) as file:
        arrays = dict(file)
    count = len(arrays["x"])
    assert 0 < count <= 8
    assert count == done.worst.kept
    data = images_of(digits)
    clean = data.pixels[arrays["index"]].numpy()
    assert np.array_equal(arrays["clean"], clean)
    assert np.array_equal(arrays["y"], data.labels[arrays["index"]].numpy())
    away = np.abs(arrays["x"].astype(int) - clean.astype(int)).reshape(count, -1).max(axis=1)
    assert away.max() <= 0.1 * 255
    # nearest first
    assert (np.diff(away) >= -1).all()
    verdict = loaded.guard.judge(torch.from_numpy(arrays["x"]).float() / 255)
    assert (verdict.label.numpy() != arrays["y"]).all()
    assert np.array_equal(verdict.prediction.numpy(), arrays["prediction"])
    names = sorted(path.name for path in folder.glob("*-as-*.png"))
    assert len(names) == count
    for row in range(count):
        index, true, answer = (int(arrays[k][row]) for k in ("index", "y", "prediction"))
        stored = picture.open(folder / f"{index:05d}-{true}-as-{answer}.png")
        assert np.array_equal(np.asarray(stored), arrays["x"][row, 0])
        before = picture.open(folder / f"{index:05d}-{true}-clean.png")
        assert np.array_equal(np.asarray(before), clean[row, 0])


def test_an_audit_goes_on_where_it_was_stopped(
    audited: tuple[Audit, Loaded], digits: Digits, tmp_path: Path
) -> None:
    done, loaded = audited
    calls = 0

    def reason() -> Exception | None:
        nonlocal calls
        calls += 1
        return DeadlineError("enough") if calls == 4 else None

    again: dict[str, Any] = {"eps": EPS, "most": 8, "data": "digits"}
    with stopping(reason), pytest.raises(DeadlineError):
        run_audit(loaded, images_of(digits), tmp_path / "out", **again)
    assert not (tmp_path / "out" / "verdict.json").exists()
    stale = tmp_path / "out" / "adversarial"
    stale.mkdir()
    (stale / "old.png").write_bytes(b"")
    second = run_audit(loaded, images_of(digits), tmp_path / "out", **again)
    assert not (stale / "old.png").exists()
    for name in ("index", "attack_id", "prediction", "linf", "queries"):
        # NaN where an attack has no such figure
        np.testing.assert_array_equal(second.records.column(name), done.records.column(name))
    assert second.figures.line.startswith("notsure audit: DONE")
    with pytest.raises(CheckpointError, match="another run"):
        run_audit(loaded, images_of(digits), tmp_path / "out", eps=[0.2], data="digits")


def test_a_guard_is_audited_as_a_whole(digits: Digits, tmp_path: Path) -> None:
    digits.guard.save(tmp_path / "guard")
    loaded = adapters.load_model(tmp_path / "guard")
    limits = (Requirement(figure="strict", at_least=0.0),)
    done = run_audit(loaded, images_of(digits), tmp_path / "out", eps=[0.1], limits=limits)
    figures = done.figures
    assert figures.passed
    assert figures.strict.count <= figures.robust.count
    assert "strict" in figures.line
    rejected = [row for row in _rows(done.folder) if not row["accepted"]]
    assert rejected
    # and not with images that it was fitted on
    with pytest.raises(InputError, match="used in the guard's fit"):
        run_audit(loaded, digits.split.train.select(slice(0, 60)), tmp_path / "seen", eps=[0.1])


# what stops an audit


class Rescaled(nn.Module):
    """The digits network as somebody else exported it: other pixels, other order of classes."""

    def __init__(self, module: nn.Module, scale: float, shift: float, order: list[int]) -> None:
        super().__init__()
        self.module, self.scale, self.shift = module, scale, shift
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.module(x * self.scale + self.shift)
        return logits[:, self.order]


STRAIGHT = list(range(10))


def rescaled(digits: Digits, scale: float, shift: float, order: list[int]) -> Loaded:
    module = Rescaled(digits.guard.classifier.module, scale, shift, order)
    return Loaded(
        target=ns.Classifier(module, mean=0.0, std=1.0).eval(),
        name="theirs",
        origin="a test",
        num_classes=10,
        channels=1,
        size=(8, 8),
        resizing=None,
        mean=(0.0,),
        std=(1.0,),
        class_names=(),
    )


@pytest.mark.parametrize(
    ("scale", "shift", "order", "cause"),
    [
        # what the network wants is x - 0.5, and each of these undoes one habit
        (1 / 255, -0.5, STRAIGHT, r"pixels in 0\.\.255"),
        (1.0, 0.0, [(i + 1) % 10 for i in range(10)], "in different orders"),
        (-1.0, 0.5, STRAIGHT, "black and white exchanged"),
    ],
)
def test_a_model_that_gets_its_images_otherwise_is_not_attacked(
    digits: Digits, tmp_path: Path, scale: float, shift: float, order: list[int], cause: str
) -> None:
    if order != STRAIGHT:
        shift = -0.5
    loaded = rescaled(digits, scale, shift, order)
    data = images_of(digits, 200)
    with pytest.raises(InputError, match=f"likely cause: .*{cause}"):
        run_audit(loaded, data, tmp_path / "out", eps=[0.1])
    assert not (tmp_path / "out").exists()


def test_a_model_that_only_suffers_is_attacked_and_doubted(digits: Digits, tmp_path: Path) -> None:
    """Four of ten classes exchanged: far from guessing, and clearly worse than it could be."""
    loaded = rescaled(digits, 1.0, -0.5, [1, 0, 3, 2, 4, 5, 6, 7, 8, 9])
    settings: dict[str, Any] = {"eps": [0.1], "threats": ["oblivious"], "most": 0}
    done = run_audit(loaded, images_of(digits, 100), tmp_path / "out", **settings)
    assert 0.4 < done.before.value < 0.7
    assert "with classes in another order. If so, the classes of model and data" in done.doubt
    told = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert done.doubt in told["notes"]
    right = rescaled(digits, 1.0, -0.5, STRAIGHT)
    assert run_audit(right, images_of(digits, 100), tmp_path / "right", **settings).doubt == ""


def test_explanations_tell_the_order_of_the_channels() -> None:
    """A network that reads blue first, on images of one colour each."""

    class Brightest(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3)).flip(1)

    labels = torch.arange(90) % 3
    pixels = torch.zeros(90, 3, 4, 4, dtype=torch.uint8)
    pixels[torch.arange(90), labels] = 200
    classifier = ns.Classifier(Brightest(), mean=(0.0,) * 3, std=(1.0,) * 3)
    loaded = Loaded(
        target=classifier, name="m", origin="", num_classes=3, channels=3, size=(4, 4),
        resizing=None, mean=(0.0,) * 3, std=(1.0,) * 3, class_names=(),
    )  # fmt: skip
    tried = explanations(loaded, Images(pixels, labels, ("r", "g", "b")), batch_size=32)
    found = {one.what: one.accuracy.value for one in tried}
    assert found["channels as blue, green, red"] == 1.0
    assert found["range 0..255"] == pytest.approx(1 / 3)
    # renumbering would explain it as well, chosen on one half and counted on the other
    assert found["classes in another order"] == 1.0


def test_guessing_is_not_explained_by_a_renumbering_chosen_afterwards() -> None:
    """Chosen and counted on the same images, the best of all orders would flatter."""

    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seed = torch.Generator().manual_seed(0)
            return torch.rand(len(x), 10, generator=seed) * 5

    labels = torch.arange(100) % 10
    images = Images(torch.zeros(100, 1, 4, 4, dtype=torch.uint8), labels, tuple("0123456789"))
    loaded = Loaded(
        target=ns.Classifier(Noise()), name="m", origin="", num_classes=10, channels=1,
        size=(4, 4), resizing=None, mean=(0.0,), std=(1.0,), class_names=(),
    )  # fmt: skip
    tried = {t.what: t.accuracy for t in explanations(loaded, images, batch_size=100)}
    assert tried["classes in another order"].low < 0.1 < tried["classes in another order"].high


def test_settings_that_cannot_be(digits: Digits, tmp_path: Path) -> None:
    loaded, data = bare(digits, tmp_path), images_of(digits)
    for wrong, match in (
        ({"eps": []}, "budget above 0"),
        ({"eps": [0]}, "budget above 0"),
        ({"eps": [0.1], "suite": "huge"}, "no suite"),
        ({"eps": [0.1], "most": -1}, "at least 0"),
    ):
        settings: dict[str, Any] = dict(wrong)
        with pytest.raises(ConfigurationError, match=match):
            run_audit(loaded, data, tmp_path / "out", **settings)
    for text, match in (
        ("robust", "such as robust=0.4"),
        ("speed=1", "no limit for 'speed'"),
        ("robust=40", r"share in \[0,1\]"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            requirements([text])
    with pytest.raises(ConfigurationError, match="two limits"):
        requirements(["clean=0.5", "clean=0.6"])


def test_without_gradients_the_others_attack(digits: Digits, tmp_path: Path) -> None:
    class Closed(nn.Module):
        differentiable = False

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                logits: torch.Tensor = self.module(x - 0.5)
            return logits

    open_ = rescaled(digits, 1.0, 0.0, STRAIGHT)
    loaded = Loaded(
        **{
            **vars(open_),
            "target": ns.Classifier(Closed(digits.guard.classifier.module)).eval(),
            "no_gradients": "a test closes it",
        }
    )
    with pytest.raises(ConfigurationError, match=r"'white-box' .*a test closes it.*query-scores"):
        run_audit(loaded, images_of(digits), tmp_path, eps=[0.1], threats=["white-box"])
    limits = requirements(["robust=0", "believable=1"])
    done = run_audit(loaded, images_of(digits), tmp_path / "out", eps=[0.15], limits=limits)
    # what chance and a substitute find is no proof that gradients would find no more
    assert [one.met for one in done.figures.limits] == [True, False]
    assert "attacked without gradients" in done.figures.line
    assert set(done.records.column("threat")) == {
        "clean", "transfer", "query-decisions", "query-scores"
    }  # fmt: skip
    assert done.figures.robust.count < done.figures.clean.count
    assert done.worst.kept > 0
    told = json.loads((done.folder / "verdict.json").read_text())
    assert told["no_gradients"] == "a test closes it"


# the command


def notsure(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "notsure", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_the_command(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image folder with a damaged file, classes named, a limit that is missed."""
    pytest.importorskip("PIL")
    from notsure.report.gallery import png

    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    data = images_of(digits, 50)
    for row, (pixels, label) in enumerate(zip(data.pixels, data.labels.tolist(), strict=True)):
        folder = tmp_path / "images" / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row:03d}.png").write_bytes(png(pixels[0].numpy()))
    broken = tmp_path / "images" / "five" / "000-broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    ns.Guard(digits.guard.classifier).save(tmp_path / "model")
    (tmp_path / "mine.py").write_text(
        f"import notsure\nclass_names = {names}\nsize = 8\n"
        "def build():\n    return notsure.Guard.load('model').classifier\n"
    )
    options = ["--data", "images", "--eps", "0.1", "--out", "out", "--threat", "query-scores"]
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    refused = runner.invoke(app, ["audit", "mine.py:build", *options])
    assert "000-broken.png" in str(refused.exception)
    assert "--skip-bad" in str(refused.exception)
    options += ["--skip-bad", "--fail-under", "robust=1"]
    done = notsure("audit", "mine.py:build", *options, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("notsure audit: FAIL mine on images")
    told = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert told["line"] == lines[0]
    assert told["clean"]["n"] == 50
    assert "000-broken.png" in told["skipped"][0]
    assert "renumbered" in " ".join(told["notes"])
    assert told["clean"]["value"] > 0.8
    # the same command reads the audit that is over
    options[-1] = "robust=0"
    again = runner.invoke(app, ["audit", "mine.py:build", *options])
    assert again.exit_code == 0
    assert "PASS" in again.stdout
