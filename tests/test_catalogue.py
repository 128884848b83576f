"""The table of attacks: complete, true, and the same in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from notsure import attacks
from notsure.attacks.catalogue import Entry, catalogue, markdown
from notsure.attacks.geometry import NORMS
from notsure.cli import app
from notsure.core.errors import ConfigurationError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "attacks.md"


def test_every_public_attack_is_listed() -> None:
    abstract = {"Attack", "BoundedAttack", "MinimumNormAttack", "AdvGAN"}
    public = {
        name
        for name in attacks.__all__
        if isinstance(kind := getattr(attacks, name), type) and issubclass(kind, attacks.Attack)
    }
    assert {entry.name for entry in catalogue()} == public - abstract


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_an_entry_says_everything(entry: Entry) -> None:
    assert set(entry.norms) <= {*NORMS, "l0"}
    assert entry.cost
    assert entry.summary
    assert re.search(r"\d{4}|pang", entry.paper)
    kind = getattr(attacks, entry.name)
    if "norm" in kind.__dataclass_fields__:
        for norm in ({*NORMS} & set(entry.norms)) - {"l1"}:
            kind(norm=norm)
        for norm in {*NORMS} - set(entry.norms):
            with pytest.raises(ConfigurationError):
                kind(norm=norm)


def test_the_page_shows_the_table_as_it_is() -> None:
    marker = "samples that have fallen cost nothing more.\n\n"
    assert PAGE.read_text(encoding="utf-8").split(marker)[1] == markdown(), (
        "docs/attacks.md is out of date: put the output of `notsure attacks --markdown` below its "
        "heading 'The table'"
    )


def test_the_command_lists_them() -> None:
    result = CliRunner().invoke(app, ["attacks"])
    assert result.exit_code == 0
    for name in ("DeepFool", "CarliniWagner", "HopSkipJump"):
        assert name in result.output
    written = CliRunner().invoke(app, ["attacks", "--markdown"])
    assert written.output == markdown()
