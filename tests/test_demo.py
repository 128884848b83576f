"""End to end: the commands as a user types them, the page in a browser, the figures recomputed."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import notsure as ns
from notsure.core.errors import ConfigurationError
from notsure.demo import run_demo
from tests.browser import dump_dom, find_browser

ROOT = Path(__file__).resolve().parents[1]


def notsure(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "notsure", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short demo and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    options = ["--epochs", "8", "--count", "100", "--eps", "0.1", "--eps", "0.15"]
    done = notsure("demo", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "demo", done.stdout


def test_the_demo_leaves_what_it_promises(run: tuple[Path, str]) -> None:
    folder, printed = run
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "records.parquet", "split.json", "ce-k-density"} <= names
    assert "report.html" in printed
    split = json.loads((folder / "split.json").read_text())
    assert split["source"] == "digits"
    guard = ns.Guard.load(folder / "rce-k-density")
    assert guard.classifier.reverse_logits
    assert not [name for name in names if name.startswith(".")]


def _recomputed(rows: list[dict[str, object]], guard: str, eps: float) -> tuple[int, int, int]:
    """n, and how many images survive everything within an eps: lenient and strict."""
    lost: dict[object, bool] = {}
    gone: dict[object, bool] = {}
    for row in rows:
        distance = row["linf"]
        assert isinstance(distance, float)
        if row["guard"] != guard or row["probe"] is not None or distance > eps + 1e-6:
            continue
        right = row["prediction"] == row["y"]
        index = row["index"]
        lost[index] = lost.get(index, False) or bool(row["accepted"] and not right)
        gone[index] = gone.get(index, False) or not (row["accepted"] and right)
    return len(lost), sum(not v for v in lost.values()), sum(not v for v in gone.values())


def test_the_pages_headline_is_recomputed_from_the_records(run: tuple[Path, str]) -> None:
    folder, printed = run
    if find_browser() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no Chromium on PATH")
    page = dump_dom(folder / "report.html")
    assert 'class="main-svg"' in page
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    rows = pq.read_table(folder / "records.parquet").to_pylist()
    for guard in ("CE + K-density", "RCE + K-density"):
        n, lenient, strict = _recomputed(rows, guard, 0.15)
        assert n == 100
        assert guard in text
        for count in (lenient, strict):
            assert f"{100 * count / n:.1f} %" in text
        # the worst case is worse than the best single figure, and the attacks do attack
        assert 0 < lenient < 90
        assert f"{100 * lenient / n:.1f}" in printed


def test_the_page_is_written_again_from_the_records(run: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = run
    out = tmp_path / "again.html"
    done = notsure("report", str(folder), "--out", str(out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 1_000_000


def test_a_second_run_trains_nothing_and_finds_the_same(run: tuple[Path, str]) -> None:
    folder, _ = run
    before = pq.read_table(folder / "records.parquet").drop(["seconds"])
    result = run_demo(out=folder, epochs=8, count=100, eps=(0.1, 0.15), seed=0, progress=False)
    assert result.records.table.drop(["seconds"]).equals(before)


def test_help_and_version_are_quick_and_load_no_torch(tmp_path: Path) -> None:
    for option in ("--help", "--version"):
        script = (
            f"import sys; sys.argv = ['notsure', {option!r}]\n"
            "from notsure.cli import main\n"
            "try: main()\n"
            "except SystemExit as stop: assert not stop.code, stop.code\n"
            "heavy = {'torch', 'numpy', 'sklearn', 'plotly', 'pyarrow'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert notsure("--version", cwd=tmp_path).stdout.strip() == ns.__version__


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["demo", "--data", "nowhere/at/all"], "nowhere/at/all"),
        (["demo", "--arch", "resnet23"], "Did you mean 'resnet32'"),
        (["demo", "--eps", "8"], "8/255"),
        (["demo", "--detector", "oracle"], "K-density, confidence, non-ME"),
        (["demo", "--count", "0"], "at least 1"),
        (["demo", "--out", "file/below"], "give another one"),
        (["report", "missing.parquet"], "no records at"),
    ],
)
def test_errors_are_told_in_a_sentence(arguments: list[str], remedy: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = notsure(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert remedy in done.stderr
    assert done.stderr.startswith("notsure: ")
    assert "Traceback" not in done.stderr


def test_images_too_small_for_an_architecture_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="digits_cnn"):
        run_demo(out=tmp_path, architecture="lenet", progress=False)


def test_mnist_end_to_end(data_root: Path, tmp_path: Path) -> None:
    """The real path of a data set from disk, with few images and steps."""
    split = ns.data.load(data_root / "mnist")
    assert len(split.test) == 10_000
    module = ns.models.build("martin_cnn", in_channels=1, size=28)
    classifier = ns.Classifier(module, mean=(0.1307,), std=(0.3081,))
    recipe = ns.training.Recipe(epochs=1, optimizer="adamw", learning_rate=1e-3)
    ns.training.train(classifier, split.train.select(slice(0, 4000)), recipe=recipe, progress=False)
    guard = ns.Guard(classifier, [ns.detectors.KDensity(max_points=200)])
    fit = split.train.select(slice(0, 4000))
    guard.fit(fit.x, fit.y).calibrate(split.calibration.x[:1000], fpr=0.05)
    test = split.test.select(slice(0, 100))
    attack = ns.attacks.PGD(eps=0.2, steps=10)
    records = ns.evaluate(guard, test.x, test.y, attacks=[attack])
    found = {(r.threat, r.attack): r for r in ns.evaluation.robustness(records)}
    assert found["oblivious", "PGD"].clean_accuracy.value > 0.8
    assert found["white-box", "worst case"].lenient.value < 0.7


def _blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


def test_the_readme_does_what_it_says(tmp_path: Path) -> None:
    blocks = _blocks("README.md")
    assert len(blocks) == 1
    done = subprocess.run(
        [sys.executable, "-c", blocks[0]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "digits.html").exists()
    assert ns.Guard.load(tmp_path / "runs" / "digits-guard").rejects


def test_the_contributing_guides_examples_work(tmp_path: Path) -> None:
    use = """
x = torch.rand(40, 1, 8, 8)
y = torch.zeros(40, dtype=torch.int64)
classifier = ns.Classifier(ns.models.build("digits_cnn"))
assert OneStep(eps=0.2)(classifier, x, y).x.shape == x.shape
guard = ns.Guard(classifier, [SmallNorm()])
try:
    guard.calibrate(x, fpr=0.1)
except ns.NotSureError as error:
    assert "images of every class" in str(error)
"""
    script = "\n".join([*_blocks("CONTRIBUTING.md"), use])
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)


def test_the_results_page_follows_from_the_records() -> None:
    script = runpy.run_path(str(ROOT / "results" / "mnist" / "tables.py"))
    page = (ROOT / "docs" / "results.md").read_text()
    records = ns.Records.read(ROOT / "results" / "mnist" / "records.parquet")
    clean = ns.Records.read(ROOT / "results" / "mnist" / "clean.parquet")
    for lines in (
        script["table_1"](clean),
        script["table_2"](records),
        script["what_is_left"](records),
    ):
        assert len(lines) > 3
        assert "\n".join(lines) in page
