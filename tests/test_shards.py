"""An evaluation in shards gives what an evaluation at once gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import notsure as ns
from notsure.attacks import EOT, FGSM, PGD
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.state import seeded
from notsure.core.storage import load_json
from notsure.evaluation.shards import join_folders, joined_shards, shard_rows
from notsure.evaluation.suites import taught_by

COUNT, BATCH = 26, 4
ROWS = [(0, 8), (8, 16), (16, 24), (24, 26)]


@dataclass(frozen=True)
class Case:
    """Two guards around one network, and how they are evaluated."""

    guards: dict[str, ns.Guard]
    x: torch.Tensor
    y: torch.Tensor
    told: dict[str, Any]

    def evaluated(self, **more: Any) -> ns.Records:
        return ns.evaluate(self.guards, self.x, self.y, **{**self.told, **more})

    def shards(self, **more: Any) -> list[ns.Records]:
        return [self.evaluated(rows=rows, **more) for rows in ROWS]


@pytest.fixture(scope="module")
def case() -> Case:
    split = ns.data.load("digits")
    with seeded(0):
        module = ns.models.build("digits_cnn")
        other = ns.Classifier(ns.models.build("digits_cnn"))
    classifier = ns.Classifier(module, mean=0.5, std=1.0)
    recipe = ns.training.Recipe(
        epochs=3, batch_size=64, optimizer="adamw", learning_rate=3e-3, schedule="one-cycle"
    )
    ns.training.train(classifier, split.train, recipe=recipe, progress=False)
    kinds = {"density": ns.detectors.KDensity, "confident": ns.detectors.Confidence}
    guards = {
        name: ns.Guard(classifier, [kind()]).fit(split.train).calibrate(split.calibration, fpr=0.05)
        for name, kind in kinds.items()
    }
    told = {
        "attacks": {
            "oblivious": [FGSM(), PGD(steps=3)],
            "white-box": [PGD(steps=3)],
            "transfer": [FGSM()],
        },
        "threats": ["oblivious", "white-box", "transfer"],
        "substitutes": {"untrained": other},
        "eps": [0.1],
        "batch_size": BATCH,
        # each ends within another shard, or at its edge
        "probes": 10,
        "illustrated": 9,
        "embedded": 16,
        "controlled": 25,
        "data": "digits",
        "parameters": {"density": {"a": 1}},
    }
    return Case(guards, split.test.x[:COUNT], split.test.y[:COUNT], told)


@pytest.fixture(scope="module")
def whole(case: Case) -> ns.Records:
    return case.evaluated()


@pytest.fixture(scope="module")
def shards(case: Case) -> list[ns.Records]:
    return case.shards()


def check_same(found: ns.Records, wanted: ns.Records) -> None:
    assert found.meta == wanted.meta
    assert list(found.meta) == list(wanted.meta)
    assert found.table.schema == wanted.table.schema
    for name in wanted.table.column_names:
        ours, theirs = found.table[name], wanted.table[name]
        if name == "seconds":
            continue
        if str(ours.type) == "float":
            ours, theirs = found.column(name), wanted.column(name)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)
        elif "list" in str(ours.type):
            for mine, other in zip(ours.to_pylist(), theirs.to_pylist(), strict=True):
                assert (mine is None) == (other is None), name
                np.testing.assert_allclose(mine or [], other or [], rtol=1e-4, atol=1e-5)
        else:
            assert ours.equals(theirs), name


def test_shards_end_where_batches_end() -> None:
    assert shard_rows(COUNT, 5, BATCH) == ROWS
    assert shard_rows(COUNT, 8, BATCH) == ROWS
    assert shard_rows(8, 100, 3) == [(0, 8)]
    assert shard_rows(3, 1, 1) == [(0, 1), (1, 2), (2, 3)]
    with pytest.raises(ConfigurationError, match="at least 1; got 3, 0 and 1"):
        shard_rows(3, 0, 1)


def test_shards_together_are_what_one_process_gives(
    shards: list[ns.Records], whole: ns.Records
) -> None:
    joined = joined_shards(shards)
    check_same(joined, whole)
    # of rows that an attack shares with other guards the order would show it
    assert joined.table["index"].equals(whole.table["index"])
    assert whole.where(threat="transfer").distinct("guard") == [("density",), ("confident",)]


def test_a_random_guard_answers_in_a_shard_as_in_the_whole(case: Case) -> None:
    plain = case.guards["density"].classifier
    network = ns.models.Randomized(plain.module, sigma=0.1)
    guard = ns.Guard(ns.Classifier(network, mean=0.5, std=1.0))
    attacks = [PGD(eps=0.1, steps=2, gradient=EOT(n=3))]
    told: dict[str, Any] = {"attacks": attacks, "batch_size": 4, "probes": 0}
    x, y = case.x[:12], case.y[:12]
    wanted = ns.evaluate(guard, x, y, **told)
    shards = [ns.evaluate(guard, x, y, rows=rows, **told) for rows in [(0, 4), (4, 12)]]
    check_same(joined_shards(shards), wanted)


def test_a_shard_says_which_images_it_is_of(shards: list[ns.Records]) -> None:
    indices = [sorted(set(shard.column("index").tolist())) for shard in shards]
    assert indices == [list(range(*rows)) for rows in ROWS]
    probed = [len(shard.where(probe="unbounded")) > 0 for shard in shards]
    assert probed == [True, True, False, False]


def test_a_substitute_that_was_taught_before_is_not_taught_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = {"density": case.guards["density"]}
    told: dict[str, Any] = {
        "suite": "quick", "threats": ["transfer"], "eps": [0.1], "batch_size": 6, "probes": 0
    }  # fmt: skip
    x, y = case.x[:12], case.y[:12]
    wanted = ns.evaluate(guard, x, y, **told)
    taught = {"density": taught_by(guard["density"], x, "quick", 0)}

    def refuses(*_: Any) -> None:
        raise AssertionError("taught again")

    monkeypatch.setattr("notsure.evaluation.wanted.taught_by", refuses)
    shards = [ns.evaluate(guard, x, y, rows=r, taught=taught, **told) for r in [(0, 6), (6, 12)]]
    check_same(joined_shards(shards), wanted)


def test_folders_of_shards_become_the_folder_of_the_whole(
    case: Case, whole: ns.Records, tmp_path: Path
) -> None:
    case.evaluated(out=tmp_path / "whole")
    folders = [tmp_path / str(start) for start, _ in ROWS]
    for folder, rows in zip(folders, ROWS, strict=True):
        case.evaluated(rows=rows, out=folder)
    join_folders(folders, tmp_path / "joined")
    names = {path.name for path in (tmp_path / "joined").iterdir()}
    assert names == {"records.parquet", "run.json"}
    check_same(ns.Records.read(tmp_path / "joined" / "records.parquet"), whole)
    runs = [load_json(tmp_path / name / "run.json") for name in ("joined", "whole")]
    assert runs[0] == runs[1]
    # one process takes it for its own
    again = case.evaluated(out=tmp_path / "joined")
    assert len(again) == len(whole)
    with pytest.raises(CheckpointError, match="holds another run"):
        case.evaluated(rows=ROWS[0], out=folders[1])


def test_what_is_not_all_of_one_run_is_not_joined(
    case: Case, shards: list[ns.Records], whole: ns.Records
) -> None:
    with pytest.raises(ConfigurationError, match="no shard to join"):
        joined_shards([])
    with pytest.raises(CheckpointError, match="of a whole run"):
        joined_shards([whole])
    with pytest.raises(CheckpointError, match="hold 24 of 26 images"):
        joined_shards(shards[:3])
    with pytest.raises(CheckpointError, match=r"begins with image 16 where .* ends with 8"):
        joined_shards([shards[0], shards[2]])
    few = {name: case.guards[name] for name in ("density",)}
    other = ns.evaluate(few, case.x, case.y, rows=ROWS[1], **case.told)
    with pytest.raises(CheckpointError, match=r"differ in .*guards"):
        joined_shards([shards[0], other, *shards[2:]])


@pytest.mark.parametrize("rows", [(0, 27), (4, 4), (-1, 3)])
def test_rows_have_to_be_among_the_images(case: Case, rows: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match=r"0 <= start < stop <= 26"):
        case.evaluated(rows=rows)


def test_whether_images_were_used_before_is_asked_of_all(case: Case) -> None:
    split = ns.data.load("digits")
    # one in a hundred is let pass with a warning; of a shard of eight it would be one in eight
    x = torch.cat([split.train.x[:1], split.test.x[:149]])
    y = torch.cat([split.train.y[:1], split.test.y[:149]])
    guard = case.guards["density"]
    with pytest.warns(UserWarning, match="1 of 150"):
        shard = ns.evaluate(guard, x, y, attacks=[FGSM(eps=0.1)], rows=(0, 8), probes=0)
    assert shard.meta["guards"]["guard"]["leaked"]["fit"] == 1
