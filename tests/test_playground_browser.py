"""The playground's page in a headless browser, with every other host out of reach."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn

import notsure as ns
from notsure.playground.command import application, configuration, prepared
from notsure.playground.player import Player
from notsure.serving.command import own_names
from tests.browser import find_browser
from tests.devtools import Tab, tab
from tests.playing import FRAME, guard_of, pictures
from tests.served import encoded, until

HOST = "127.0.0.1"
EVIL = "{{constructor}} ${'a' + 'b'} <b>bold</b>"


@contextmanager
def played(player: Player) -> Iterator[int]:
    """The port of a page in a thread, stopped at the end."""
    with socket.create_server((HOST, 0)) as listening, prepared():
        from notsure.playground.page import page_of

        app = application(page_of(player, "a guard"), own_names(HOST))
        server = uvicorn.Server(configuration(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started, seconds=60)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with played(Player(guard_of(0.45), FRAME, images=pictures())) as number:
        yield number


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    if find_browser() is None:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain("there is no Chromium on PATH")
    # no name but this machine's own can be looked up
    with tab(f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}") as opened:
        opened.call("Network.enable")
        yield opened


def open_page(browser: Tab, port: int, *, width: int = 1280, dark: bool = False) -> None:
    browser.written.clear()
    browser.requested.clear()
    browser.visit(f"http://{HOST}:{port}/", width=width, dark=dark)
    # the first page has the browser compile all of gradio's scripts
    browser.until("!!document.querySelector('#ns-run')", seconds=240)


def click(browser: Tab, selector: str) -> None:
    browser.run(f"document.querySelector({selector!r}).click()")


def open_tab(browser: Tab, name: str) -> None:
    tabs = "[...document.querySelectorAll('[role=tab]')]"
    found = f"{tabs}.find(one => one.innerText.trim() === '{name}')"
    browser.until(f"!!{found}")
    browser.run(f"{found}.click()")


def choose_attack(browser: Tab, name: str) -> None:
    browser.run("document.querySelector('#ns-attack-name input').focus()")
    options = "[...document.querySelectorAll('[role=option]')]"
    option = f"{options}.find(one => one.innerText.trim().endsWith('{name}'))"
    browser.until(f"!!{option}")
    browser.run(f"{option}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")


def outside(browser: Tab) -> list[str]:
    """The addresses that the page asked for and that are not on this machine."""
    found = []
    for address in browser.requested:
        parts = urlsplit(address)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != HOST:
            found.append(address)
    return found


def pick(browser: Tab, index: int) -> None:
    browser.until("document.querySelectorAll('#ns-gallery button.thumbnail-item').length === 4")
    click(browser, f"#ns-gallery .gallery-item:nth-child({index + 1}) button")
    browser.until("!!document.querySelector('#ns-chosen')")


def text(browser: Tab, selector: str) -> str:
    return str(browser.run(f"document.querySelector({selector!r}).innerText"))


def test_a_picked_image_is_attacked_and_judged(browser: Tab, port: int) -> None:
    open_page(browser, port)
    pick(browser, 1)
    shown = text(browser, "#ns-chosen")
    assert "guard: dark (0)" in shown
    assert "true label dark (0)" in shown
    click(browser, "#ns-run")
    browser.until("!!document.querySelector('#ns-attempt')")
    told = text(browser, "#ns-attempt")
    assert "PGD fooled the bare classifier" in told
    assert "brightness" in told
    assert "threshold" in told
    images = "[...document.querySelectorAll('#ns-attempt img')]"
    browser.until(f"{images}.length === 3 && {images}.every(one => one.naturalWidth === 4)")
    assert outside(browser) == []
    assert browser.written == []


def test_the_threat_and_the_attack_are_the_ones_chosen(browser: Tab, port: int) -> None:
    open_page(browser, port)
    pick(browser, 0)
    assert "NOT SURE" in text(browser, "#ns-chosen")
    browser.run("document.querySelectorAll('#ns-threat input')[1].click()")
    choose_attack(browser, "C&W")
    # an attack that looks for the nearest image has no eps
    browser.until("!document.querySelector('#ns-eps')?.offsetParent")
    click(browser, "#ns-run")
    browser.until("!!document.querySelector('#ns-attempt')")
    told = text(browser, "#ns-attempt")
    assert "CarliniWagner" in told
    assert "white-box threat" in told
    choose_attack(browser, "FGSM")
    browser.until("!!document.querySelector('#ns-eps')?.offsetParent")


def test_errors_are_shown_as_messages(browser: Tab, port: int, tmp_path: Path) -> None:
    open_page(browser, port)
    click(browser, "#ns-run")
    browser.until("!!document.querySelector('#ns-result [role=alert]')")
    assert "pick, draw or upload one first" in text(browser, "#ns-result")
    open_tab(browser, "Upload")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image at all")
    browser.give_file("#ns-file input[type=file]", bad)
    browser.until("!!document.querySelector('#ns-shown [role=alert]')")
    assert "Give a PNG" in text(browser, "#ns-shown")
    assert "Traceback" not in text(browser, "body")


def test_an_uploaded_image_is_resized_and_told(browser: Tab, port: int, tmp_path: Path) -> None:
    from PIL import Image

    open_page(browser, port)
    open_tab(browser, "Upload")
    good = tmp_path / "good.png"
    good.write_bytes(encoded(Image.new("L", (8, 8), 40)))
    browser.give_file("#ns-file input[type=file]", good)
    browser.until("!!document.querySelector('#ns-chosen')")
    shown = text(browser, "#ns-chosen")
    assert "8 x 8 pixels" in shown
    assert "true label not known" in shown


def test_a_drawing_is_judged_and_stays_on_the_canvas(browser: Tab, port: int) -> None:
    open_page(browser, port)
    open_tab(browser, "Draw")
    click(browser, "#ns-use")
    browser.until("!!document.querySelector('#ns-shown [role=alert]')")
    box = browser.run(
        "(() => { const b = document.querySelector('.ns-canvas canvas').getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]; })()"
    )
    left, top, wide, high = (float(value) for value in box)
    across = [(left + wide * share, top + high * 0.2) for share in (0.1, 0.5, 0.9)]
    for kind, (x, y) in zip(("mousePressed", "mouseMoved", "mouseReleased"), across, strict=True):
        browser.call(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
        )
    click(browser, "#ns-use")
    browser.until("!!document.querySelector('#ns-chosen')")
    shown = text(browser, "#ns-chosen")
    assert "drawn" in shown
    # the upper half is the brighter one
    assert "bare classifier: bright (1)" in shown
    ink = browser.run(
        "Math.max(...document.querySelector('.ns-canvas canvas').getContext('2d')"
        ".getImageData(0, 0, 200, 80).data.filter((_, i) => i % 4 < 3))"
    )
    assert ink == 255
    assert browser.written == []


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_narrow_screen_light_and_dark(browser: Tab, port: int, dark: bool) -> None:
    open_page(browser, port, width=390, dark=dark)
    pick(browser, 1)
    click(browser, "#ns-run")
    browser.until("!!document.querySelector('#ns-attempt')")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    ground = browser.run(GROUND)
    ink = browser.run("getComputedStyle(document.querySelector('#ns-attempt')).color")
    assert contrast(str(ground), str(ink)) > 7
    assert (brightness(str(ground)) < 0.2) == dark


GROUND = """(() => {
  for (let one = document.querySelector('#ns-attempt'); one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (!colour.startsWith('rgba(') || !colour.endsWith(' 0)')) return colour;
  }
  return 'rgb(255, 255, 255)';
})()"""
"""The colour behind an attempt: of the nearest element around it that has one."""


def brightness(colour: str) -> float:
    """The relative luminance of a colour as WCAG defines it, 0 to 1."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG defines it, 1 to 21."""
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)


def test_names_of_classes_are_text(browser: Tab) -> None:
    frame = type(FRAME)(shape=FRAME.shape, names=(EVIL, EVIL), rule="any", corrects=False)
    with played(Player(guard_of(0.45), frame, images=pictures())) as own:
        open_page(browser, own)
        pick(browser, 1)
        assert f"true label {EVIL} (0)" in text(browser, "#ns-chosen")
        assert browser.run("document.querySelectorAll('#ns-chosen b:not(.before)').length") == 0


def ask(port: int, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection(HOST, port, timeout=30)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()


def test_the_page_loads_nothing_from_elsewhere_and_the_browser_is_told_so(port: int) -> None:
    answer, content = ask(port, "/")
    assert answer.status == 200
    assert "default-src 'self'" in (answer.headers["content-security-policy"] or "")
    page = content.decode()
    asked = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']([^\"']+)", page)
    assert asked
    assert [one for one in asked if urlsplit(one).netloc] == []
    assert '"analytics_enabled":false' in page.replace(" ", "")
    assert '"is_colab":true' not in page.replace(" ", "")


def test_other_names_are_refused(port: int) -> None:
    assert ask(port, "/", Host="evil.example")[0].status == 400
    assert ask(port, "/", Host=f"localhost:{port}")[0].status == 200
    assert ask(port, "/", Host=f"[::1]:{port}")[0].status == 200


def test_uploads_are_deleted_when_the_page_ends(tmp_path: Path) -> None:
    before = dict(os.environ)
    with prepared():
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        (folder / "upload.png").write_bytes(b"x")
    assert not folder.exists()
    assert dict(os.environ) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_command_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    module = ns.models.build("digits_cnn")
    ns.Guard(ns.Classifier(module)).save(tmp_path / "guard")
    command = [sys.executable, "-u", "-m", "notsure", "playground", str(tmp_path / "guard")]
    left = tmp_path / "left"
    left.mkdir()
    with subprocess.Popen(
        [*command, "--port", "0"],
        env={**os.environ, "TMPDIR": str(left)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert "a bare classifier, 10 classes, images of 1 x 8 x 8" in next(lines)
        port = int(re.findall(r"http://127.0.0.1:(\d+)", next(lines))[0])
        # who asks while it starts waits
        assert ask(port, "/")[0].status == 200
        assert [one.name for one in left.glob("notsure-*")]
        process.send_signal(number)
        told = process.communicate(timeout=60)[0]
    assert process.returncode == (0 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in told
    assert list(left.glob("notsure-*")) == []
