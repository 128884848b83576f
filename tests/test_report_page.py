"""The report's page: its structure, what it escapes and refuses, and cases at the edge."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from notsure.core.errors import ConfigurationError
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import WORST_CASE, robustness
from notsure.report import console_table, detection_table, robustness_table, write_report
from tests.report_page import Page, page_of
from tests.report_records import THREATS, Attack, made_up

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def records() -> Records:
    return made_up()


@pytest.fixture(scope="module")
def page(records: Records, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(records, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize(
    ("threats", "warned"),
    [(("oblivious",), True), (("white-box",), False), (("oblivious", "white-box"), False)],
)
def test_banner_appears_for_oblivious_numbers_alone(
    tmp_path: Path, threats: tuple[str, ...], warned: bool
) -> None:
    page = page_of(made_up({"CE": ["KDensity"]}, threats=threats), tmp_path)
    banners = [given for _, given in page.tags if given.get("id") == "oblivious-only"]
    assert len(banners) == warned
    assert ("say nothing about an attacker who knows the detector" in page.text) == warned
    line = next(row for row in page.table("What each attacker knows") if "white-box" in row)
    assert ("no number here is robustness" in line) == warned


def test_threats_are_those_of_the_rows_not_of_the_meta(tmp_path: Path) -> None:
    records = made_up({"CE": ["KDensity"]}, threats=("oblivious",))
    records.meta["threats"] = ["oblivious", "white-box"]
    page = page_of(records, tmp_path)
    assert any(given.get("id") == "oblivious-only" for _, given in page.tags)


def test_what_comes_from_the_user_is_escaped(tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(2)>'
    detector = "</script><b>d"
    other = {"parameters": {evil: 2.0}}
    records = made_up(
        {HOSTILE: [detector], "other": []},
        data=evil,
        class_names=[evil, "bee", "cat"],
        told={HOSTILE: {"parameters": {evil: 1.0}}, "other": other},
    )
    told = {"CE": {"parameters": {"a": 1.0}}, "other": {"parameters": {"a": 2.0}}}
    plain = page_of(made_up({"CE": ["KDensity"], "other": []}, told=told), tmp_path)
    page = page_of(records, tmp_path, title=f"{HOSTILE} report")
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"] * 5
    assert len(page.tags) == len(plain.tags)
    assert page.text.startswith("Skip to the results")
    for words in (HOSTILE, evil, detector):
        assert words in page.text
    assert not [given for _, given in page.tags if "onerror" in given or given.get("src") == "x"]


def test_page_loads_nothing_and_is_one_file(records: Records, tmp_path: Path) -> None:
    path = write_report(records, tmp_path / "deep" / "report.html")
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_size < 10_000_000
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    for tag, given in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = given.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html
    assert path.read_bytes() == write_report(records, tmp_path / "again.html").read_bytes()


def test_page_is_structured_for_those_who_cannot_see_it(page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    assert dict(page.tags)["html"]["lang"] == "en"
    for tag, given in page.tags:
        if tag == "img":
            assert given["alt"]
        if tag == "th":
            assert given["scope"] in {"row", "col", "rowgroup", "colgroup"}
        if given.get("class") == "plot":
            assert given["aria-label"]
            assert given["role"] == "img"
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    targets = {str(g["href"])[1:] for _, g in page.tags if str(g.get("href", "")).startswith("#")}
    assert targets <= set(ids)


def test_attacks_without_a_budget_and_several_norms(tmp_path: Path) -> None:
    attacks: list[Attack] = [
        ("PGD", "linf", 0.1, {"steps": 10}),
        ("PGD", "l2", 1.5, {"steps": 10}),
        ("CarliniWagner", None, None, {"steps": 99}),
    ]
    records = made_up({"CE": ["KDensity"]}, attacks=attacks)
    lines = robustness_table(records)
    assert [(line.norm, line.eps, line.worst) for line in lines] == [
        ("l2", 1.5, False),
        ("l2", 1.5, True),
        ("linf", 0.1, False),
        ("linf", 0.1, True),
        (None, None, False),
    ]
    page = page_of(records, tmp_path)
    groups = [row for row in page.table("What is left of CE") if row.startswith("worst case")]
    assert [row.split(" lenient")[0] for row in groups] == [
        "worst case, ℓ₂ 1.5 (382.5/255)",
        "worst case, ℓ∞ 0.1 (25.5/255)",  # noqa: RUF001
    ]
    plots = [given["data-figure"] for _, given in page.tags if given.get("class") == "plot"]
    assert plots == [
        "split",
        "accuracy-linf",
        "accuracy-l2",
        "attacks-linf",
        "attacks-l2",
        "coverage",
        "distance",
        "distance-attacks",
        "scores-1",
        "generalisation",
    ]


def test_minimum_norm_attacks_alone(tmp_path: Path) -> None:
    attacks: list[Attack] = [("DeepFool", None, None, {}), ("CarliniWagner", None, None, {})]
    page = page_of(made_up({"CE": ["KDensity"]}, attacks=attacks), tmp_path)
    rows = page.table("What is left of CE")
    assert rows[2].startswith("worst case, no budget")
    assert "DeepFool" in page.text


def test_bare_classifier(tmp_path: Path) -> None:
    records = made_up({"classifier": []}, threats=("oblivious",), images=0)
    assert records.column("rejection").dtype.kind == "f"
    assert records.detectors == []
    assert detection_table(records) == []
    page = page_of(records, tmp_path)
    assert "a bare classifier, which never rejects" in page.text
    assert "No guard has a detector" in page.text
    assert "no images, so there are none" in page.text
    assert "no features, so there is no embedding" in page.text
    assert any(given.get("id") == "oblivious-only" for _, given in page.tags)


def test_detector_beside_a_bare_classifier(tmp_path: Path) -> None:
    page = page_of(made_up({"bare": [], "guarded": ["KDensity"]}), tmp_path)
    assert [name for name in page.tables if "detection at" in name] == [
        "guarded: detection at the largest eps, oblivious beside adaptive.",
        "guarded: detection at every eps under every threat.",
    ]


def test_no_successful_image_is_said_in_words(tmp_path: Path) -> None:
    page = page_of(made_up({"CE": ["KDensity"]}, fooled=0.0), tmp_path)
    rows = page.table("CE: detection at the largest eps")[2:]
    assert all(row.count("no success n = 0") == 3 for row in rows)
    assert all("0.0 % [0.0, 6.0], n = 60" in row for row in rows)
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_attacks_of_one_class_are_told_apart() -> None:
    attacks: list[Attack] = [
        ("PGD", "linf", 0.1, {"steps": 10, "restarts": 1}),
        ("PGD", "linf", 0.1, {"steps": 100, "restarts": 1}),
    ]
    lines = robustness_table(made_up({"CE": ["KDensity"]}, attacks=attacks))
    assert [line.attack for line in lines] == [
        "PGD (steps = 10)",
        "PGD (steps = 100)",
        "worst case",
    ]
    assert all(set(line.by_threat) == set(THREATS) for line in lines)
    assert lines[0].by_threat["white-box"] != lines[1].by_threat["white-box"]


def test_features_are_embedded(tmp_path: Path) -> None:
    page = page_of(made_up({"CE": ["KDensity"], "RCE": []}, features=60), tmp_path)
    assert any(given.get("data-figure") == "features" for _, given in page.tags)


@pytest.mark.parametrize("path", ["file/report.html", "file/deep/report.html"])
def test_folder_that_cannot_be_written_to(records: Records, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match="Cannot write"):
        write_report(records, tmp_path / path)


def test_path_that_is_a_folder(records: Records, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a folder"):
        write_report(records, tmp_path)


def test_records_that_no_report_can_be_made_of(records: Records, tmp_path: Path) -> None:
    twice = Records.of([records.table.to_pydict(), made_up(seed=1).table.to_pydict()], records.meta)
    for bad, words in (
        (records.where(guard="nobody"), "no records"),
        (records.where(threat="clean"), "clean images alone"),
        (twice, "several seeds"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            write_report(bad, tmp_path / "report.html")
        with pytest.raises(ConfigurationError, match=words):
            console_table(bad)
    assert not list(tmp_path.iterdir())


def test_console_tables_fit_a_terminal(records: Records) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    for table in console_table(records):
        console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    row = next(
        row
        for row in robustness(records)
        if (row.guard, row.threat, row.attack, row.eps) == ("CE", "white-box", WORST_CASE, 0.3)
    )
    lenient, strict = (f"{100 * rate.value:.1f} \\[" for rate in (row.lenient, row.strict))
    assert re.search(rf"white-box\s+{lenient}.*\]\s+{strict}", text)
    assert "clean rejection" in text


def test_console_takes_no_markup_from_names() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*console_table(made_up({"[red]CE[/red]": []})))
    assert "[red]CE[/red]" in console.export_text()
