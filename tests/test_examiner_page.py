"""docs/examiner.md and docs/results.md: their Python runs as printed, and tells what we tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import notsure as ns
from notsure.evaluation import Records, detection, robustness
from notsure.evaluation.outcomes import outcomes
from tests.conftest import Digits

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str) -> list[str]:
    """The Python of a page, block by block."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


def block_with(page: str, words: str) -> str:
    (found,) = [block for block in blocks(page) if words in block]
    return found


def printed(
    code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: Path
) -> str:
    """What a block prints, run in a folder."""
    monkeypatch.chdir(where)
    capsys.readouterr()
    exec(compile(code, "page", "exec"), {})  # noqa: S102 - our own page
    return capsys.readouterr().out


def left_at(records: Records, eps: float) -> dict[str, float]:
    """Lenient robust accuracy over all threats and attacks within linf eps, by guard."""
    return {
        guard: 1 - outcomes(records.where(guard=guard), norm="linf", eps=eps).fooled.mean()
        for guard in records.guards
    }


@pytest.mark.parametrize("library", ["duckdb", "pandas"])
def test_robust_accuracy_is_recomputed_as_shown(
    library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(library)
    words = {"duckdb": "import duckdb", "pandas": 'groupby(["guard", "index"])'}[library]
    text = printed(block_with("examiner.md", words), monkeypatch, capsys, ROOT)
    wanted = left_at(Records.read(ROOT / "results" / "mnist" / "records.parquet"), 0.3)
    assert len(wanted) == 6
    for guard, share in wanted.items():
        (line,) = [one for one in text.splitlines() if re.search(rf"\b{re.escape(guard)}\s", one)]
        (number,) = re.findall(r"\d+\.\d+(?:e-\d+)?", line)
        assert float(number) == pytest.approx(share, abs=5e-4)


def test_an_area_is_recomputed_as_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    text = printed(block_with("examiner.md", "roc_auc_score"), monkeypatch, capsys, ROOT)
    (row,) = [
        row
        for row in detection(Records.read(ROOT / "results" / "mnist" / "records.parquet"))
        if (row.guard, row.attack, row.eps, row.threat)
        == ("CE + K-density", "BIM", 0.1, "oblivious")
        and not row.control
    ]
    area, count = text.split()
    assert float(area) == pytest.approx(row.successful.value)
    assert int(count) == row.successful.positives


def test_a_known_guards_figure_is_recomputed_as_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    text = printed(block_with("results.md", "known-guards"), monkeypatch, capsys, ROOT)
    rows = robustness(Records.read(ROOT / "results" / "known-guards" / "magnet.parquet"))
    (row,) = [
        row
        for row in rows
        if (row.attack, row.norm, row.threat) == ("worst case", "l2", "white-box")
    ]
    assert float(text) == pytest.approx(row.lenient.value)


def test_the_example_runs(
    digits: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As printed, but on a few images and on this test's guard."""
    code = block_with("examiner.md", "ns.evaluate")
    names = re.findall(r"\"(r?ce-k-density)\"", code)
    assert names == ["ce-k-density", "rce-k-density"]
    for name in names:
        digits.guard.save(tmp_path / "runs" / "demo" / name)
    assert code.count("[:300]") == 2
    text = printed(code.replace("[:300]", "[:24]"), monkeypatch, capsys, tmp_path)
    for name in names:
        assert f"{name} broken" in text or f"{name} not believable" in text or f"{name} w" in text
        folder = tmp_path / "runs" / "examined" / name
        assert (folder / "report.html").is_file()
        assert ns.Records.read(folder / "records.parquet").meta["suite"]["name"] == "quick"
    assert "too-few-samples" in text
    # and the two stand side by side, as the page says
    from notsure.report.compare import read_runs

    both = read_runs([tmp_path / "runs" / "examined" / name for name in names])
    assert both.guards == names
