"""docs/guards.md: its tables are what the records say, and the records what the scripts make."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "guards"
PAGE = ROOT / "docs" / "guards.md"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "guards_tables.py"))


def test_the_tables_follow_from_the_records(script: dict[str, Any]) -> None:
    page = PAGE.read_text()
    tables = dict(script["tables"]())
    assert set(tables) >= {"examined", "digits", "known guards", "costs"}
    for name, lines in tables.items():
        assert len(lines) > 3
        between = page.split(f"<!-- {name} -->\n", 1)[1].split("<!-- end -->", 1)[0]
        assert between.strip("\n") == "\n".join(lines)


def test_every_choice_has_its_network_and_its_command(script: dict[str, Any]) -> None:
    make = runpy.run_path(str(FOLDER / "make.py"))
    assert tuple(make["RUNS"]) == script["RUNS"]
    assert {path.stem for path in FOLDER.glob("*.json")} == {"garbage", *script["RUNS"]}
    for name, run in make["RUNS"].items():
        told = json.loads((FOLDER / f"{name}.json").read_text())
        data = "path/to/mnist" if run.mnist else "digits"
        assert told["command"].split() == make["words"](name, data, Path("runs/guards"))
        assert f"{run.architecture}, {run.told}, {run.recipe.epochs} epochs" == told["network"]
        # figures of test images stand beside those of the choice
        assert told["examined"]["worst_cases"][0]["lenient"]["n"] == told["settings"]["count"]
        assert {one["threat"] for one in told["examined"]["worst_cases"]} >= {
            "oblivious",
            "white-box",
        }
