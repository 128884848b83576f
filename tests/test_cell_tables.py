"""A row for every published figure, and the files, pages and counts made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.evaluation import area_under_roc
from notsure.evaluation.intervals import wilson
from notsure.studies.cell_tables import (
    HEAD,
    count,
    markdown_count,
    markdown_table,
    read_rows,
    update_page,
    write_rows,
)
from notsure.studies.cells import Cells, published
from notsure.studies.verdicts import (
    BETTER,
    NOT_COMPARABLE,
    WITHIN,
    WORSE,
    Answer,
    answer_area,
    answer_exactly,
    answer_rate,
    judge,
)

ERROR = "pang.t1.mnist.resnet32.ce.clean.error_rate"
CAUGHT = "pang.t2.mnist.resnet32.ce.cw.kdensity.auc"
FAR = "pang.t3.mnist.resnet32.ce.cw_wb.kdensity.distortion"
WESTER = "wester.t3.mnist.puvae_detector.fgsm.accuracy"


def answer(value: float, half: float = 0.0, **settings: Any) -> Answer:
    given = {"value": value, "low": value - half, "high": value + half, "n": 100, "scale": "cpu"}
    return Answer(**{**given, **settings})


def some_answers() -> dict[str, Answer]:
    return {
        ERROR: answer_rate(published()[ERROR], wilson(43, 10_000), scale="paper"),
        CAUGHT: answer(88.0, 2 / 3, n=400, why="5 rounds | not 9"),
        FAR: answer(17.0, 1.0, scale="smoke"),
        "pang.t2.mnist.resnet32.ce.fgsm.kdensity.auc": answer(99.0),
    }


def test_every_cell_has_a_row() -> None:
    rows = judge(published(), some_answers(), {WESTER: "the cpu scale"})
    assert [row.cell for row in rows] == list(published())
    found = {row.cell.cell_id: row for row in rows}
    assert found[ERROR].verdict == WITHIN
    assert found[CAUGHT].verdict == WORSE
    assert found[CAUGHT].why.endswith(
        "higher is better; 5 rounds | not 9; the report prints no kappa"
    )
    assert found[FAR].verdict == NOT_COMPARABLE
    assert found[FAR].ours == 17.0
    assert not found[FAR].answered
    assert found["pang.t2.mnist.resnet32.ce.fgsm.kdensity.auc"].verdict == NOT_COMPARABLE
    assert found["pang.t2.mnist.resnet32.ce.fgsm.kdensity.auc"].answered
    assert found[WESTER].why == "not measured yet, waits for the cpu scale"
    assert found["martin.text.mnist.base.jumprelu.kappa"].why == (
        "not measured yet; a design value of the report, no result"
    )
    numbers = count(rows)
    assert (numbers.cells, numbers.answered, numbers.smoke) == (207, 3, 1)
    assert numbers.share == 3 / 207
    assert numbers.verdicts == {WITHIN: 1, BETTER: 0, WORSE: 1, NOT_COMPARABLE: 205}


def test_answers_of_no_cell_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"There is no cell 'pang\.t9'"):
        judge(published(), {"pang.t9": answer(1)})
    with pytest.raises(ConfigurationError, match="There is no cell"):
        judge(published().where(paper="wester"), some_answers())
    with pytest.raises(ConfigurationError, match="waits for one all the same"):
        judge(published(), some_answers(), {ERROR: "a GPU"})


def test_nothing_to_measure_on_is_an_empty_figure() -> None:
    nothing = answer_area(published()[CAUGHT], area_under_roc([], []), scale="paper")
    (row,) = judge(Cells([published()[CAUGHT]]), {CAUGHT: nothing})
    assert (row.ours, row.n, row.verdict, row.answered) == (None, 0, NOT_COMPARABLE, False)
    assert row.why.startswith("nothing to measure on")


def test_rows_are_written_and_read_exactly(tmp_path: Path) -> None:
    rows = judge(published(), some_answers(), {WESTER: 'a "GPU", or time\n'})
    path = write_rows(tmp_path / "results" / "cells.csv", rows)
    assert read_rows(path) == rows
    before = path.read_bytes()
    assert b"\r" not in before
    backwards = dict(reversed(some_answers().items()))
    write_rows(path, judge(published(), backwards, {WESTER: 'a "GPU", or time\n'}))
    assert path.read_bytes() == before
    line = next(x for x in before.decode().splitlines() if x.startswith(CAUGHT))
    assert line.startswith(f"{CAUGHT},99.4,88.0,87.3333,88.6667,400,cpu,worse,")
    assert [p.name for p in path.parent.iterdir()] == ["cells.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "cells.csv", judge(published(), {}))
    before = path.read_bytes()

    def broken() -> Any:
        yield from judge(published(), some_answers())[:3]
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_rows(path, broken())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["cells.csv"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("error_rate,0.38,", "error_rate,0.39,", "row 1.*judge it again"),
        (",paper,within,", ",paper,fine,", "row 1.*no verdict of ours"),
        (",paper,within,", ",gpu,within,", "row 1.*no verdict of ours"),
        (",10000,", ",many,", "row 1"),
        (",10000,", ",10000,,", "row 1: a row has 9 columns, this has 10"),
        ("cell_id,published", "cell,published", "head is not"),
    ],
)
def test_damaged_rows(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_rows(tmp_path / "cells.csv", judge(published(), some_answers()))
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_rows(path)
    with pytest.raises(ConfigurationError, match="run the study"):
        read_rows(tmp_path / "none.csv")


PAGE = """# Results

<!-- table 1 -->
by hand
<!-- end -->

<!-- cells answered -->
old
<!-- end -->

Words between.

<!-- cells lemesle t2 -->
<!-- end -->

<!-- cells lemesle t3 -->

| old |

<!-- end -->

The end.
"""


def test_the_page_is_written_between_its_markers(tmp_path: Path) -> None:
    cells = published().where(paper="lemesle")
    cell_id = "lemesle.t2.cifar10.resnet32.ce.clean.accuracy"
    given = {cell_id: answer(93.5, 0.25, why="a | b\nc")}
    rows = judge(cells, given)
    page = tmp_path / "results.md"
    page.write_text(PAGE, encoding="utf-8")
    update_page(page, rows)
    text = page.read_text(encoding="utf-8")
    assert "| old |" not in text
    for kept in ("<!-- table 1 -->\nby hand\n<!-- end -->", "\nWords between.\n", "\nThe end.\n"):
        assert kept in text
    first = (
        "| cifar10.resnet32.ce.clean.accuracy | percent | 93.13 | 93.5 [93.25, 93.75] | 100 | cpu "
        "| within | a \\| b c |"
    )
    assert text.count(first) == 1
    assert text.index(first) < text.index("<!-- cells lemesle t3 -->")
    assert "| lemesle | 12 | 1 | 8 % | 0 | 1 | 0 | 0 | 11 |" in text
    assert len(re.findall("kdensity.auc", text)) == 9
    update_page(page, rows)
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- cells lemesle t2 -->\n<!-- end -->\n", "", "cells lemesle t2 --> is missing"),
        ("<!-- cells answered -->", "", "cells answered --> is missing"),
        ("lemesle t2", "lemesle t3", "stands there twice"),
        ("Words", "<!-- cells pang t1 -->\n<!-- end -->", "pang t1 --> is of no table with rows"),
        ("\nold\n<!-- end -->", "\nold\n", "cells answered --> has no <!-- end -->"),
        ("| old |\n\n<!-- end -->", "", "cells lemesle t3 --> has no <!-- end -->"),
    ],
)
def test_pages_that_cannot_be_filled(tmp_path: Path, old: str, new: str, message: str) -> None:
    rows = judge(published().where(paper="lemesle"), {})
    page = tmp_path / "results.md"
    assert old in PAGE
    page.write_text(PAGE.replace(old, new, 1), encoding="utf-8")
    before = page.read_bytes()
    with pytest.raises(ConfigurationError, match=message):
        update_page(page, rows)
    assert page.read_bytes() == before
    with pytest.raises(ConfigurationError, match="no page"):
        update_page(tmp_path / "none.md", rows)


def test_tables_show_bounds_and_all_reports() -> None:
    rows = judge(published(), {})
    bounds = markdown_table(row for row in rows if row.cell.cell_id.startswith("pang.text"))
    shown = [line.split(" | ")[2] for line in bounds[2:]]
    assert shown == ["> 0.99", "< 50", "< 15", "> 95"]
    assert all(line.count("|") == 9 for line in markdown_table(rows))
    papers = [line.split(" | ")[0] for line in markdown_count(rows)[2:]]
    assert papers == ["| pang", "| lemesle", "| wester", "| martin", "| preaut", "| all"]
    assert len(HEAD) == 9
    assert answer_exactly(62006, scale="paper") == answer(62006, n=1, scale="paper")
