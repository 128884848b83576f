"""The table of defences: complete, true, and the same in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from notsure import correctors, detectors, models, purifiers, training
from notsure.cli import app
from notsure.core.part import Part
from notsure.defences import Entry, catalogue, figures, markdown
from notsure.training import TrainingObjective

PAGE = Path(__file__).resolve().parents[1] / "docs" / "defences.md"
BASES = {
    "Corrector",
    "Detector",
    "Purifier",
    "Autoencoder",
    "LogitObjective",
    "Sum",
    "TrainingObjective",
}


def test_every_public_defence_is_listed() -> None:
    public = set()
    for room in (training, purifiers, detectors, correctors):
        for name in room.__all__:
            kind = getattr(room, name)
            if isinstance(kind, type) and issubclass(kind, Part | TrainingObjective):
                public.add(name)
    public |= {name for name in ("JumpReLU", "Randomized") if hasattr(models, name)}
    assert {entry.name for entry in catalogue()} == public - BASES


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_an_entry_says_everything(entry: Entry) -> None:
    assert entry.summary
    assert entry.fit_cost
    assert entry.query_cost
    assert re.search(r"\d|usual", entry.paper)


def test_the_figures_say_how_they_were_made() -> None:
    content = figures()
    assert "python benchmarks/defences.py" in content["about"]
    for word in ("n =", "seed", "95 %", "eps"):
        assert word in content["about"]
    for row in content["rows"]:
        for rate in ("clean_accuracy", "clean_flagged", "robust_oblivious", "robust_adaptive"):
            assert 0 <= row[rate]["low"] <= row[rate]["value"] <= row[rate]["high"] <= 1
        # who knows the guard can do what those can who do not
        assert row["robust_adaptive"]["value"] <= row["robust_oblivious"]["value"]


def test_the_page_shows_the_table_as_it_is() -> None:
    marker = "<!-- generated -->\n\n"
    assert PAGE.read_text(encoding="utf-8").split(marker)[1] == markdown(), (
        "docs/defences.md is out of date: put the output of `notsure defences --markdown` below "
        "its marker"
    )


def test_the_command_lists_them() -> None:
    result = CliRunner().invoke(app, ["defences"])
    assert result.exit_code == 0
    for name in ("KDensity", "PuVAE", "LogitSVM"):
        assert name[:5] in result.output
    written = CliRunner().invoke(app, ["defences", "--markdown"])
    assert written.output == markdown()
