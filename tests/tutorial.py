"""The tutorial as a reader works through it: its files written, its commands given, in order.

`python -m tests.tutorial` does that and puts what the commands printed into the page.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"

PORT = "8000"
"""The port on the page; another one is taken, since somebody may be listening there."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r"# ([\w-]+\.py)\n")
_MARK = "\x1e"
_PROGRESS = re.compile(r"^(?:attacking|fitting)\b.*\n", re.MULTILINE)
"""Lines that depend on how long something takes."""


@dataclass(frozen=True)
class Block:
    """A fenced block of the page.

    Attributes:
        kind: "python" (a file, whose name its first line tells), "sh" (commands), "text" (what the
            commands before it print), or another, which nobody runs.
        text: what it holds.
        line: where it begins, from 1 on.
        start: where what it holds begins on the page, in characters.
    """

    kind: str
    text: str
    line: int
    start: int


class TutorialError(AssertionError):
    """A command of the page that failed, or a block that cannot be run."""


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page in their order."""
    return [
        Block(found[1], found[2], page.count("\n", 0, found.start()) + 1, found.start(2))
        for found in _BLOCK.finditer(page)
    ]


def run(blocks: Sequence[Block], folder: Path, *, timeout: float = 900) -> dict[int, str]:
    """Does what the page says, in an empty folder and one shell.

    Args:
        blocks: of the page.
        folder: where it is done.
        timeout: seconds for all of it, and until what it leaves in the background has ended.

    Returns:
        What each block of commands printed, by the line in which the block begins.

    Raises:
        TutorialError: a command failed, or a Python block has no name.
    """
    port = _free_port()
    script = ["set -euo pipefail"]
    for block in blocks:
        text = block.text.replace(PORT, port)
        if block.kind == "python":
            name = _NAMED.match(text)
            if name is None:
                raise TutorialError(f"line {block.line}: a Python block begins with # NAME.py")
            (folder / name[1]).write_text(text, encoding="utf-8")
        elif block.kind == "sh":
            script += [f"printf '{_MARK}{block.line}\\n'", text]
    # a service that was stopped takes a moment to end
    script.append("wait")
    (folder / ".tutorial.sh").write_text("\n".join(script), encoding="utf-8")
    printed, code = _shell(folder, timeout)
    outputs = {}
    for part in printed.replace(port, PORT).split(_MARK)[1:]:
        line, _, output = part.partition("\n")
        outputs[int(line)] = _PROGRESS.sub("", output)
    if code != 0:
        last = max(outputs, default=0)
        told = "did not end" if code is None else f"failed ({code})"
        raise TutorialError(f"The commands in line {last} {told}:\n{outputs.get(last, printed)}")
    return outputs


def _shell(folder: Path, timeout: float) -> tuple[str, int | None]:
    """What a shell prints, and its exit code; whatever it started ends with it."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "92",
    }
    environment.pop("NOTSURE_API_KEY", None)
    environment.pop("NOTSURE_DATA", None)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        shell = subprocess.Popen(
            ["bash", ".tutorial.sh"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code: int | None = shell.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # whatever a failed command has left behind
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        output.seek(0)
        printed = output.read()
    return printed, code


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def alike(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, but for numbers, spaces and what it leaves out (...).

    Numbers differ from one processor to the next, and the widths of tables with them.
    """
    parts = [_plain(part) for part in re.split(r"^\s*\.\.\.\s*$", shown, flags=re.MULTILINE)]
    real, place = _plain(printed), 0
    for number, part in enumerate(parts):
        found = real.find(part, place)
        if found < 0 or (number == 0 and found > 0):
            return False
        place = found + len(part)
    return place == len(real) or not parts[-1]


def _plain(text: str) -> str:
    masked = re.sub(r"(?<!\w)-?\d+(\.\d+)?(e[-+]?\d+)?", "0", text)
    # numpy puts room for a sign in front of numbers of which one has it
    masked = re.sub(r"(?<=\[)\s+", "", masked)
    return re.sub(r"[\s─━│┃┏┓┗┛┡┩╇┳┴└┘┌┐├┤┬┼]+", " ", masked).strip()


def shown_outputs(blocks: Sequence[Block]) -> list[tuple[Block, Block]]:
    """Blocks of commands, each with the block of what they print."""
    pairs = []
    for before, block in pairwise(blocks):
        if block.kind == "text":
            if before.kind != "sh":
                raise TutorialError(f"line {block.line}: no commands stand before this output")
            pairs.append((before, block))
    return pairs


def rewritten(page: str, outputs: dict[int, str]) -> str:
    """The page with what was printed; what it leaves out (...) it does not get back."""
    for commands, shown in reversed(shown_outputs(blocks_of(page))):
        if not re.search(r"^\s*\.\.\.\s*$", shown.text, flags=re.MULTILINE):
            told = "\n".join(line.rstrip() for line in outputs[commands.line].splitlines())
            page = (
                page[: shown.start]
                + told.strip("\n")
                + "\n"
                + page[shown.start :].removeprefix(shown.text)
            )
    return page


def _main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        outputs = run(blocks_of(page), Path(folder))
    for line, output in outputs.items():
        sys.stdout.write(f"---- line {line}\n{output}\n")
    PAGE.write_text(rewritten(page, outputs), encoding="utf-8")


if __name__ == "__main__":
    _main()
