"""The report's page in a headless browser: sizes, schemes, keys, downloads."""

from __future__ import annotations

import csv
import io
import os
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from notsure.evaluation.records import Records
from notsure.report import detection_table, write_report
from notsure.report.formatting import area_text
from tests.browser import find_browser
from tests.devtools import PATIENCE, Tab, tab
from tests.report_records import EVERY_THREAT, MANY, made_up

HOSTILE = "<script>alert(1)</script>"
FOCUSABLE = "a[href], button, select, summary, input, textarea, [tabindex]"


@pytest.fixture(scope="module")
def delicate() -> Records:
    """What is hard to draw: a hostile name, a long one, a guard without detectors, all figures."""
    return made_up(
        {HOSTILE: ["KDensity"], "a guard with a rather long name": []},
        threats=EVERY_THREAT,
        attacks=MANY,
        features=40,
        purified=True,
        controls=("untrained-detector",),
        told={HOSTILE: {"parameters": {"width": 1}}},
    )


@pytest.fixture(scope="module")
def path(delicate: Records, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(delicate, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    if find_browser() is None:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain("there is no Chromium on PATH")
    with tab() as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet(browser: Tab) -> Iterator[None]:
    """No page may write to its console, whatever is done with it."""
    browser.written.clear()
    yield
    assert browser.written == []


def test_every_figure_is_drawn(browser: Tab, path: Path) -> None:
    browser.show(path)
    count = browser.drawn()
    names = browser.run("[...document.querySelectorAll('.plot')].map((p) => p.dataset.figure)")
    assert names == [
        "split",
        "guards-linf",
        "accuracy-linf",
        "attacks-linf",
        "coverage",
        "distance",
        "distance-attacks",
        "queries",
        "transfer",
        "scores-1",
        "generalisation",
        "features",
    ]
    assert count == len(names)
    # the name is drawn as text
    title = browser.run(
        "document.querySelector('[data-figure=coverage] .annotation-text').textContent"
    )
    assert HOSTILE in title


def test_another_attack_can_be_chosen(browser: Tab, path: Path, delicate: Records) -> None:
    browser.show(path)
    browser.drawn()
    browser.run(
        """(() => {
        const select = document.querySelector("select[data-figure=scores-1]");
        select.value = [...select.options].map((o) => o.value).find((n) => n.startsWith("FGSM"));
        select.dispatchEvent(new Event("change"));
        })()"""
    )
    line = next(
        one
        for one in detection_table(delicate)
        if (one.attack, one.eps, one.detector) == ("FGSM", 0.3, "KDensity")
    )
    for row in line.by_threat.values():
        words = f"AUC {area_text(row.successful)}"
        browser.until(
            f"document.querySelector('.plot[data-figure=scores-1]').textContent.includes('{words}')"
        )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_page_is_never_wider_than_its_window(
    browser: Tab, path: Path, width: int, dark: bool
) -> None:
    browser.show(path, width=width, dark=dark)
    browser.drawn()
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    edges = "[...document.querySelectorAll('.plot .main-svg')].map((s) => {}.right)"
    assert max(browser.run(edges.format("s.getBoundingClientRect()"))) <= width


def test_dark_scheme_reaches_the_figures(browser: Tab, path: Path) -> None:
    colours = {}
    for dark in (False, True):
        browser.show(path, dark=dark)
        browser.drawn()
        colours[dark] = (
            browser.run("getComputedStyle(document.body).backgroundColor"),
            browser.run("document.querySelector('[data-figure=split] .xtick text').style.fill"),
        )
    assert colours[False] == ("rgb(255, 255, 255)", "rgb(28, 33, 40)")
    assert colours[True] == ("rgb(19, 23, 28)", "rgb(230, 233, 237)")
    # a scheme that changes while the page is open is followed
    light = {"name": "prefers-color-scheme", "value": "light"}
    browser.call("Emulation.setEmulatedMedia", features=[light])
    browser.until(
        "document.querySelector('[data-figure=split] .xtick text').style.fill === 'rgb(28, 33, 40)'"
    )


def test_tab_reaches_every_control_and_leaves_it(browser: Tab, path: Path) -> None:
    browser.show(path)
    browser.drawn()
    browser.run(
        f"""[...document.querySelectorAll({FOCUSABLE!r})].filter(
        (one) => one.tabIndex >= 0 && one.checkVisibility()
        ).forEach((one, i) => {{ one.dataset.place = i; }})"""
    )
    count = browser.run("document.querySelectorAll('[data-place]').length")
    assert count > 40
    reached = []
    for _ in range(count):
        browser.press("Tab")
        reached.append(browser.run("Number(document.activeElement.dataset.place ?? -1)"))
    assert reached == list(range(count))
    browser.press("Tab", shift=True)
    assert browser.run("Number(document.activeElement.dataset.place)") == count - 2
    # what has the focus shows it
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_skip_link_and_folds_work_by_key(browser: Tab, path: Path) -> None:
    browser.show(path)
    browser.press("Tab")
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter")
    browser.until("location.hash === '#left'")
    browser.run("document.querySelector('#words summary').focus()")
    assert not browser.run("document.querySelector('#words').open")
    browser.press("Enter")
    browser.until("document.querySelector('#words').open")


def _downloaded(folder: Path, name: str) -> str:
    """A file that a page saved, once it is there."""
    end = time.monotonic() + PATIENCE
    while not (folder / name).is_file():
        assert time.monotonic() < end, f"{name} did not come, but {list(folder.iterdir())}"
        time.sleep(0.05)
    return (folder / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["split", "coverage", "transfer", "images-1"])
def test_figures_and_their_data_can_be_downloaded(
    browser: Tab, path: Path, tmp_path: Path, name: str
) -> None:
    browser.show(path, dark=True)
    browser.download_to(tmp_path)
    for kind in ("svg", "csv"):
        browser.run(f"document.querySelector('button[data-figure={name}][data-as={kind}]').click()")
    picture = ET.fromstring(_downloaded(tmp_path, f"{name}.svg"))  # noqa: S314 - our own file
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(picture.itertext())
    rows = list(csv.DictReader(io.StringIO(_downloaded(tmp_path, f"{name}.csv"))))
    assert {row["guard"] for row in rows} >= {HOSTILE}
    if name.startswith("images"):
        pictures = list(picture.iter("{http://www.w3.org/2000/svg}image"))
        # with what the purifier makes of each, and differences beside the clean ones
        assert len(pictures) == 3 * (2 + 3 * len(EVERY_THREAT))
        assert all(one.get("href", "").startswith("data:image/png") for one in pictures)
        assert "white-box" in words
    else:
        # in the colours of the light scheme, on white
        assert re.search(r"28, ?33, ?40", ET.tostring(picture, encoding="unicode"))
        assert ("fooled" if name == "transfer" else "%") in words


def test_tables_can_be_downloaded(browser: Tab, path: Path, tmp_path: Path) -> None:
    browser.show(path)
    browser.download_to(tmp_path)
    names = browser.run("[...document.querySelectorAll('a[download]')].map((a) => a.download)")
    assert names == ["robustness.csv", "detection.csv", "distortions.csv", "costs.csv"]
    browser.run("document.querySelectorAll('a[download]').forEach((link) => link.click())")
    for name in names:
        rows = list(csv.DictReader(io.StringIO(_downloaded(tmp_path, name))))
        assert {row["guard"] for row in rows} >= {HOSTILE}
        assert {row["threat"] for row in rows} == set(EVERY_THREAT)
