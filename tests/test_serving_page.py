"""The page on which a person labels what was rejected, in a headless browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import notsure as ns
from tests.browser import find_browser
from tests.devtools import Tab, tab
from tests.served import flat, served, until

KEY = "correct horse battery"


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    if find_browser() is None:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain("there is no Chromium on PATH")
    with tab() as opened:
        yield opened


def open_page(browser: Tab, port: int) -> None:
    browser.written.clear()
    browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
    browser.until("document.readyState === 'complete'")


FIGURES = "document.querySelectorAll('figure').length"


def test_a_person_labels_and_sets_aside(browser: Tab, tmp_path: Path) -> None:
    with served(tmp_path) as client:
        client.judge([flat(0.8), flat(0.9)])
        open_page(browser, client.port)
        browser.until(f"{FIGURES} === 2")
        browser.until("[...document.images].every((one) => one.complete && one.naturalWidth === 4)")
        assert browser.run("document.getElementById('counts').textContent").startswith("2 waiting")
        browser.run("document.querySelector('figure input').value = 2")
        browser.run("document.querySelector('figure button').click()")
        browser.until(f"{FIGURES} === 1")
        browser.run("document.querySelector('figure [type=button]').click()")
        browser.until(
            "document.getElementById('counts').textContent.startsWith('0 waiting, 1 labelled')"
        )
        first, second = client.ask("GET", "/review?state=labelled"), client.ask("GET", "/review/2")
        assert [one["label"] for one in first[1]["items"]] == [2]
        assert second[1]["state"] == "set aside"
        assert browser.written == []


def test_what_is_labelled_is_taken_away_as_a_file(browser: Tab, tmp_path: Path) -> None:
    with served(tmp_path) as client:
        client.judge([flat(0.8), flat(0.8)])
        client.ask("POST", "/review/1", b'{"label": 2}', content_type="application/json")
        client.judge(flat(0.9))
        open_page(browser, client.port)
        browser.until(f"{FIGURES} === 1")
        caption = browser.run("document.querySelector('figcaption').textContent")
        assert caption == "Item 2, seen once, taken for 2; brightness 0.9000, threshold 0.7500"
        browser.download_to(tmp_path)
        browser.run("document.getElementById('take').click()")
        until((tmp_path / "review.npz").is_file)
        assert ns.data.sources.read(tmp_path / "review.npz")["all"].labels.tolist() == [2]
        assert browser.written == []


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_fit_a_telephone(browser: Tab, tmp_path: Path, path: str) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    with served(tmp_path) as client:
        client.judge([flat(0.8), flat(0.9)])
        browser.call("Emulation.setDeviceMetricsOverride", **size)
        try:
            browser.call("Page.navigate", url=f"http://127.0.0.1:{client.port}{path}")
            browser.until("document.readyState === 'complete'")
            browser.until(f"location.pathname !== '/' || {FIGURES} === 2")
            assert browser.run("document.documentElement.scrollWidth") == 390
        finally:
            browser.call("Emulation.clearDeviceMetricsOverride")


def test_the_page_asks_for_the_key(browser: Tab, tmp_path: Path) -> None:
    with served(tmp_path, key=KEY) as client:
        client.ask("POST", "/judge", str(flat(0.9)).encode(), x_api_key=KEY,
                   content_type="application/json")  # fmt: skip
        open_page(browser, client.port)
        browser.until("!document.getElementById('door').hidden")
        assert browser.run(FIGURES) == 0
        browser.run(f"document.getElementById('key').value = '{KEY}'")
        browser.run("document.querySelector('#door button').click()")
        browser.until(f"{FIGURES} === 1")
        # the browser tells of the refused request; the page itself of nothing
        assert all("401" in line for line in browser.written)


def test_the_list_of_what_can_be_asked(browser: Tab, tmp_path: Path) -> None:
    with served(tmp_path) as client:
        browser.written.clear()
        browser.call("Page.navigate", url=f"http://127.0.0.1:{client.port}/docs")
        browser.until("document.readyState === 'complete'")
        assert "POST /judge" in browser.run("document.querySelector('table').innerText")
        assert browser.written == []
