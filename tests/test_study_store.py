"""A store whose results are whole, verified, and nobody else's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from notsure.core.errors import (
    ConfigurationError,
    DeadlineError,
    FullDiskError,
    NotSureError,
    RunningError,
    VerificationError,
)
from notsure.studies import store as store_module
from notsure.studies.run import run_step
from notsure.studies.steps import Context
from notsure.studies.store import Store
from tests.toy_steps import (
    Chain,
    FillDisk,
    FillDiskResumably,
    Write,
    flip,
    log_of,
    script,
    tree,
)

# results


def test_a_result_is_kept_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "not" / "there")
    step = Write(name="b", text="bb", sources=(Write(name="a", text="aa"),))
    assert store.result(step) is None
    assert store.state(step) == "to do"
    with pytest.raises(ConfigurationError, match="needs write 'a', which is not done"):
        run_step(step, store)
    run_step(step.needs[0], store)
    result, own = run_step(step, store, estimate=4.0)
    assert own
    assert result.folder == store.folder(step) == tmp_path / "not" / "there" / step.identity
    assert (result.folder / "out.txt").read_text() == "bb|aa"
    done = json.loads((result.folder / "done.json").read_text())
    assert done["identity"] == step.identity
    assert (done["name"], done["kind"], done["version"]) == ("b", "write", 1)
    assert done["settings"] == {"text": "bb"}
    assert done["needs"] == [step.needs[0].identity]
    assert done["estimate"] == 4.0
    assert set(done["versions"]) == {"notsure", "torch", "python"}
    assert done["files"] == {
        "deep/more.bin": {"size": 6, "sha256": hashlib.sha256(b"bbbbbb").hexdigest()},
        "out.txt": {"size": 5, "sha256": hashlib.sha256(b"bb|aa").hexdigest()},
    }
    assert result.size == 11
    assert store.state(step) == "done"


def test_a_result_is_not_made_twice_under_any_name_or_by_another_store(tmp_path: Path) -> None:
    log = tmp_path / "log"
    step = Write(name="first", text="x", log=log)
    first, _ = run_step(step, Store(tmp_path / "s"))
    before = tree(tmp_path / "s")
    again, own = run_step(dataclasses.replace(step, name="second"), Store(tmp_path / "s"))
    assert not own
    assert again.done == first.done
    assert log_of(log) == ["first"]
    assert tree(tmp_path / "s") == before


def longer_by_a_second(path: Path) -> None:
    done = json.loads(path.read_text())
    path.write_text(json.dumps({**done, "seconds": done["seconds"] + 1}, indent=2))


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "flipped": ("deep/more.bin", flip),
    "truncated": ("out.txt", lambda path: os.truncate(path, 2)),
    "emptied": ("out.txt", lambda path: os.truncate(path, 0)),
    "longer": ("out.txt", lambda path: path.write_bytes(path.read_bytes() + b"x")),
    "missing": ("deep/more.bin", Path.unlink),
    "a folder": ("out.txt", into_a_folder),
    "done missing": ("done.json", Path.unlink),
    "done empty": ("done.json", lambda path: os.truncate(path, 0)),
    "done cut": ("done.json", lambda path: os.truncate(path, 40)),
    "done a list": ("done.json", lambda path: path.write_text("[]")),
    "done edited": ("done.json", longer_by_a_second),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_of_any_kind_is_found_and_the_step_done_again(damage: str, tmp_path: Path) -> None:
    log, root = tmp_path / "log", tmp_path / "s"
    step = Write(name="it", text="some text", log=log)
    run_step(step, Store(root))
    whole = tree(root)
    name, spoil = DAMAGES[damage]
    spoil(root / step.identity / name)
    store = Store(root)
    assert store.result(step) is None
    assert store.state(step) == "damaged"
    with pytest.warns(UserWarning, match=rf"put aside in \.damaged: .*{Path(name).name}"):
        result, own = run_step(step, store)
    assert own
    assert log_of(log) == ["it", "it"]
    assert tree(root) == whole
    assert store.result(step) == result
    assert (root / ".damaged" / f"{step.identity}-1").is_dir()


def test_the_result_of_another_step_does_not_pass_for_this_one(tmp_path: Path) -> None:
    one, two = Write(name="one", text="1"), Write(name="two", text="2")
    store = Store(tmp_path)
    run_step(one, store)
    store.folder(one).rename(store.folder(two))
    assert store.result(two) is None
    with pytest.warns(UserWarning, match="is of another step"):
        run_step(two, store)
    assert (store.folder(two) / "out.txt").read_text() == "2"


@pytest.mark.parametrize(("verify", "found"), [("hash", "damaged"), ("size", "done")])
def test_verifying_sizes_alone_is_a_choice(
    verify: Literal["hash", "size"], found: str, tmp_path: Path
) -> None:
    step = Write(name="it", text="some text")
    run_step(step, Store(tmp_path))
    flip(tmp_path / step.identity / "out.txt")
    store = Store(tmp_path, verify=verify)
    assert store.state(step) == found
    os.truncate(tmp_path / step.identity / "out.txt", 3)
    assert store.state(step) == "damaged"


def test_damage_is_found_in_a_file_that_this_process_has_verified_before(tmp_path: Path) -> None:
    store, step = Store(tmp_path), Write(name="it", text="some text")
    run_step(step, store)
    assert store.result(step) is not None
    time.sleep(0.02)
    flip(tmp_path / step.identity / "out.txt")
    assert store.result(step) is None


def test_only_the_two_ways_of_verifying_are_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'hash' or 'size'"):
        Store(tmp_path, verify="no")  # type: ignore[arg-type]


def test_settings_that_are_not_finite_are_recognised_again(tmp_path: Path) -> None:
    step = Write(name="it", more={"eps": float("inf"), "none": float("nan")})
    run_step(step, Store(tmp_path))
    assert Store(tmp_path).state(step) == "done"


def test_what_somebody_lays_beside_a_result_does_no_harm(tmp_path: Path) -> None:
    store, step = Store(tmp_path), Write(name="it")
    run_step(step, store)
    (store.folder(step) / "notes.txt").write_text("mine")
    assert store.state(step) == "done"


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (lambda _: None, "returned without writing a result"),
        (lambda folder: (folder / "link").symlink_to("/etc/hostname"), "left link, which cannot"),
        (lambda folder: (folder / "done.json").write_text("{}"), "left done.json, which cannot"),
        (lambda folder: os.mkfifo(folder / "pipe"), "left pipe, which cannot"),
    ],
)
def test_a_result_is_made_of_plain_files(
    leave: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Odd(Write):
        def run(self, context: Context) -> None:
            leave(context.folder)

    store = Store(tmp_path)
    with pytest.raises(VerificationError, match=words):
        run_step(Odd(name="odd"), store)
    assert tree(tmp_path) == {}
    assert list((tmp_path / ".work").iterdir()) == []


def test_the_file_that_a_killed_process_was_writing_is_swept_out(tmp_path: Path) -> None:
    step = Chain(name="chain", links=3)
    clean, dirty = Store(tmp_path / "clean"), Store(tmp_path / "dirty")
    run_step(step, clean)
    work = tmp_path / "dirty" / ".work" / step.identity
    (work / "sub").mkdir(parents=True)
    (work / "sub" / ".weights.safetensors.123.part").write_bytes(b"half")
    (work / ".done.json.123.part").write_bytes(b"half")
    run_step(step, dirty)
    assert tree(tmp_path / "dirty") == tree(tmp_path / "clean")


KILLED_BEFORE_THE_MOVE = """
import os, signal, sys
from pathlib import Path
from notsure.studies.run import run_step
from notsure.studies.store import Claim, Store
from tests.toy_steps import Write
Claim._moved = lambda self: os.kill(os.getpid(), signal.SIGKILL)
run_step(Write(name="it", text="some text", log=Path(sys.argv[2])), Store(sys.argv[1]))
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_a_result_killed_before_its_last_move_is_taken_if_it_is_whole(
    damaged: bool, tmp_path: Path
) -> None:
    log, root = tmp_path / "log", tmp_path / "s"
    with script(KILLED_BEFORE_THE_MOVE, str(root), str(log)) as process:
        assert process.wait(60) == -signal.SIGKILL
    step = Write(name="it", text="some text", log=log)
    assert (root / ".work" / step.identity / "done.json").exists()
    assert Store(root).result(step) is None
    if damaged:
        flip(root / ".work" / step.identity / "out.txt")
    run_step(step, Store(root))
    assert log_of(log) == ["it"] * (2 if damaged else 1)
    assert Store(root).state(step) == "done"
    assert list((root / ".work").iterdir()) == []


# locks

HOLDS = """
import os, sys, time
from notsure.studies.store import Store
from tests.toy_steps import Write
with Store(sys.argv[1]).claim(Write(name="it")):
    if len(sys.argv) > 2 and os.fork() == 0:
        os.close(1)
        time.sleep(10)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_step_that_another_process_has_is_not_touched(tmp_path: Path) -> None:
    step, store = Write(name="it"), Store(tmp_path)
    with script(HOLDS, str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(
            RunningError, match=rf"'it' is being run by process {process.pid} on \S"
        ):
            run_step(step, store, wait=False)
        # whoever asked in vain has not wiped out who holds it
        with pytest.raises(RunningError, match=f"process {process.pid} "):
            run_step(step, store, wait=False)
        end = time.monotonic() + 0.3
        with pytest.raises(DeadlineError, match="another process was at write 'it'"):
            run_step(step, store, seconds_left=lambda: end - time.monotonic())
        assert run_step(Write(name="other", text="x"), store, wait=False)[1]
    assert run_step(step, store, wait=False)[1]


@pytest.mark.parametrize("child", [[], ["with a child that lives on"]])
def test_a_lock_falls_open_when_its_holder_is_killed(child: list[str], tmp_path: Path) -> None:
    with script(HOLDS, str(tmp_path), *child) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert run_step(Write(name="it"), Store(tmp_path), wait=False)[1]


def test_a_forked_child_has_no_part_in_its_parents_lock(tmp_path: Path) -> None:
    step, store = Write(name="it"), Store(tmp_path / "s")
    parent, other = os.getpid(), tmp_path / "other"
    try:
        with store.claim(step):
            child = os.fork()
            if child == 0:
                # the lock's descriptor is free here, and becomes that of another file
                os.write(os.open(other, os.O_CREAT | os.O_RDWR), b"content")
                raise KeyboardInterrupt
            assert os.waitpid(child, 0)[1] == 0
            with pytest.raises(RunningError, match=f"process {parent} "):
                run_step(step, store, wait=False)
    finally:
        if os.getpid() != parent:
            os._exit(0)
    assert other.read_bytes() == b"content"
    assert run_step(step, store, wait=False)[1]


# full disks


@pytest.mark.parametrize("told", ["by the system", "as a cause", "in words"])
def test_a_full_disk_leaves_no_half_result_and_says_what_is_needed(
    told: str, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    with pytest.raises(FullDiskError, match=r"'full' could not write .* MB are free\. Make room"):
        run_step(FillDisk(name="full", told=told), store)
    assert tree(tmp_path) == {}
    assert list((tmp_path / ".work").iterdir()) == []
    run_step(Write(name="before", text="x" * 500_000), store)
    with pytest.raises(NotSureError, match=r"of the same kind so far has 2\.0 MB"):
        run_step(FillDisk(name="full", told=told), store)


def test_a_full_disk_leaves_the_checkpoints_of_a_step_that_can_use_them(tmp_path: Path) -> None:
    step = FillDiskResumably(name="full")
    with pytest.raises(FullDiskError):
        run_step(step, Store(tmp_path))
    assert (tmp_path / ".work" / step.identity / "half.bin").read_bytes() == b"half"
    assert Store(tmp_path).state(step) == "begun"


def test_a_disk_that_is_full_at_the_very_last_leaves_no_half_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: object) -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"{}")

    step, store = Write(name="it"), Store(tmp_path)
    monkeypatch.setattr(store_module, "save_json", full)
    with pytest.raises(FullDiskError):
        run_step(step, store)
    assert tree(tmp_path) == {}
    monkeypatch.undo()
    assert run_step(step, store)[1]


def test_another_error_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Denied(Write):
        def run(self, context: Context) -> None:
            raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        run_step(Denied(name="denied"), Store(tmp_path))


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="Cannot write to the output folder"):
        run_step(Write(name="it"), Store(tmp_path / "file"))
