"""Audits as pipelines meet them: odd names, odd threats, models that print, wrong settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import notsure as ns
from notsure.adapters import Loaded
from notsure.audit import run_audit
from notsure.audit.compare import _names
from notsure.audit.preprocessing import explanations
from notsure.audit.requirements import budgets_of
from notsure.cli import app
from notsure.core.errors import ConfigurationError
from notsure.data import Images
from tests.conftest import Digits
from tests.test_audit import bare, images_of


def test_under_attacks_without_a_budget_the_budget_asked_for_counts(
    digits: Digits, tmp_path: Path
) -> None:
    """HopSkipJump alone: it fools every image at some distance, and few within a small budget."""
    loaded = bare(digits, tmp_path)
    done = run_audit(
        loaded, images_of(digits), tmp_path / "out", eps=[0.02], threats=["query-decisions"], most=4
    )
    figures = done.figures
    rows = done.records.where(threat="query-decisions")
    wrong = rows.column("prediction") != rows.column("y")
    within = wrong & (rows.column("linf") <= 0.02 + 1e-6)
    clean = done.records.where(threat="clean")
    lost = set(rows.column("index")[within])
    lost |= set(clean.column("index")[clean.column("prediction") != clean.column("y")])
    assert wrong.sum() > within.sum()
    assert (figures.eps, figures.robust.count) == (0.02, 40 - len(lost))
    assert figures.by_threat["query-decisions"]["0.02"]["lenient"] == figures.robust
    assert figures.judgement != "broken"


def test_the_judgement_is_that_of_the_figure_beside_it(digits: Digits, tmp_path: Path) -> None:
    """Of two threats of which neither includes the other, the one that leaves less decides."""
    loaded = bare(digits, tmp_path)
    done = run_audit(
        loaded, images_of(digits), tmp_path / "out", eps=[0.2],
        threats=["oblivious", "query-decisions"], most=0,
    )  # fmt: skip
    assert done.figures.robust.high < 0.2
    assert done.figures.judgement == "broken"


def test_settings_are_checked_before_anything_is_loaded() -> None:
    good: dict[str, Any] = {"norm": "linf", "suite": "quick", "threats": []}
    assert budgets_of(["8/255", 0.1, 0.1], **good) == [8 / 255, 0.1]
    for eps, changed, told in (
        ([8], {}, "8 of 255 levels are 8/255"),
        ([0.1], {"norm": "l1"}, "linf or l2"),
        ([0.1], {"suite": "huge"}, "no suite"),
        ([0.1], {"threats": ["black-box"]}, "no threat 'black-box'"),
    ):
        settings: dict[str, Any] = {**good, **changed}
        with pytest.raises(ConfigurationError, match=told):
            budgets_of(eps, **settings)
    assert budgets_of([3.0], **{**good, "norm": "l2"}) == [3.0]
    runner = CliRunner()
    found = runner.invoke(app, ["audit", "nowhere", "--data", "nothing", "--suite", "huge"])
    assert "no suite 'huge'" in str(found.exception)


def test_brackets_in_names_are_no_markup_and_prints_no_verdict(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PIL")
    from notsure.report.gallery import png

    names = [f"[b{i}]" if i % 2 else f"[/b{i}]".replace("/", "-") for i in range(10)]
    data = images_of(digits)
    root = tmp_path / "images [v2]" / "[red]"
    for row, (pixels, label) in enumerate(zip(data.pixels, data.labels.tolist(), strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row:03d}.png").write_bytes(png(pixels[0].numpy()))
    ns.Guard(digits.guard.classifier).save(tmp_path / "model")
    (tmp_path / "[m].py").write_text(
        f"import notsure\nclass_names = {names}\nsize = 8\n"
        "def build():\n    print('made')\n    return notsure.Guard.load('model').classifier\n"
    )
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(
        app,
        ["audit", "[m].py:build", "--data", str(root), "--eps", "0.1", "--threat", "query-scores",
         "--out", "out [/b]", "--count", "30", "--worst", "2"],
    )  # fmt: skip
    assert found.exit_code == 0, found.exception
    assert found.stdout.startswith("notsure audit: DONE [m] on [red]")
    assert found.stdout.count("\n") == 1
    assert "made" in found.stderr
    for told in ("[b1]", "images [v2]/[red]", "out [/b]/report.html"):
        assert told in found.stderr


def test_a_probability_in_place_of_a_logit_is_told(digits: Digits, tmp_path: Path) -> None:
    """One answer in (0, 1): as a logit it is always positive, so that class 1 always wins."""

    class Sigmoid(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.module(x - 0.5)
            odd = logits[:, 1::2].logsumexp(dim=1) - logits[:, ::2].logsumexp(dim=1)
            return odd.sigmoid()

    data = images_of(digits, 100)
    odd = Images(data.pixels, data.labels % 2, ("even", "odd"))
    classifier = ns.Classifier(Sigmoid(digits.guard.classifier.module)).eval()
    loaded = Loaded(
        target=classifier, name="m", origin="", num_classes=2, channels=1, size=(8, 8),
        resizing=None, mean=(0.0,), std=(1.0,), class_names=(),
    )  # fmt: skip
    tried = {one.what: one for one in explanations(loaded, odd, batch_size=32)}
    assert tried["its answer as the probability of class 1"].accuracy.value > 0.9
    with pytest.raises(ns.NotSureError, match=r"likely cause: .*torch\.logit"):
        run_audit(loaded, odd, tmp_path / "out", eps=[0.1])
    # what yields logits is not suspected of it
    whole = bare(digits, tmp_path)
    tried = {one.what: one for one in explanations(whole, data, batch_size=32)}
    assert "its answer as the probability of class 1" not in tried


def test_a_file_names_a_model_and_not_its_function() -> None:
    assert _names(["nets/a.py:build", "b.py:build", "timm:resnet18"]) == ["a", "b", "resnet18"]
    assert _names(["a.py:one", "a.py:two"]) == ["a.py:one", "a.py:two"]


def test_the_verdict_is_json_of_its_own_types(digits: Digits, tmp_path: Path) -> None:
    done = run_audit(
        bare(digits, tmp_path), images_of(digits), tmp_path / "out", eps=[0.1],
        threats=["query-scores"], most=1,
    )  # fmt: skip

    def refuse(word: str) -> None:
        raise AssertionError(word)

    told = json.loads((done.folder / "verdict.json").read_text(), parse_constant=refuse)
    assert np.isclose(told["robust"]["value"], done.figures.robust.value)


def test_answers_that_are_no_numbers_are_told(digits: Digits, tmp_path: Path) -> None:
    loaded = bare(digits, tmp_path)
    with torch.no_grad():
        next(loaded.classifier.parameters()).fill_(torch.nan)
    with pytest.raises(ns.NotSureError, match="40 of 40 clean images with NaN"):
        run_audit(loaded, images_of(digits), tmp_path / "out", eps=[0.1])


def test_whether_gradients_were_followed_is_read_off_the_records(
    digits: Digits, tmp_path: Path
) -> None:
    loaded = bare(digits, tmp_path)
    for threat, followed in (("query-scores", False), ("oblivious", True)):
        done = run_audit(
            loaded, images_of(digits), tmp_path / threat, eps=[0.1], threats=[threat], most=0
        )
        assert done.figures.by_gradients is followed
        assert ("without gradients" in done.figures.line) is not followed
