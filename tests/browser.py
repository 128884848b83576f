"""A headless Chromium that is driven by its command line."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
_DARK, _LIGHT = 0, 1


class PageError(AssertionError):
    """What a page wrote to its console, or why the browser did not show it."""


def find_browser() -> str | None:
    """The command of an installed Chromium; None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def dump_dom(
    page: Path,
    *,
    width: int = 1280,
    height: int = 1600,
    dark: bool = False,
    budget_ms: int = 20_000,
    timeout: float = 120,
) -> str:
    """The page's HTML after its scripts have run.

    Raises:
        PageError: the page wrote to the console, or the browser failed.
    """
    return _run(page, ["--dump-dom"], width, height, dark, budget_ms, timeout)


def screenshot(
    page: Path,
    picture: Path,
    *,
    width: int = 1280,
    height: int = 1600,
    dark: bool = False,
    budget_ms: int = 20_000,
    timeout: float = 120,
) -> Path:
    """A PNG of the page's top, `width` x `height` pixels.

    Raises:
        PageError: the page wrote to the console, or the browser failed.
    """
    _run(page, [f"--screenshot={picture.resolve()}"], width, height, dark, budget_ms, timeout)
    if not picture.is_file():
        raise PageError(f"The browser wrote no picture of {page}.")
    return picture


def _run(
    page: Path,
    what: list[str],
    width: int,
    height: int,
    dark: bool,
    budget_ms: int,
    timeout: float,
) -> str:
    browser = find_browser()
    if browser is None:
        raise PageError(f"There is no browser on PATH; looked for {', '.join(NAMES)}.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            browser,
            *OPTIONS,
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={budget_ms}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={_DARK if dark else _LIGHT}",
            *what,
            page.resolve().as_uri(),
        ]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PageError(f"The browser did not finish in {timeout} s.") from error
    written = [line for line in done.stderr.splitlines() if re.search(r":CONSOLE[:(]", line)]
    if written:
        raise PageError("The page wrote to the console:\n" + "\n".join(written))
    if done.returncode != 0:
        raise PageError(f"The browser failed ({done.returncode}): {done.stderr[-2000:]}")
    return done.stdout
