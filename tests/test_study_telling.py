"""What a study's machinery tells: durations, estimates, the plan's table, the manifest."""

from __future__ import annotations

import getpass
import io
import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import notsure
from notsure.core.errors import (
    ConfigurationError,
)
from notsure.studies.durations import Estimates, duration_text, parse_duration
from notsure.studies.manifest import write_manifest
from notsure.studies.results import Result
from notsure.studies.run import plan, plan_table, run_plan, run_step
from notsure.studies.store import Store
from tests.toy_steps import (
    Chain,
    Write,
    flip,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("9m", 540),
        ("2h30m", 9000),
        ("45s", 45),
        ("1.5h", 5400),
        (" 1H 5S ", 3605),
        ("1d", 86400),
        (30, 30),
        (0.5, 0.5),
    ],
)
def test_durations_are_read(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "9", "m", "9x", "-3m", "0s", "30m2h", "5m5m", "9m!", 0, -1, math.nan, math.inf]
)
def test_what_is_no_duration_is_an_error(text: str | float) -> None:
    with pytest.raises(ConfigurationError, match="'9m', '2h30m' or '45s'"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.26, "0.3 s"),
        (44.6, "45 s"),
        (59.7, "1 min"),
        (545, "9 min 5 s"),
        (3599.8, "1 h"),
        (9000, "2 h 30 min"),
        (7199, "2 h"),
        (math.nan, "unknown"),
    ],
)
def test_durations_are_told(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# estimates


def finished(kind: str, seconds: float, estimate: float | None) -> Result:
    return Result(Path(), {"kind": kind, "seconds": seconds, "estimate": estimate})


def test_estimates_learn_from_what_steps_of_the_kind_took() -> None:
    known = [finished("write", s, e) for s, e in ((20, 10), (2, 2), (300, 100), (7, None))]
    estimates = Estimates(known)
    # three times, twice and just as long: in the middle, twice
    assert estimates.of(Write(name="a", seconds=50)) == 100
    assert estimates.of(Write(name="a")) == 13.5
    assert Estimates().of(Write(name="a", seconds=50)) == 50
    assert math.isnan(Estimates().of(Write(name="a")))
    assert math.isnan(Estimates([finished("other", 3, 1)]).of(Write(name="a")))


def test_the_table_shows_what_is_done_and_what_is_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    chain = Chain(name="chain [of many]", links=3)
    steps = plan(
        [
            Write(name="end", text="e", sources=(chain, Write(name="first")), seconds=120),
            Write(name="spoilt", text="s", seconds=30),
        ]
    )

    def rows() -> list[list[str]]:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(plan_table(steps, store))
        lines = console.export_text().splitlines()
        cells = [re.split(r"\s*[│┃]\s*", line.strip("│┃ ")) for line in lines if "│" in line]
        return [*cells, [lines[-1].strip()]]

    assert rows() == [
        ["1", "chain [of many]", "chain", "", "to do", "about 277 h 47 min"],
        ["2", "first", "write", "", "to do", "unknown"],
        ["3", "end", "write", "1 2", "to do", "about 2 min"],
        ["4", "spoilt", "write", "", "to do", "about 30 s"],
        ["to do: about 277 h 49 min, and 1 steps of unknown length"],
    ]
    assert not (tmp_path / "s").exists()
    run_plan(steps[1:2] + steps[3:], store)
    flip(store.folder(steps[3]) / "out.txt")
    work = tmp_path / "s" / ".work" / chain.identity
    work.mkdir()
    (work / "checkpoint.json").write_text("{}")
    assert [row[4] for row in rows()[:4]] == ["begun", "done", "to do", "damaged"]
    assert rows()[1][5] == "took 0.0 s"


# the manifest


def test_the_manifest_tells_what_where_and_how_long_and_no_names(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    seeded = Write(name="seeded", text="x", more={"recipe": {"seed": 7}, "runs": [{"seed": 3}]})
    late = Write(name="late", text="y", sources=(seeded,), seconds=9999)
    steps = plan([late])
    run_step(seeded, store)
    outcome = run_plan(steps, store, deadline="1m")
    path = write_manifest(tmp_path / "out", steps, store, outcome, study="toy", scale="smoke")
    assert path == tmp_path / "out" / "manifest.json"
    text = path.read_text()
    told = json.loads(text)
    assert (told["study"], told["scale"], told["finished"]) == ("toy", "smoke", False)
    first, second = told["steps"]
    result = store.result(seeded)
    assert result is not None
    assert first["seconds"] == result.seconds == told["step_seconds"]
    assert first["seeds"] == {"recipe.seed": 7, "runs.0.seed": 3}
    assert (first["done"], first["now"]) == (True, False)
    assert second["done"] is False
    assert "leaves no checkpoints" in second["why"]
    assert told["wall_seconds"] == round(outcome.wall, 3)
    assert told["versions"]["python"] == sys.version.split()[0]
    assert told["versions"].keys() >= {"notsure", "torch", "numpy", "pyarrow"}
    assert told["machine"]["cores"] == os.cpu_count()
    assert told["machine"]["processor"]
    assert told["machine"]["memory_gib"] > 0
    assert "made_with" not in first
    # no absolute path, nobody's name
    assert not re.search(r'"/', text)
    assert str(tmp_path) not in text
    words = {getpass.getuser(), socket.gethostname(), "user", "host", "hostname"}
    assert not words & set(re.findall(r"[\w.-]+", text))


def test_the_manifest_tells_what_was_made_with_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, store = Write(name="it"), Store(tmp_path)
    outcome = run_plan([step], store)
    monkeypatch.setattr("notsure.__version__", "7.0")
    told = json.loads(write_manifest(tmp_path, [step], store, outcome).read_text())
    monkeypatch.undo()
    assert told["versions"]["notsure"] == "7.0"
    assert told["steps"][0]["made_with"] == {"notsure": notsure.__version__}


def test_the_manifest_names_the_commit_of_the_sources(tmp_path: Path) -> None:
    repository = Path(__file__).resolve().parents[1]
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if head.returncode:
        pytest.skip("not run from a checkout")
    step = Write(name="it")
    outcome = run_plan([step], Store(tmp_path))
    told = json.loads(write_manifest(tmp_path, [step], Store(tmp_path), outcome).read_text())
    assert told["commit"]["commit"] == head.stdout.strip()
