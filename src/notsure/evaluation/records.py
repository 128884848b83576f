"""Records: one row per example, attack, eps, threat and seed, from which all else is computed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.storage import atomic, writable_folder

if TYPE_CHECKING:
    from notsure.evaluation.sanity import Flag

FORMAT = 2
"""The records' format, which is written into them."""

SCORE = "score_"
"""What the names of the detectors' columns begin with."""

CONTROL = "control_"
"""What the names of the controls' columns begin with: scores that know nothing."""

SHARD = "shard"
"""The entry of the meta that says of which images the records are, where not of all."""

UNBOUNDED, LONGER, NOISE = "unbounded", "longer", "noise"
"""The probes: see the column of that name."""

COLUMNS: dict[str, pa.DataType] = {
    "guard": pa.string(),  # name given to the guard
    "threat": pa.string(),  # "clean" for the clean image itself
    "substitute": pa.string(),  # what was attacked in the guard's place; null but for transfer
    "probe": pa.string(),  # rows of the first images that only the flags look at; null otherwise
    "attack": pa.string(),  # class name; "none" for clean images
    "attack_id": pa.string(),  # hash of all hyperparameters, see meta["attacks"]
    "norm": pa.string(),
    "eps": pa.float64(),  # in [0,1] pixel units; null for attacks without a budget
    "seed": pa.int64(),
    "index": pa.int64(),  # position in the test set
    "y": pa.int32(),
    "clean_prediction": pa.int32(),
    "clean_accepted": pa.bool_(),
    "prediction": pa.int32(),  # before any rejection
    "accepted": pa.bool_(),
    "rounded_prediction": pa.int32(),  # of the image in 8 bits, where the image fools the guard
    "rounded_accepted": pa.bool_(),
    "success": pa.bool_(),  # of the attack, on the target that its threat shows it
    "tie": pa.bool_(),  # decided by less than rounding
    "rejection": pa.float32(),  # positive = rejected; null without detectors
    "l0": pa.float32(),
    "l1": pa.float32(),
    "l2": pa.float32(),
    "linf": pa.float32(),
    "queries": pa.int64(),
    "gradients": pa.int64(),
    "dead_gradients": pa.int64(),  # zero or not finite
    "non_finite_gradients": pa.int64(),
    "seconds": pa.float32(),  # the attack's wall time, shared out over its batch
    "image": pa.list_(pa.float32()),  # a few rows only, shape in meta["image_shape"]
    "purified": pa.list_(pa.float32()),  # where the image is kept and the guard has a purifier
    "features": pa.list_(pa.float32()),  # some rows only, of the row's image
}

_META = b"notsure"


class Records:
    """A table of records, with what is needed to read it in `meta`.

    Args:
        table: the columns of `COLUMNS` and one `score_<detector>` column per detector.
        meta: versions, guards, attacks, seed, names of the classes.

    Raises:
        CheckpointError: a column is missing.
    """

    def __init__(self, table: pa.Table, meta: Mapping[str, Any]) -> None:
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise CheckpointError(
                f"These are no records of notsure: the columns {', '.join(missing)} are missing."
            )
        self.table = table
        self.meta: dict[str, Any] = dict(meta)

    @classmethod
    def of(cls, columns: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> Records:
        """Joins batches of columns; a detector that a batch does not have is null there.

        Args:
            columns: by batch, the columns of `COLUMNS` and one for each score of a detector or
                control.
            meta: what is needed to read them: versions, guards, attacks, seed, names of the
                classes.

        Returns:
            The records, in the order of the batches.
        """
        batches = list(columns)
        names = [
            *COLUMNS,
            *dict.fromkeys(n for batch in batches for n in batch if n.startswith((SCORE, CONTROL))),
        ]
        schema = pa.schema([(name, COLUMNS.get(name, pa.float32())) for name in names])
        tables = []
        for batch in batches:
            length = len(batch["index"])
            tables.append(
                pa.table({name: batch.get(name, [None] * length) for name in names}, schema=schema)
            )
        return cls(pa.concat_tables(tables), meta)

    @classmethod
    def joined(cls, parts: Sequence[Records], meta: Mapping[str, Any]) -> Records:
        """The records of all parts; a score that a part does not have is null there.

        Args:
            parts: records of the same columns, but for scores.
            meta: what is needed to read all of them.
        """
        tables = [part.table for part in parts]
        return cls(pa.concat_tables(tables, promote_options="default"), meta)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def detectors(self) -> list[str]:
        """The detectors that have a score column."""
        return [n.removeprefix(SCORE) for n in self.table.column_names if n.startswith(SCORE)]

    @property
    def controls(self) -> list[str]:
        """The controls that have a column."""
        return [n.removeprefix(CONTROL) for n in self.table.column_names if n.startswith(CONTROL)]

    @property
    def guards(self) -> list[str]:
        """The guards' names, in the order of the table."""
        return list(self.table["guard"].unique().to_pylist())

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column as an array; nulls of number columns become NaN."""
        return np.asarray(self.table[name].to_numpy(zero_copy_only=False))

    def where(self, **values: Any) -> Records:
        """The rows that have these values in these columns; None stands for null."""
        mask = None
        for name, value in values.items():
            column = self.table[name]
            this = pc.is_null(column) if value is None else pc.equal(column, pa.scalar(value))
            this = pc.fill_null(this, False)
            mask = this if mask is None else pc.and_(mask, this)
        return self if mask is None else Records(self.table.filter(mask), self.meta)

    def ordinary(self) -> Records:
        """The records without those of probes, which only the flags look at."""
        return self.where(probe=None)

    def flags(self) -> list[Flag]:
        """What speaks against believing the figures, and what does not: see `Flag`."""
        from notsure.evaluation.sanity import flags

        return flags(self)

    def without_images(self) -> Records:
        """The same records without the images and features that were kept for the report."""
        table = self.table
        for name in ("image", "purified", "features"):
            position = table.column_names.index(name)
            nothing = pa.nulls(len(table), COLUMNS[name])
            table = table.set_column(position, name, nothing)
        return Records(table, self.meta)

    def distinct(self, *names: str) -> list[tuple[Any, ...]]:
        """The distinct combinations of values of some columns, in order of appearance."""
        # one thread, which meets the rows in their order
        groups = self.table.group_by(list(names), use_threads=False).aggregate([])
        return list(zip(*(groups[name].to_pylist() for name in names), strict=True))

    def write(self, path: str | Path) -> Path:
        """Writes the records as Parquet, atomically.

        Args:
            path: the file.

        Returns:
            The file.

        Raises:
            ConfigurationError: the folder cannot be written to.
        """
        path = Path(path)
        writable_folder(path.parent)
        schema = self.table.schema.with_metadata({_META: json.dumps(self.meta).encode()})
        with atomic(path) as temporary:
            pq.write_table(self.table.cast(schema), temporary, compression="zstd")
        return path

    @classmethod
    def read(cls, path: str | Path) -> Records:
        """Reads records that were written.

        Args:
            path: a file that `write` wrote.

        Returns:
            The records with their meta.

        Raises:
            ConfigurationError: there is no such file.
            CheckpointError: it is damaged, or holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise ConfigurationError(f"There are no records at {str(path)!r}.")
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise CheckpointError(
                f"{str(path)!r} is truncated or no Parquet file ({error}): make the run again."
            ) from error
        note = (table.schema.metadata or {}).get(_META)
        if note is None:
            raise CheckpointError(f"{str(path)!r} holds no records of notsure.")
        meta = json.loads(note)
        if meta.get("format") != FORMAT:
            raise CheckpointError(
                f"{str(path)!r} holds records of format {meta.get('format', 1)}, and this version "
                f"of notsure reads format {FORMAT}: make the run again."
            )
        return cls(table, meta)
