"""What everything stands on: random streams, content keys, files, context managers."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from notsure.core.checks import content_keys, parse_size
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.progress import progress_bar
from notsure.core.randomness import Streams
from notsure.core.state import derived_seed, seeded, undisturbed, weights_hash
from notsure.core.storage import (
    atomic,
    load_json,
    load_tensors,
    save_json,
    save_tensors,
    writable_folder,
)
from notsure.core.target import Response, distances


def test_streams_are_the_published_generator() -> None:
    """SplitMix64 from state 1234567: the numbers of its reference implementation."""
    bits = Streams(torch.tensor([1234567]))._bits(3)[0].tolist()
    assert [value % 2**64 for value in bits] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streams_are_uniform_and_normal(dtype: torch.dtype) -> None:
    streams = Streams.of(torch.arange(2000), 5)
    uniform = streams.uniform((200,), dtype=dtype)
    assert uniform.dtype == dtype
    assert 0 < float(uniform.min()) < 1e-4
    assert 1 - 1e-4 < float(uniform.max()) < 1
    counts = torch.histc(uniform.float(), bins=100, min=0, max=1)
    expected = uniform.numel() / 100
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 99 + 4 * math.sqrt(2 * 99)
    normal = streams.normal((201,), dtype=dtype)
    assert normal.shape == (2000, 201)
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert float((normal.double() ** power).mean()) == pytest.approx(moment, abs=0.05)
    exponential = streams.exponential((200,), dtype=dtype)
    assert float(exponential.mean()) == pytest.approx(1, abs=0.01)
    assert float(exponential.min()) > 0


def test_streams_are_independent() -> None:
    # neighbouring keys, seeds and purposes are the ones that a bad mix would correlate
    base = Streams.of(torch.arange(300), 0)
    rows = base.uniform((300,)) - 0.5
    others = [
        Streams.of(torch.arange(1, 301), 0).uniform((300,)),
        Streams.of(torch.arange(300), 1).uniform((300,)),
        base.fork(1).uniform((300,)),
        base.fork(2).uniform((300,)),
        base.fork(1).fork(1).uniform((300,)),
    ]
    for other in others:
        correlation = float((rows * (other - 0.5)).mean() / (1 / 12))
        assert abs(correlation) < 4 / math.sqrt(rows.numel())
    across = torch.corrcoef(rows)
    assert float((across - torch.eye(300)).abs().max()) < 0.35


def test_a_stream_belongs_to_its_sample() -> None:
    keys = torch.tensor([11, 22, 33])
    whole = Streams.of(keys, 7)
    assert torch.equal(Streams.of(keys[[2, 0]], 7).normal((5,)), whole.normal((5,))[[2, 0]])
    assert torch.equal(whole.select(torch.tensor([1])).uniform((4,)), whole.uniform((4,))[1:2])
    assert torch.equal(whole.uniform((4,)), whole.uniform((9,))[:, :4])


def test_content_keys_are_of_the_content() -> None:
    x = torch.rand(4, 1, 3, 3)
    keys = content_keys(x)
    assert len(set(keys.tolist())) == 4
    assert torch.equal(content_keys(x[[2, 1]]), keys[[2, 1]])
    assert torch.equal(content_keys(x.contiguous(memory_format=torch.channels_last)), keys)
    changed = x.clone()
    changed[3, 0, 0, 0] += 1e-6
    assert (content_keys(changed) == keys).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("given", "read"), [("8/255", 8 / 255), (" 1 / 4 ", 0.25), (0.3, 0.3), ("0.3", 0.3), (0, 0.0)]
)
def test_sizes_are_read(given: Any, read: float) -> None:
    assert parse_size(given, what="eps") == pytest.approx(read)


def test_distances() -> None:
    x, other = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.3, 0.0], [-0.4, 0.0]]]])
    found = {name: float(value) for name, value in distances(x, other).items()}
    assert found == pytest.approx({"l0": 2.0, "l1": 0.7, "l2": 0.5, "linf": 0.4})


def test_a_response_without_rejection_is_accepted() -> None:
    response = Response(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
    assert response.prediction.tolist() == [1, 0]
    assert response.accepted.tolist() == [True, True]
    rejected = Response(response.logits, torch.tensor([0.0, 1e-9]))
    assert rejected.accepted.tolist() == [True, False]
    assert rejected.select(torch.tensor([1])).accepted.tolist() == [False]


def test_undisturbed_restores_every_mode() -> None:
    frozen = nn.BatchNorm1d(2).eval()
    network = nn.Sequential(nn.Dropout(), nn.Sequential(frozen, nn.Dropout()))
    state = torch.get_rng_state()

    def disturb() -> None:
        with undisturbed(network):
            assert not any(part.training for part in network.modules())
            torch.rand(3)
            raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        disturb()
    assert [part.training for part in network.modules()] == [True, True, True, False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_seeded_is_the_same_and_leaves_the_state() -> None:
    state = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with seeded(3):
        second = torch.rand(4)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert derived_seed(1, "a") != derived_seed(1, "b") != derived_seed(2, "b")


def test_weights_hash_tells_weights_apart() -> None:
    with seeded(0):
        first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    assert weights_hash(first) != weights_hash(second)
    second.load_state_dict(first.state_dict())
    assert weights_hash(first) == weights_hash(second)
    assert weights_hash(first) != weights_hash(first.double())


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def half() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half()
    assert list(tmp_path.iterdir()) == []
    path.write_text("before")
    with pytest.raises(OSError, match="disk full"):
        half()
    assert path.read_text() == "before"


def test_tensors_and_json_come_back(tmp_path: Path) -> None:
    tied = torch.rand(3, 4)
    save_tensors(tmp_path / "t", {"a": tied, "b": tied.T, "c": tied[1]}, note={"n": [1, "x"]})
    tensors, note = load_tensors(tmp_path / "t")
    assert torch.equal(tensors["b"], tied.T)
    assert torch.equal(tensors["c"], tied[1])
    assert note == {"n": [1, "x"]}
    save_json(tmp_path / "j", {"a": 1.5})
    assert load_json(tmp_path / "j") == {"a": 1.5}
    with pytest.raises(CheckpointError, match="There is no"):
        load_tensors(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="There is no"):
        load_json(tmp_path / "missing")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="right to write there"):
        writable_folder(tmp_path)
    tmp_path.chmod(0o700)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="give another one"):
        writable_folder(tmp_path / "file")


def test_a_log_gets_lines_of_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notsure.core.progress.LOG_SECONDS", -1.0)
    with progress_bar("working", 4) as advance:
        advance(1, "first")
    assert "working: 1/4, about" in capsys.readouterr().err
    with progress_bar("working", 4, shown=False) as advance:
        advance(1, "first")
    assert capsys.readouterr().err == ""
