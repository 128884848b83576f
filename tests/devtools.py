"""A headless Chromium that is driven by its DevTools pipe: keys, downloads, sizes, pictures."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser import NAMES, OPTIONS, PageError, find_browser

PATIENCE = 60.0
"""Seconds that an answer may take."""


class Tab:
    """One tab of a running browser.

    What a page writes to its console is kept in `written`, and the addresses that it asks for in
    `requested`, once `Network.enable` was called.
    """

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self._process, self._to, self._back = process, to, back
        self._sent, self._read = 0, b""
        self._session: str | None = None
        self.written: list[str] = []
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer.

        Raises:
            PageError: the browser refused it, or did not answer in time.
        """
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._next(end, method)
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _next(self, end: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._back], [], [], max(0.0, end - time.monotonic()))
            more = os.read(self._back, 1 << 20) if ready else b""
            if not more:
                raise PageError(f"The browser did not answer {method} in {PATIENCE} s.")
            self._read += more
        first, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        if message.get("method") == "Runtime.exceptionThrown":
            self.written.append(str(message["params"]["exceptionDetails"]))
        elif message.get("method") in {"Runtime.consoleAPICalled", "Log.entryAdded"}:
            self.written.append(str(message["params"]))
        elif message.get("method") == "Network.requestWillBeSent":
            self.requested.append(str(message["params"]["request"]["url"]))
        return message

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited.

        Raises:
            PageError: it threw.
        """
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise PageError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def show(self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens a page in a window of this size and waits until its scripts have run."""
        self.visit(page.resolve().as_uri(), width=width, height=height, dark=dark)

    def visit(
        self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> None:
        """Opens an address in a window of this size and waits until its scripts have run."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def give_file(self, selector: str, path: Path) -> None:
        """Chooses a file in the file input that a selector finds."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        found = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=found, files=[str(path.resolve())])

    def drawn(self) -> int:
        """Waits until every figure of a report is drawn, and returns how many there are."""
        count = int(self.run("document.querySelectorAll('.plot').length"))
        self.until(f"document.querySelectorAll('.plot .main-svg:first-child').length >= {count}")
        return count

    def until(self, condition: str, *, seconds: float = PATIENCE) -> None:
        """Waits until an expression is true in the page.

        Raises:
            PageError: it stays false.
        """
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise PageError(f"In {seconds} s this did not become true: {condition}")
            time.sleep(0.05)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Presses and releases a key, such as "Tab" or "Enter"."""
        codes = {"Tab": 9, "Enter": 13}
        given = {
            "key": key,
            "code": key,
            "windowsVirtualKeyCode": codes[key],
            "modifiers": 8 if shift else 0,
            **({"text": "\r"} if key == "Enter" else {}),
        }
        self.call("Input.dispatchKeyEvent", type="keyDown", **given)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def download_to(self, folder: Path) -> None:
        """Keeps downloads in a folder, under the names that the page gives them."""
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder.resolve()))

    def picture(self, path: Path, *, top: int = 0, height: int | None = None) -> Path:
        """A PNG of the page from `top` on, as high as the page if no height is given."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {
            "x": 0,
            "y": top,
            "width": size["width"],
            "height": height or size["height"] - top,
            "scale": 1,
        }
        taken = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))
        return path


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are clear of the numbers that the browser's own get."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


@contextmanager
def tab(*options: str) -> Iterator[Tab]:
    """A tab of a browser of its own, with more options if given, which is ended afterwards.

    Raises:
        PageError: there is no browser.
    """
    browser = find_browser()
    if browser is None:
        raise PageError(f"There is no browser on PATH; looked for {', '.join(NAMES)}.")
    command_read, command_write = _pipe()
    answer_read, answer_write = _pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # the browser reads its commands from 3 and writes its answers to 4
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{command_read} 4>&{answer_write}',
                "browser",
                browser,
                *OPTIONS,
                *options,
                f"--user-data-dir={profile}",
                "--remote-debugging-pipe",
            ],
            pass_fds=(command_read, answer_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        try:
            yield Tab(process, command_write, answer_read)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
            os.close(command_write)
            os.close(answer_read)
