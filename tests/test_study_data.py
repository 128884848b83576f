"""The images of studies: what stands in for missing data, and what is kept of decoded ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import notsure as ns
from notsure.cli import app
from notsure.core.errors import DataError
from notsure.data import Images
from notsure.studies import datasets, decoded
from notsure.studies.datasets import DataSet
from notsure.studies.declared import DataSpec
from notsure.studies.kinds import records_of
from notsure.studies.run import plan, run_plan
from notsure.studies.store import Store
from tests.test_study_parts import TEXT, marked, steps_of, with_other


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A data root with the digits as "own.npz", and nothing in memory of other tests' data."""
    digits = ns.data.load("digits")
    (tmp_path / "root").mkdir()
    np.savez(
        tmp_path / "root" / "own.npz",
        x_train=digits.train.pixels,
        y_train=digits.train.labels,
        x_test=digits.test.pixels,
        y_test=digits.test.labels,
    )
    forget()
    yield tmp_path / "root"
    forget()


def forget() -> None:
    """Takes the images of this process away, as a new process has none."""
    datasets._parts.cache_clear()
    datasets._taken.cache_clear()


def test_a_stand_in_is_taken_where_the_source_is_not(root: Path) -> None:
    spec = DataSpec(source="official", stand_in="own.npz", train=100)
    found, direct = (
        DataSet.found(one, root) for one in (spec, DataSpec(source="own.npz", train=100))
    )
    assert found.name == "own.npz in place of official"
    assert (found.stands_for, direct.stands_for) == ("official", "")
    assert found.digests == direct.digests
    (root / "own.npz").rename(root / "official")
    there = DataSet.found(spec, root)
    assert (there.name, there.stands_for) == ("official", "")
    assert there.digests == direct.digests


def test_figures_on_a_stand_in_say_so(root: Path, tmp_path: Path) -> None:
    start = TEXT.index("  embedded:")
    text = TEXT[:start] + TEXT[TEXT.index("attacks:\n") : TEXT.index("  advgan:")]
    text += TEXT[TEXT.index("guards:\n  base") : TEXT.index("  jump: {network")]
    text += "evaluations:\n  main: {guards: [base], attacks: {oblivious: [fgsm]}, count: 10, "
    text += "probes: 0}\nscales:\n  smoke:\n"
    whole = text.replace("source: digits", "source: own.npz")
    text = text.replace("source: digits", "source: official, stand_in: own.npz")
    ours, theirs = steps_of(text, root), steps_of(whole, root)
    # the network is the same whatever its images are called; what is measured is not
    assert ours["train base"].identity == theirs["train base"].identity
    assert ours["guard base"].identity == theirs["guard base"].identity
    assert ours["evaluate main"].identity != theirs["evaluate main"].identity
    store = Store(tmp_path / "store")
    assert run_plan(plan(list(ours.values())), store).finished
    records = records_of(store.folder(ours["evaluate main"]))
    assert records.meta["data"] == "own.npz in place of official"


def test_a_source_without_its_stand_in_says_how_to_get_it(root: Path) -> None:
    text = with_other("source: digits", "source: §cifar10, stand_in: cifar10_jpeg")
    text, place = marked(text)
    with pytest.raises(DataError) as caught:
        steps_of(text, root)
    assert str(caught.value).startswith(f"parts.yaml:{place}")
    assert "hf download uoft-cs/cifar10" in str(caught.value)
    assert "Nor is there 'cifar10_jpeg'" in str(caught.value)


class CannotDecodeError(Exception):
    """Raised where images are decoded that were to be there."""


def never(*_: object, **__: object) -> None:
    raise CannotDecodeError


def same(ours: Images, theirs: Images) -> bool:
    return ours.digest() == theirs.digest() and ours.class_names == theirs.class_names


def test_images_are_decoded_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = str(root / "own.npz"), tmp_path / "cache"
    split = ns.data.load(source)
    first = decoded.parts_of(source, 0, cache)
    (file,) = cache.iterdir()
    assert file.name.startswith("own-0-")
    monkeypatch.setattr(ns.data, "load", never)
    again = decoded.parts_of(source, 0, str(cache))
    for name in ("train", "calibration", "test"):
        assert same(first[name], getattr(split, name))
        assert same(again[name], getattr(split, name))
    # another cut is another file, and what is not kept is decoded
    with pytest.raises(CannotDecodeError):
        decoded.parts_of(source, 1, cache)
    with pytest.raises(CannotDecodeError):
        decoded.parts_of(source, 0, None)


def test_identities_do_not_depend_on_what_is_kept(root: Path, tmp_path: Path) -> None:
    text = with_other("source: digits", "source: own.npz")
    found = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        forget()
        found.append({name: step.identity for name, step in steps_of(text, root, cache).items()})
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("harm", ["content", "end", "nothing of ours", "code"])
def test_what_is_kept_is_checked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    source, cache = root / "own.npz", tmp_path / "cache"
    before = decoded.parts_of(str(source), 0, cache)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    if harm == "content":
        content[len(content) // 2] ^= 1
    elif harm == "end":
        del content[-100:]
    elif harm == "nothing of ours":
        content = bytearray(b"{}")
    else:
        monkeypatch.setattr(decoded, "_code", lambda: "another")
    file.write_bytes(content)
    after = decoded.parts_of(str(source), 0, cache)
    assert same(before["train"], after["train"])
    # and is whole again
    monkeypatch.setattr(ns.data, "load", never)
    assert same(before["test"], decoded.parts_of(str(source), 0, cache)["test"])


def test_another_source_of_the_same_name_size_and_time_is_seen(root: Path, tmp_path: Path) -> None:
    source, cache = root / "own.npz", tmp_path / "cache"
    before = decoded.parts_of(str(source), 0, cache)
    was = source.stat()
    arrays = dict(np.load(source))
    arrays["x_train"] = 255 - arrays["x_train"]
    np.savez(source, **arrays)
    os.utime(source, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert source.stat().st_size == was.st_size
    after = decoded.parts_of(str(source), 0, cache)
    assert torch.equal(after["train"].pixels, 255 - before["train"].pixels)
    assert same(before["test"], after["test"])


def test_a_folder_is_known_by_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_bytes(b"one")
    (folder / "2.png").write_bytes(b"two")
    first = decoded._content(folder)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "lock").write_bytes(b"x")
    assert decoded._content(folder) == first
    (folder / "2.png").rename(folder / "3.png")
    second = decoded._content(folder)
    (folder / "3.png").write_bytes(b"tow")
    assert len({first, second, decoded._content(folder)}) == 3
    assert decoded._content(tmp_path / "nowhere") is None


def test_a_folder_that_cannot_be_written_to_costs_time_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="cannot be kept in"):
        parts = decoded.parts_of(str(root / "own.npz"), 0, tmp_path / "cache")
    assert same(parts["train"], ns.data.load(root / "own.npz").train)


def test_a_run_keeps_its_images_and_a_dry_run_nothing(root: Path, tmp_path: Path) -> None:
    start = TEXT.index("  embedded:")
    text = TEXT[:start] + "guards:\n  base: {network: base}\nscales:\n  smoke:\n"
    text = text.replace("source: digits", "source: own.npz").replace("epochs: 12", "epochs: 1")
    (tmp_path / "study.yaml").write_text(text)
    out = tmp_path / "out"
    call = ["run", str(tmp_path / "study.yaml"), "--out", str(out), "--data-root", str(root)]
    dry = CliRunner().invoke(app, [*call, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert not out.exists()
    forget()
    run = CliRunner().invoke(app, call)
    assert run.exit_code == 0, run.output
    (kept,) = (out / decoded.FOLDER).iterdir()
    assert kept.name.startswith("own-0-")
