"""Records of several runs as one, after checks that they may be compared at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.evaluation.records import Records
from notsure.evaluation.threats import CLEAN

_SAME_OF_IMAGES = ("count", "image_shape", "class_names")
"""What the meta says of the test images, which has to be the same in all runs."""

_HASHES = {"weights": "weights", "learnt": "learnt parts"}
"""What the meta tells of a guard's network and of its parts by a hash."""

_SAME_OF_A_GUARD = ("settings", "detectors", "purifier", "corrector", "rule", "calibration")
"""What makes a guard, beside its weights."""

_LISTED = ("notsure", "torch", "data")
"""What the meta tells in words; where runs differ, the joined meta lists them all."""

_PARTED = ("guards", "attacks")
"""Parts of the meta that are merged, and not repeated for every run."""

_RUN_OF_ROWS = ("guard", "threat", "substitute", "probe", "attack_id", "norm", "eps")


@dataclass(frozen=True)
class _Run:
    name: str
    source: str
    records: Records

    @property
    def guards(self) -> dict[str, Any]:
        told: dict[str, Any] = self.records.meta.get("guards", {})
        return told


def joined(runs: Sequence[tuple[str, Records]], *, sources: Sequence[str] | None = None) -> Records:
    """The records of several runs as one table, of which every figure and plot can be made.

    Guards of the same name in two runs are told apart as "run: guard". Two records with the same
    run's name are parts of one run: a guard that is in both has to be the same one, and its clean
    images are kept once.

    Args:
        runs: a name and the records of each run.
        sources: where each comes from, for the messages of errors; by default the names.

    Returns:
        The joined records. Their meta holds the guards and attacks of all, and under "runs" what
        else the meta of each run says; "probed" is the smallest number of images that any run
        with probes covered, and the probes' rows beyond are left out.

    Raises:
        ConfigurationError: there is no run, or they cannot be compared: other suites, other test
            images, other seeds, other threats under the same names; or the same run twice.
        CheckpointError: parts of one run hold the same guard's name with other weights or other
            parts, or other answers to the clean images.
    """
    if not runs:
        raise ConfigurationError("There is no run to join: give the records of at least one.")
    if sources is not None and len(sources) != len(runs):
        raise ConfigurationError(f"There are {len(runs)} runs and {len(sources)} sources.")
    named = sources or [name for name, _ in runs]
    parts = [_Run(name, source, one) for (name, one), source in zip(runs, named, strict=True)]
    first, *others = parts
    if not others:
        return first.records
    for other in others:
        _check_suite(first, other)
        _check_images(first, other)
        _check_seed(first, other)
    for position, other in enumerate(parts):
        for one in parts[:position]:
            if one.name == other.name:
                _check_parts(one, other)
    names = _guard_names(parts)
    probed = _probed(parts)
    meta = _joined_meta(parts, names, probed)
    present: set[str] = set()
    tables = []
    for part in parts:
        tables.append(_renamed(part, names, probed, without_clean=present))
        present |= {names[part.name, guard] for guard in part.guards}
    return Records(pa.concat_tables(tables, promote_options="default"), meta)


def _check_suite(one: _Run, other: _Run) -> None:
    mine, theirs = (_suite(run) for run in (one, other))
    if mine != theirs:
        raise ConfigurationError(
            f"{one.source!r} was made with {mine} and {other.source!r} with {theirs}: a worst case "
            "over fewer or other attacks looks better. Make both runs with the same suite and "
            "version."
        )


def _suite(run: _Run) -> str:
    suite = run.records.meta.get("suite")
    return "no suite" if suite is None else f"suite {suite['name']!r} version {suite['version']!r}"


def _check_images(one: _Run, other: _Run) -> None:
    for key in _SAME_OF_IMAGES:
        mine, theirs = (run.records.meta.get(key) for run in (one, other))
        if mine != theirs and not (key == "class_names" and not (mine and theirs)):
            raise ConfigurationError(_other_images(one, other, f"{key} {mine} and {theirs}"))
    mine, theirs = (_labels(run) for run in (one, other))
    if not np.array_equal(mine, theirs):
        raise ConfigurationError(_other_images(one, other, "other positions or labels"))
    pixels, again = (_kept_pixels(run) for run in (one, other))
    for index in sorted(pixels.keys() & again.keys()):
        if not np.array_equal(pixels[index], again[index]):
            raise ConfigurationError(_other_images(one, other, f"other pixels in image {index}"))


def _other_images(one: _Run, other: _Run, what: str) -> str:
    return (
        f"{one.source!r} and {other.source!r} are not of the same test images: {what}. Attack the "
        "same images in the same order in both runs."
    )


def _labels(run: _Run) -> npt.NDArray[np.int64]:
    """The distinct (index, y) of the clean images, over all guards, in order."""
    clean = run.records.where(threat=CLEAN, probe=None)
    pairs = np.stack([clean.column("index"), clean.column("y")], axis=1).astype(np.int64)
    return np.unique(pairs, axis=0)


def _kept_pixels(run: _Run) -> dict[int, npt.NDArray[np.float32]]:
    """The clean images that were kept, by their position in the test set."""
    table = run.records.where(threat=CLEAN, probe=None).table.select(["index", "image"])
    kept = table.filter(pc.is_valid(table["image"])).to_pylist()
    return {row["index"]: np.asarray(row["image"], np.float32) for row in kept}


def _check_seed(one: _Run, other: _Run) -> None:
    mine, theirs = (sorted(seed for (seed,) in r.records.distinct("seed")) for r in (one, other))
    if mine != theirs:
        raise ConfigurationError(
            f"{one.source!r} is of seed {', '.join(map(str, mine))} and {other.source!r} of "
            f"{', '.join(map(str, theirs))}: an image that is attacked twice is not two images. "
            "Make both runs with the same seed."
        )


def _check_parts(one: _Run, other: _Run) -> None:
    """Two files of one run: the guards that both hold are the same ones, attacked differently."""
    for guard in [name for name in one.guards if name in other.guards]:
        mine, theirs = one.guards[guard], other.guards[guard]
        for key, words in _HASHES.items():
            if mine.get(key) != theirs.get(key):
                raise CheckpointError(
                    f"The guard {guard!r} of the run {one.name!r} has the {words} "
                    f"{mine.get(key)} in {one.source!r} and {theirs.get(key)} in "
                    f"{other.source!r}: they are two guards. Give them two names, or keep the two "
                    "runs in two folders."
                )
        differing = [key for key in _SAME_OF_A_GUARD if mine.get(key) != theirs.get(key)]
        if differing:
            raise CheckpointError(
                f"The guard {guard!r} of the run {one.name!r} has another "
                f"{' and '.join(differing)} in {one.source!r} than in {other.source!r}: they are "
                "two guards. Give them two names, or keep the two runs in two folders."
            )
        _check_answers(guard, one, other)
    mine, theirs = (set(run.records.distinct(*_RUN_OF_ROWS)) for run in (one, other))
    twice = [key for key in mine & theirs if key[1] != CLEAN]
    same = not mine ^ theirs
    if twice or same:
        what = "the same run" if same else f"the same attack under {twice[0][1]!r}"
        raise ConfigurationError(
            f"{one.source!r} and {other.source!r} both hold {what} on the guard "
            f"{(twice or sorted(mine, key=str))[0][0]!r}: give each run once."
        )


def _check_answers(guard: str, one: _Run, other: _Run) -> None:
    answers = []
    for run in (one, other):
        clean = run.records.where(guard=guard, threat=CLEAN, probe=None)
        order = np.argsort(clean.column("index"), kind="stable")
        answers.append([clean.column(name)[order] for name in ("index", "prediction", "accepted")])
    if not all(np.array_equal(mine, theirs) for mine, theirs in zip(*answers, strict=True)):
        raise CheckpointError(
            f"The guard {guard!r} of the run {one.name!r} answers the clean images differently in "
            f"{one.source!r} and in {other.source!r}: they are two guards, or a stochastic one."
        )


def _guard_names(parts: Sequence[_Run]) -> dict[tuple[str, str], str]:
    """The name of each guard of each run in the joined records."""
    runs_of: dict[str, set[str]] = {}
    for part in parts:
        for guard in part.guards:
            runs_of.setdefault(guard, set()).add(part.name)
    names = {
        (part.name, guard): f"{part.name}: {guard}" if len(runs_of[guard]) > 1 else guard
        for part in parts
        for guard in part.guards
    }
    taken: dict[str, tuple[str, str]] = {}
    for key, name in names.items():
        if taken.setdefault(name, key) != key:
            raise ConfigurationError(
                f"The guard {key[1]!r} of the run {key[0]!r} and the guard {taken[name][1]!r} of "
                f"the run {taken[name][0]!r} would both be called {name!r}: rename a run's folder."
            )
    return names


def _probed(parts: Sequence[_Run]) -> int:
    """How many images every run with probes covers."""
    return min((n for part in parts if (n := part.records.meta.get("probed", 0))), default=0)


def _joined_meta(
    parts: Sequence[_Run], names: Mapping[tuple[str, str], str], probed: int
) -> dict[str, Any]:
    metas = [part.records.meta for part in parts]
    meta: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in metas for key in one if key not in _PARTED):
        values = [one.get(key) for one in metas]
        if all(value == values[0] for value in values):
            meta[key] = values[0]
        elif key in _LISTED:
            meta[key] = ", ".join(dict.fromkeys(str(value) for value in values))
    return {
        **meta,
        "class_names": next((its for one in metas if (its := one.get("class_names"))), []),
        "threats": list(dict.fromkeys(name for one in metas for name in one["threats"])),
        "includes": _joined_includes(parts),
        "probed": probed,
        "guards": {
            names[part.name, guard]: told for part in parts for guard, told in part.guards.items()
        },
        "attacks": {
            identity: told for one in metas for identity, told in one.get("attacks", {}).items()
        },
        "runs": {
            part.name: {k: v for k, v in part.records.meta.items() if k not in _PARTED}
            for part in parts
        },
    }


def _joined_includes(parts: Sequence[_Run]) -> dict[str, list[str]]:
    known: dict[str, tuple[_Run, list[str]]] = {}
    for part in parts:
        for threat, others in part.records.meta.get("includes", {}).items():
            before, its = known.setdefault(threat, (part, others))
            if set(its) != set(others):
                raise ConfigurationError(
                    f"The threat {threat!r} includes {sorted(its)} in {before.source!r} and "
                    f"{sorted(others)} in {part.source!r}: its worst cases are not the same thing."
                )
    return {threat: its for threat, (_, its) in known.items()}


def _renamed(
    part: _Run, names: Mapping[tuple[str, str], str], probed: int, *, without_clean: set[str]
) -> pa.Table:
    """A run's rows with the joined names, without clean images that another part brought."""
    table = part.records.table.replace_schema_metadata(None)
    beyond = pc.and_(pc.is_valid(table["probe"]), pc.greater_equal(table["index"], probed))
    table = table.filter(pc.invert(beyond))
    guards = table["guard"].to_pylist()
    strangers = set(guards) - set(part.guards)
    if strangers:
        raise CheckpointError(
            f"{part.source!r} holds rows of the guards {sorted(strangers)}, of which its meta says "
            "nothing: the file is not one that notsure wrote."
        )
    now = [names[part.name, guard] for guard in guards]
    position = table.column_names.index("guard")
    table = table.set_column(position, "guard", pa.array(now, pa.string()))
    repeated = pc.and_(
        pc.and_(pc.equal(table["threat"], CLEAN), pc.is_null(table["probe"])),
        pc.is_in(table["guard"], value_set=pa.array(sorted(without_clean), pa.string())),
    )
    return table.filter(pc.invert(repeated))
