"""Several runs as one: what is joined, what is refused, and that each error names both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from notsure.cli import app
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.evaluation.joining import joined
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import RobustnessRow, robustness
from notsure.report.compare import read_runs, report_runs, run_names
from notsure.report.reading import uneven_attacks
from tests.records import Rows, attacked, clean, synthetic

Y = [0, 1, 2, 0, 1, 2]


def run(
    guard: str = "CE",
    *,
    y: Sequence[int] = Y,
    wrong: int = 3,
    weights: str = "aaaa",
    attack: str = "PGD",
    threat: str = "white-box",
    told: Mapping[str, Any] | None = None,
    pixel: float = 0.25,
    seed: int = 0,
    rows: Sequence[Rows] = (),
    **options: Any,
) -> Records:
    """One guard under one attack that makes the first images wrong."""
    moved = [(label + (place < wrong)) % 3 for place, label in enumerate(y)]
    image = [[pixel] * 16] * len(y)
    low, high = np.linspace(0, 1, len(y)), np.linspace(1, 2, len(y))
    return synthetic(
        clean(guard, y=y, score_A=low, rejection=low - 2, image=image, seed=seed),
        attacked(
            attack, guard=guard, threat=threat, prediction=moved, score_A=high, rejection=high - 2
        ),
        *rows,
        guards={guard: {"weights": weights, **(told or {})}},
        seed=seed,
        **options,
    )


def figures(records: Records, guard: str) -> list[tuple[Any, ...]]:
    return [_figures(row) for row in robustness(records) if row.guard == guard]


def _figures(row: RobustnessRow) -> tuple[Any, ...]:
    return (row.threat, row.attack, row.norm, row.eps, row.lenient, row.strict, row.success)


def test_figures_of_joined_runs_are_those_of_each_run() -> None:
    one, other = run("CE", wrong=3), run("RCE", wrong=1, attack="FGSM", threat="oblivious")
    both = joined([("one", one), ("two", other)])
    assert both.guards == ["CE", "RCE"]
    assert figures(both, "CE") == figures(one, "CE")
    assert figures(both, "RCE") == figures(other, "RCE")
    assert both.meta["threats"] == ["white-box", "oblivious"]
    assert len(both) == len(one) + len(other)
    assert set(both.meta["attacks"]) == set(one.meta["attacks"]) | set(other.meta["attacks"])


def test_one_run_stays_as_it_is() -> None:
    one = run()
    assert joined([("one", one)]) is one


def test_guards_of_one_name_are_told_apart_by_their_runs() -> None:
    one, other = run(wrong=3), run(wrong=1, weights="bbbb")
    both = joined([("march", one), ("april", other)])
    assert both.guards == ["march: CE", "april: CE"]
    assert figures(both, "march: CE") == figures(one, "CE")
    assert figures(both, "april: CE") == figures(other, "CE")
    assert both.meta["guards"]["april: CE"]["weights"] == "bbbb"
    assert set(both.meta["runs"]) == {"march", "april"}


def test_detectors_of_one_run_are_null_in_the_other() -> None:
    other = synthetic(
        clean("RCE", y=Y, score_B=[0.5] * 6), attacked("PGD", guard="RCE", score_B=[1.0] * 6)
    )
    both = joined([("one", run()), ("two", other)])
    assert both.detectors == ["A", "B"]
    assert both.where(guard="RCE").table["score_A"].null_count == 12
    assert both.where(guard="CE").table["score_B"].null_count == 12


def test_parts_of_one_run_share_their_clean_images() -> None:
    one, other = run(attack="PGD", wrong=2), run(attack="FGSM", wrong=3)
    both = joined([("march", one), ("march", other)])
    assert both.guards == ["CE"]
    assert len(both.where(threat="clean")) == 6
    worst = [row for row in robustness(both) if row.attack == "worst case"]
    assert [row.lenient.count for row in worst] == [3]


def test_probes_cover_the_same_images() -> None:
    def probed(guard: str, count: int) -> Records:
        probe = attacked(
            "PGD", guard=guard, threat="white-box", eps=1.0, probe=["unbounded"] * count
        )
        return run(guard, rows=[probe])

    both = joined([("a", probed("CE", 4)), ("b", probed("RCE", 2)), ("c", run("TRADES"))])
    assert both.meta["probed"] == 2
    assert len(both.where(probe="unbounded", guard="CE")) == 2
    assert len(both.where(probe="unbounded", guard="RCE")) == 2


SUITE = {"name": "standard", "version": "1"}


@pytest.mark.parametrize(
    ("other", "both"),
    [
        ({"suite": {**SUITE, "version": "2"}}, ["version '1'", "version '2'"]),
        ({"suite": None}, ["no suite", "version '1'"]),
        ({"suite": {**SUITE, "name": "quick"}}, ["'standard'", "'quick'"]),
        ({"y": [0, 1, 2, 0, 1, 1]}, ["same test images", "labels"]),
        ({"y": Y[:5]}, ["count 6 and 5"]),
        ({"shape": (3, 4, 4)}, ["[1, 4, 4] and [3, 4, 4]"]),
        ({"class_names": ["x", "y", "z"]}, ["['a', 'b', 'c'] and ['x', 'y', 'z']"]),
        ({"pixel": 0.5}, ["other pixels in image 0"]),
        ({"seed": 7}, ["seed 0", "of 7"]),
        ({"includes": {"white-box": []}}, ["includes ['oblivious'", "[] in"]),
    ],
)
def test_runs_that_cannot_be_compared(other: dict[str, Any], both: list[str]) -> None:
    told: dict[str, Any] = {"suite": SUITE, "class_names": ["a", "b", "c"]}
    mine, theirs = run(**told), run("RCE", **{**told, **other})
    with pytest.raises(ConfigurationError) as error:
        joined([("march", mine), ("april", theirs)], sources=["m.parquet", "a.parquet"])
    for words in ("m.parquet", "a.parquet", *both):
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("other", "both"),
    [
        ({"weights": "bbbb"}, ["aaaa", "bbbb", "two guards"]),
        ({"told": {"learnt": "cccc"}}, ["learnt parts None", "cccc", "two guards"]),
        ({"told": {"rule": "all"}}, ["another rule"]),
        ({"told": {"calibration": None}}, ["another calibration"]),
    ],
)
def test_other_guards_under_one_name_in_one_run(other: dict[str, Any], both: list[str]) -> None:
    with pytest.raises(CheckpointError) as error:
        joined(
            [("march", run()), ("march", run(attack="FGSM", **other))],
            sources=["march/a.parquet", "march/b.parquet"],
        )
    for words in ("'CE'", "march/a.parquet", "march/b.parquet", *both):
        assert words in str(error.value)


def test_other_answers_to_the_clean_images_in_one_run() -> None:
    other = synthetic(
        clean("CE", y=Y, prediction=[1, *Y[1:]], score_A=[0.0] * 6),
        attacked("FGSM", guard="CE", threat="white-box", score_A=[0.0] * 6),
        guards={"CE": {"weights": "aaaa"}},
    )
    with pytest.raises(CheckpointError, match="answers the clean images differently"):
        joined([("march", run()), ("march", other)])


def test_the_same_attack_twice_in_one_run() -> None:
    with pytest.raises(ConfigurationError, match="both hold the same run on the guard 'CE'"):
        joined([("march", run()), ("march", run())])
    more = run(rows=[attacked("FGSM", guard="CE", threat="white-box", score_A=[0.0] * 6)])
    with pytest.raises(ConfigurationError, match="the same attack under 'white-box'"):
        joined([("march", run()), ("march", more)])


def test_names_that_would_be_one() -> None:
    with pytest.raises(ConfigurationError, match=r"would both be called 'b: CE'"):
        joined([("a", run("b: CE")), ("b", run("CE")), ("c", run("CE"))])


def test_no_runs_and_sources_that_do_not_fit() -> None:
    with pytest.raises(ConfigurationError, match="no run to join"):
        joined([])
    with pytest.raises(ConfigurationError, match="1 runs and 2 sources"):
        joined([("a", run())], sources=["x", "y"])


def test_runs_are_called_like_their_folders(tmp_path: Path) -> None:
    def names(*files: str) -> list[str]:
        return run_names([tmp_path / file for file in files])

    assert names("a/records.parquet", "b/records.parquet") == ["a", "b"]
    assert names("a/x.parquet", "a/y.parquet") == ["a", "a"]
    assert names("m/run/r.parquet", "n/run/r.parquet", "n/z/r.parquet") == ["m/run", "n/run", "z"]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two runs, written."""
    run("CE", wrong=3).write(tmp_path / "march" / "records.parquet")
    run("CE", wrong=1, weights="bbbb").write(tmp_path / "april" / "records.parquet")
    return [tmp_path / "march", tmp_path / "april"]


def test_runs_are_read_from_folders_and_files(folders: list[Path]) -> None:
    both = read_runs([folders[0], folders[1] / "records.parquet"])
    assert both.guards == ["march: CE", "april: CE"]


def test_the_same_file_twice(folders: list[Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"given twice.*march.*march"):
        read_runs([folders[0], folders[0] / "records.parquet"])


def test_runs_that_are_not_there(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no run"):
        read_runs([])
    with pytest.raises(ConfigurationError, match=r"no records at .*nowhere"):
        read_runs([folders[0], tmp_path / "nowhere"])
    broken = tmp_path / "broken" / "records.parquet"
    broken.parent.mkdir()
    broken.write_bytes((folders[0] / "records.parquet").read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="broken"):
        read_runs([folders[0], broken])


def test_a_run_that_is_not_over(tmp_path: Path) -> None:
    (tmp_path / "half" / "parts").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"half' is not over: make the call again"):
        read_runs([tmp_path / "half"])


def test_comparison_on_the_command_line(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", *map(str, folders), "--format", "md"])
    assert result.exit_code == 0, result.output
    assert result.output == "wrote comparison.md\n"
    page = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "march: CE" in page
    assert "april: CE" in page


def test_guards_that_were_not_attacked_alike_are_told() -> None:
    def told(*runs: Records) -> list[str]:
        return uneven_attacks(joined([(f"run {i}", one) for i, one in enumerate(runs)]))

    one = run("CE", suite=SUITE)
    fewer = run("RCE", suite=SUITE, threat="oblivious")
    larger = attacked("PGD", guard="RCE", threat="white-box", eps=0.3, score_A=[0.0] * 6)
    assert told(one, run("RCE", suite=SUITE, attack="FGSM")) == []
    assert told(one, fewer) == [
        "CE was not attacked under the threat oblivious.",
        "RCE was not attacked under the threat white-box.",
    ]
    (more,) = told(one, run("RCE", suite=SUITE, rows=[larger]))
    assert more == "CE was not attacked within ℓ∞ 0.3 (76.5/255)."  # noqa: RUF001
    # attacks that no suite has chosen are compared one by one
    assert told(run("CE"), run("RCE")) == []
    assert told(run("CE"), run("RCE", attack="FGSM")) == [
        "CE was not attacked by FGSM (white-box).",
        "RCE was not attacked by PGD (white-box).",
    ]


def test_page_of_several_runs(folders: list[Path], tmp_path: Path) -> None:
    written = report_runs(folders, out=tmp_path / "both.html")
    page = written.read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "march: CE" in page
    assert "april: CE" in page
    assert "not attacked alike" not in page
    run("CE", threat="oblivious").write(tmp_path / "may" / "records.parquet")
    written = report_runs([*folders, tmp_path / "may"], out=tmp_path / "three.md")
    assert "may: CE was not attacked under the threat white-box" in written.read_text("utf-8")


def test_one_run_is_reported_beside_its_records(folders: list[Path]) -> None:
    assert report_runs(folders[:1], kind="md") == folders[0] / "report.md"
    assert report_runs(folders[:1]) == folders[0] / "report.html"


@pytest.mark.parametrize(
    ("kind", "out", "words"),
    [
        ("docx", None, "html, md, tex, pdf; got 'docx'"),
        ("md", "paper.pdf", "format is md, but .*paper.pdf"),
        ("html", "paper.md", "format is html, but .*paper.md"),
        ("md", ".", "is a folder"),
        ("html", ".", "is a folder"),
        ("md", "march/records.parquet/paper.md", "Cannot write to the output folder"),
    ],
)
def test_formats_and_files_that_cannot_be(
    folders: list[Path], kind: str, out: str | None, words: str
) -> None:
    path = None if out is None else folders[0].parent / out
    with pytest.raises(ConfigurationError, match=words):
        report_runs(folders, kind=kind, out=path)


def test_out_says_the_format(folders: list[Path], tmp_path: Path) -> None:
    written = report_runs(folders, out=tmp_path / "new" / "paper.MD")
    assert written.read_text(encoding="utf-8").startswith("# What is left")
