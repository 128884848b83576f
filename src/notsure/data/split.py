"""The split into train, calibration and test: disjoint by index and by content."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from notsure.core.errors import ConfigurationError, DataError
from notsure.core.storage import atomic
from notsure.data.images import Images
from notsure.data.sources import read

_TEST_FRACTION = 0.3
_CALIBRATION_FRACTION = 0.15
_PUBLISHED_CALIBRATION_FRACTION = 0.1
_CALIBRATION_MOST = 5000
_CALIBRATION_LEAST = 200

_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SplitRecord:
    """Where each part of a split came from: enough to check it, or to cut it again elsewhere.

    Attributes:
        source: the source as the user gave it.
        seed: what the calibration part (and the test part, where held out) was drawn with.
        how: "published test set" or "held out", which says where the test part came from.
        sizes: number of images of each part: "train", "calibration" and "test".
        duplicates_removed: images left out because another part holds the same pixels.
        digests: SHA-256 over each part's pixels and labels (`Images.digest`).
        source_splits: the source's own name of the set that each part was taken from.
        indices: each part's positions in that set, ascending, in its own order.
    """

    source: str
    seed: int
    how: str
    sizes: dict[str, int]
    duplicates_removed: int
    digests: dict[str, str]
    source_splits: dict[str, str]
    indices: dict[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """The record as JSON's own types."""
        content = asdict(self)
        content["indices"] = {part: list(rows) for part, rows in self.indices.items()}
        return content

    def save(self, path: str | Path) -> None:
        """Writes the record atomically as a JSON file, one field a line."""
        lines = (f"  {json.dumps(name)}: {json.dumps(v)}" for name, v in self.to_json().items())
        with atomic(path) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


@dataclass(frozen=True)
class Split:
    """Three sets of images of which no two share an image.

    Attributes:
        train: what networks and detectors are fitted on.
        calibration: what thresholds are set on.
        test: what figures are measured on.
        record: where each of them came from.
    """

    train: Images
    calibration: Images
    test: Images
    record: SplitRecord


def load(
    source: str | Path,
    *,
    seed: int = 0,
    calibration: float | None = None,
    test: float | None = None,
) -> Split:
    """Reads a data set and splits it into train, calibration and test.

    A published test set (a split called test, or else validation) is kept whole, and the
    calibration part is held out of train, in the proportions of the classes. Without one, all
    three are cut from one set, as `split` does. Images of train whose pixels another part holds
    too are removed, so that the parts are disjoint by content.

    Args:
        source: "digits" (scikit-learn's, 8x8); an .npz file with x and y, or x_train, y_train,
            x_test and y_test; a folder of IDX files, as MNIST is published; a folder of images in
            one subfolder per class, optionally under train/ and test/; any other folder that
            `datasets.load_dataset` takes; or a hub id such as "ylecun/mnist". All images need one
            size. If all are grey they have one channel, otherwise three; transparency is dropped.
        seed: of the draw, at least 0.
        calibration: fraction to hold out, in (0,1). By default 10 % of a published train set, at
            most 5000 and at least 200 images (or half of it, if that is less); 15 % of one set.
        test: fraction to hold out of one set, in (0,1); 30 % by default.

    Returns:
        The three parts, and a record of how they were cut.

    Raises:
        DataError: the source cannot be found, read or split.
        ConfigurationError: a fraction or the seed is out of range, or `test` is given although
            there is a published test set.
    """
    _check_settings(seed, calibration, test)
    return split_parts(
        read(source), seed=seed, calibration=calibration, test=test, source=str(source)
    )


def split_parts(
    parts: dict[str, Images],
    *,
    seed: int = 0,
    calibration: float | None = None,
    test: float | None = None,
    source: str = "arrays",
) -> Split:
    """Splits what a source holds, as `load` does it.

    Args:
        parts: the set to train on (or the only one) and, second, the published test set.
        seed: of the draw, at least 0.
        calibration: as in `load`.
        test: as in `load`.
        source: what the record says about where the parts came from.

    Raises:
        DataError: there are too few images, or the parts have images of different shapes.
        ConfigurationError: a fraction or the seed is out of range, or `test` is given although
            there is a published test set.
    """
    _check_settings(seed, calibration, test)
    if len(parts) == 1:
        ((name, images),) = parts.items()
        return _cut(images, name, source, seed, calibration, test)
    if test is not None:
        raise ConfigurationError(
            f"{source!r} has a published test set, which is kept whole: leave out test={test}."
        )
    return _cut_published(parts, source, seed, calibration)


def split(
    images: Images,
    *,
    seed: int = 0,
    calibration: float | None = None,
    test: float | None = None,
    source: str = "arrays",
) -> Split:
    """Splits one set into train, calibration and test, in the proportions of the classes.

    Images of the rest whose pixels the test part holds too are removed, and then images of train
    whose pixels the calibration part holds too.

    Args:
        images: the set.
        seed: of the draw, at least 0.
        calibration: fraction of the set, in (0,1); 15 % by default.
        test: fraction of the set, in (0,1); 30 % by default.
        source: what the record says about where the set came from.

    Returns:
        The three parts, and a record of how they were cut.

    Raises:
        DataError: there are too few images.
        ConfigurationError: a fraction or the seed is out of range.
    """
    _check_settings(seed, calibration, test)
    return _cut(images, "all", source, seed, calibration, test)


def _check_settings(seed: int, calibration: float | None, test: float | None) -> None:
    if seed < 0:
        raise ConfigurationError(f"seed has to be a whole number from 0 on; got {seed}.")
    for name, fraction in (("calibration", calibration), ("test", test)):
        if fraction is not None and not 0 < fraction < 1:
            raise ConfigurationError(
                f"{name} is a fraction of the images, above 0 and below 1; got {fraction}."
            )


def _cut(
    images: Images,
    name: str,
    source: str,
    seed: int,
    calibration: float | None,
    test: float | None,
) -> Split:
    calibration = _CALIBRATION_FRACTION if calibration is None else calibration
    test = _TEST_FRACTION if test is None else test
    if calibration + test >= 1:
        raise ConfigurationError(
            f"calibration={calibration} and test={test} leave nothing to train on: their sum has "
            "to be below 1."
        )
    generator = np.random.default_rng(seed)
    labels, keys = _labels_and_keys(images)
    everything = np.arange(len(images))
    test_rows = _draw(labels, everything, round(test * len(images)), generator, source)
    rest = np.setdiff1d(everything, test_rows)
    kept = rest[~np.isin(keys[rest], keys[test_rows])]
    count = round(calibration * len(images))
    calibration_rows, train_rows = _hold_out(labels, keys, kept, count, generator, source)
    return _assemble(
        {
            "train": (name, images, train_rows),
            "calibration": (name, images, calibration_rows),
            "test": (name, images, test_rows),
        },
        source=source,
        seed=seed,
        how="held out",
        available=len(images),
    )


def _cut_published(
    parts: dict[str, Images], source: str, seed: int, calibration: float | None
) -> Split:
    (train_name, pool), (test_name, test_images) = parts.items()
    if pool.image_shape != test_images.image_shape:
        raise DataError(
            f"The images of {source!r} are {pool.image_shape} (channels, height, width) in "
            f"{train_name!r} but {test_images.image_shape} in {test_name!r}: bring them to one "
            "size first."
        )
    if calibration is None:
        size = len(pool)
        count = min(round(_PUBLISHED_CALIBRATION_FRACTION * size), _CALIBRATION_MOST)
        count = max(count, min(_CALIBRATION_LEAST, size // 2))
    else:
        count = round(calibration * len(pool))
    labels, keys = _labels_and_keys(pool)
    kept = np.flatnonzero(~np.isin(keys, test_images.content_keys().cpu().numpy()))
    generator = np.random.default_rng(seed)
    calibration_rows, train_rows = _hold_out(labels, keys, kept, count, generator, source)
    return _assemble(
        {
            "train": (train_name, pool, train_rows),
            "calibration": (train_name, pool, calibration_rows),
            "test": (test_name, test_images, np.arange(len(test_images))),
        },
        source=source,
        seed=seed,
        how="published test set",
        available=len(pool) + len(test_images),
    )


def _labels_and_keys(images: Images) -> tuple[_Rows, _Rows]:
    return images.labels.cpu().numpy(), images.content_keys().cpu().numpy()


def _draw(
    labels: _Rows, rows: _Rows, count: int, generator: np.random.Generator, source: str
) -> _Rows:
    """Draws `count` (at least one) of the rows in the proportions of their classes, ascending."""
    count = max(count, 1)
    if count >= len(rows):
        raise DataError(
            f"There are too few images in {source!r} to split it: {count} are to be held out of "
            f"{len(rows)} (duplicates of held-out images not counted). Give more images or smaller "
            "fractions."
        )
    shuffled = generator.permutation(rows)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    # evenly spaced in class order: each class gets its share, rounded up or down by chance
    start = generator.integers(len(rows))
    return np.sort(by_class[(np.arange(count) * len(rows) + start) // count])


def _hold_out(
    labels: _Rows,
    keys: _Rows,
    rows: _Rows,
    count: int,
    generator: np.random.Generator,
    source: str,
) -> tuple[_Rows, _Rows]:
    """The rows of the calibration part, and those of train without duplicates of them."""
    held = _draw(labels, rows, count, generator, source)
    rest = np.setdiff1d(rows, held)
    kept = rest[~np.isin(keys[rest], keys[held])]
    if len(kept) == 0:
        raise DataError(
            f"There are too few different images in {source!r} to split it: all that is left to "
            "train on are duplicates of the calibration part. Give more images."
        )
    return held, kept


def _assemble(
    parts: dict[str, tuple[str, Images, _Rows]],
    *,
    source: str,
    seed: int,
    how: str,
    available: int,
) -> Split:
    images = {
        part: whole if len(rows) == len(whole) else whole.select(rows)
        for part, (_, whole, rows) in parts.items()
    }
    record = SplitRecord(
        source=source,
        seed=seed,
        how=how,
        sizes={part: len(chosen) for part, chosen in images.items()},
        duplicates_removed=available - sum(len(chosen) for chosen in images.values()),
        digests={part: chosen.digest() for part, chosen in images.items()},
        source_splits={part: name for part, (name, _, _) in parts.items()},
        indices={part: tuple(rows.tolist()) for part, (_, _, rows) in parts.items()},
    )
    return Split(images["train"], images["calibration"], images["test"], record)
