"""The tutorial, done as it says; and that what goes wrong in it would be noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import notsure as ns
from tests.tutorial import PAGE, TutorialError, alike, blocks_of, rewritten, run, shown_outputs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    for program in ("bash", "curl"):
        assert shutil.which(program), f"the tutorial takes {program}: install it"
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, run(blocks_of(PAGE.read_text(encoding="utf-8")), folder)


def test_the_tutorial_prints_what_it_shows(outputs: tuple[Path, dict[int, str]]) -> None:
    _, printed = outputs
    pairs = shown_outputs(blocks_of(PAGE.read_text(encoding="utf-8")))
    assert len(pairs) >= 8
    for commands, shown in pairs:
        assert alike(shown.text, printed[commands.line]), (
            f"line {shown.line} of docs/tutorial.md shows something else than is printed now; "
            f"`python -m tests.tutorial` brings it up to date:\n{printed[commands.line]}"
        )


def test_the_tutorial_leaves_what_it_promises(outputs: tuple[Path, dict[int, str]]) -> None:
    folder, _ = outputs
    assert (folder / "audit" / "report.html").is_file()
    assert ns.choosing.load_guard(folder / "guard").rejects
    assert ns.adapters.load_images(folder / "reviewed.npz").images.labels.tolist() == [3]


def test_every_file_of_the_tutorial_is_run() -> None:
    blocks = blocks_of(PAGE.read_text(encoding="utf-8"))
    assert {block.kind for block in blocks} == {"python", "sh", "text", "console"}
    commands = "\n".join(block.text for block in blocks if block.kind == "sh")
    for block in blocks:
        if block.kind == "python":
            name = block.text.splitlines()[0].removeprefix("# ")
            assert f"python {name}" in commands


def page(*blocks: tuple[str, str]) -> str:
    return "\n".join(f"Words.\n\n```{kind}\n{text}\n```\n" for kind, text in blocks)


def test_commands_share_a_shell_and_a_folder(tmp_path: Path) -> None:
    text = page(
        ("python", "# one.py\nprint('there')"),
        ("sh", "found=$(python one.py)\necho $found"),
        ("text", "old"),
        ("console", "$ exit 9"),
        ("sh", "echo $found again; pwd"),
    )
    printed = run(blocks_of(text), tmp_path)
    assert list(printed.values()) == ["there\n", f"there again\n{tmp_path}\n"]
    after = rewritten(text, printed)
    assert after == text.replace("\nold\n", "\nthere\n")


@pytest.mark.parametrize("command", ["false", "nosuchcommand", "python -c 'raise SystemExit(3)'"])
def test_a_command_that_fails_fails_the_tutorial(command: str, tmp_path: Path) -> None:
    text = page(("sh", "echo fine"), ("sh", command), ("sh", "touch never"))
    with pytest.raises(TutorialError, match=r"line 9 failed"):
        run(blocks_of(text), tmp_path)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("command", ["sleep 600", "sleep 600 &"])
def test_a_command_that_does_not_end_fails_the_tutorial(command: str, tmp_path: Path) -> None:
    with pytest.raises(TutorialError, match="line 3 did not end"):
        run(blocks_of(page(("sh", command))), tmp_path, timeout=0.5)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("robust 0.1 % of 10", "robust 12.25 % of 9", True),
        ("│ a │ 1 │", "│ a  │ 100 │", True),
        ("robust 1 %\n", "strict 1 %", False),
        ("first\n...\nlast", "first\nsecond\nthird\nlast", True),
        ("first\n...\nlast", "first\nsecond", False),
        ("...\nlast", "first\nlast", True),
        ("first\n...\n", "first\nlast", True),
        ("first\n...\n", "none\nfirst\nlast", False),
        ("first", "first\nTraceback", False),
        ("first", "", False),
    ],
)
def test_outputs_are_compared_but_for_numbers(shown: str, printed: str, same: bool) -> None:
    assert alike(shown, printed) is same
