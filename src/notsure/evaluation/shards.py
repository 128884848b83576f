"""An evaluation in shards: each is of some of the images, and together they are the whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.storage import load_json
from notsure.evaluation.records import SHARD, Records
from notsure.evaluation.run_folder import RECORDS, RUN, RunFolder

_OUTPUTS, _SHARE = "outputs", "probability_rows"
"""What the meta says of a guard's answers to the clean images: of a shard, to its own."""


def shard_rows(count: int, size: int, batch_size: int) -> list[tuple[int, int]]:
    """The (start, stop) of each shard, by which images fall into the batches of one process.

    Args:
        count: how many images there are.
        size: how many a shard has at least, but for the last; rounded up to whole batches.
        batch_size: how many are attacked at a time.

    Raises:
        ConfigurationError: one of them is below 1.
    """
    if min(count, size, batch_size) < 1:
        raise ConfigurationError(
            "count, size and batch_size have to be at least 1; got "
            f"{count}, {size} and {batch_size}."
        )
    length = -(-size // batch_size) * batch_size
    return [(start, min(start + length, count)) for start in range(0, count, length)]


def joined_shards(shards: Sequence[Records]) -> Records:
    """The records of the whole run, in the order of one process.

    They are what one process gives up to rounding, which may depend on the size of batches, and up
    to the times that attacks took.

    Args:
        shards: what `evaluate(..., rows=...)` gave for every shard, in the order of the images.

    Raises:
        ConfigurationError: there is none.
        CheckpointError: they are not the shards of one run, or some are missing.
    """
    if not shards:
        raise ConfigurationError("There is no shard to join: give all of a run.")
    told = _whole([shard.meta for shard in shards])
    sections = [shard.meta[SHARD]["sections"] for shard in shards]
    tables = []
    # the columns of detectors that only some guards have are in whichever shards have their rows
    starts = [0] * len(shards)
    for number in range(len(sections[0])):
        for position, shard in enumerate(shards):
            length = sections[position][number]
            tables.append(shard.table.slice(starts[position], length))
            starts[position] += length
    return Records(pa.concat_tables(tables, promote_options="default"), told)


def join_folders(folders: Sequence[Path], out: Path) -> Records:
    """Makes of the folders of all shards the one that a single process would have left.

    Args:
        folders: what `evaluate(..., rows=..., out=folder)` left, in the order of the images.
        out: the folder to write to; empty, or of the same run.

    Raises:
        CheckpointError: a folder is damaged, or they are not the shards of one run.
    """
    records = joined_shards([Records.read(folder / RECORDS) for folder in folders])
    runs = [load_json(folder / RUN) for folder in folders]
    told = _whole([{key: run[key] for key in run if key != "identity"} for run in runs])
    run = RunFolder(out, told)
    if not run.finished:
        run.finish(records)
    return records


def _whole(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the whole's meta says.

    Raises:
        CheckpointError: they are not of one run, or leave images out.
    """
    stop = 0
    for meta in metas:
        rows = meta.get(SHARD, {}).get("rows")
        if rows is None:
            raise CheckpointError("These records are of a whole run, and no shard of one.")
        if rows[0] != stop:
            raise CheckpointError(
                f"A shard begins with image {rows[0]} where the one before it ends with {stop}: "
                "give every shard of the run once, in the order of the images."
            )
        stop = rows[1]
    first = _without_own(metas[0])
    for meta in metas[1:]:
        other = _without_own(meta)
        apart = [key for key in {**first, **other} if first.get(key) != other.get(key)]
        if apart or len(meta[SHARD]["sections"]) != len(metas[0][SHARD]["sections"]):
            raise CheckpointError(
                f"Shards of two runs are not joined: they differ in {', '.join(apart) or 'tasks'}."
            )
    if stop != first["count"]:
        raise CheckpointError(f"The shards hold {stop} of {first['count']} images.")
    for name, guard in first["guards"].items():
        guard[_OUTPUTS] = {_SHARE: _share(metas, name)}
    return first


def _without_own(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the meta without what is the shard's own."""
    copy: dict[str, Any] = json.loads(json.dumps({k: v for k, v in meta.items() if k != SHARD}))
    for guard in copy["guards"].values():
        guard[_OUTPUTS] = None
    return copy


def _share(metas: Sequence[Mapping[str, Any]], guard: str) -> float:
    """The share over all images, of the shares of the shards."""
    seen = probable = 0
    for meta in metas:
        start, stop = meta[SHARD]["rows"]
        seen += stop - start
        probable += round(meta["guards"][guard][_OUTPUTS][_SHARE] * (stop - start))
    return probable / seen
