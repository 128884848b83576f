"""The images of a study: found under the data root, cut, and known by their content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from notsure.core.errors import ConfigurationError, DataError
from notsure.core.state import derived_seed
from notsure.data import Images
from notsure.studies.declared import DataSpec
from notsure.studies.decoded import parts_of

ROOT = "NOTSURE_DATA"
"""The environment variable that holds the data root."""

Part = Literal["train", "calibration", "test"]
PARTS: tuple[Part, ...] = ("train", "calibration", "test")

_BUILT_IN = "digits"
_HUB = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Images as a study declares them; a step holds this, and reads them when it runs.

    Attributes:
        name: the last part of the source, for reports; of a stand-in both names.
        path: "digits", or where the source is on this machine.
        seed: of the cut and the draws.
        train: how many images of the part are taken; None for all.
        calibration: the same.
        test: the same.
        digests: SHA-256 of each part's pixels and labels, as taken when the study was read.
        class_names: the names of the classes.
        shape: channels, height and width of the images.
        counts: how many images each part has.
        stands_for: the source that it stands in for; empty where it is the source itself.
        cache: where decoded images are kept; None for nowhere. No result depends on it.
    """

    name: str
    path: str
    seed: int
    train: int | None
    calibration: int | None
    test: int | None
    digests: dict[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    shape: tuple[int, int, int] = (0, 0, 0)
    counts: dict[str, int] = field(default_factory=dict)
    stands_for: str = ""
    cache: str | None = None

    @classmethod
    def found(
        cls, spec: DataSpec, root: str | Path | None, cache: str | Path | None = None
    ) -> DataSet:
        """The data that a study declares, or what stands in for them.

        Args:
            spec: what it declares.
            root: the folder of data sets; None for that which NOTSURE_DATA names.
            cache: a folder that keeps decoded images; None for none.

        Raises:
            DataError: there is no such data, or there are fewer images than are asked for.
            ConfigurationError: there is no data root.
        """
        path, stands_for = _found(spec, root)
        name = Path(str(spec.stand_in) if stands_for else spec.source).name
        known = cls(
            name=f"{name} in place of {Path(stands_for).name}" if stands_for else name,
            path=path,
            stands_for=stands_for,
            cache=None if cache is None else str(Path(cache).absolute()),
            seed=spec.seed,
            train=spec.train,
            calibration=spec.calibration,
            test=spec.test,
        )
        parts = {part: known._read(part) for part in PARTS}
        images = parts["train"][0]
        return replace(
            known,
            digests={part: digest for part, (_, digest) in parts.items()},
            counts={part: len(own) for part, (own, _) in parts.items()},
            class_names=images.class_names,
            shape=images.image_shape,
        )

    def images(self, part: Part) -> Images:
        """The images of a part.

        Raises:
            DataError: they are not those any more that the study was read with.
        """
        images, digest = self._read(part)
        if digest != self.digests[part]:
            raise DataError(
                f"The {part} images of {self.path!r} are not those that the study was planned "
                "with: they were changed meanwhile. Run the study again."
            )
        return images

    def content(self, part: Part) -> dict[str, Any]:
        """What a result that is made of a part depends on: its images, wherever they are."""
        return {"images": self.digests[part], "classes": len(self.class_names)}

    def _read(self, part: Part) -> tuple[Images, str]:
        return _taken(self.path, self.seed, self.cache, part, getattr(self, part))


def _found(spec: DataSpec, root: str | Path | None) -> tuple[str, str]:
    """Where the data are, and what they stand in for, if for anything.

    Raises:
        ConfigurationError: there is no data root.
        DataError: neither they nor their stand-in are there.
    """
    try:
        return located(spec.source, root), ""
    except DataError as error:
        if spec.stand_in is None:
            raise
        try:
            return located(spec.stand_in, root), spec.source
        except DataError:
            raise DataError(
                f"{error} Nor is there {spec.stand_in!r}, which could stand in for them."
            ) from None


def located(source: str, root: str | Path | None) -> str:
    """Where a study's source is on this machine.

    Raises:
        ConfigurationError: there is no data root.
        DataError: there is nothing of that name under it.
    """
    if source == _BUILT_IN:
        return source
    found = root or os.environ.get(ROOT)
    if not found:
        raise ConfigurationError(
            f"The data {source!r} are looked for under the data root, and there is none: give "
            f"--data-root FOLDER (data_root=...), or set {ROOT} to the folder of data sets."
        )
    path = Path(found).expanduser() / source
    if not path.exists():
        there = sorted(one.name for one in Path(found).expanduser().glob("*"))
        hub = _HUB.get(Path(source).name.lower().replace("-", "_"))
        how = f" It is published as {hub!r} on the Hugging Face hub:" if hub else ""
        how += (
            f" hf download {hub} --repo-type dataset --local-dir {path}."
            if hub
            else " Put it there as images in class folders, Parquet, IDX or .npz files."
        )
        raise DataError(
            f"There are no data {source!r} under the data root {str(found)!r}, which has: "
            f"{', '.join(there) or 'nothing'}.{how}"
        )
    return str(path)


@lru_cache(maxsize=4)
def _parts(path: str, seed: int, cache: str | None) -> Mapping[str, Images]:
    return parts_of(path, seed, cache)


@lru_cache(maxsize=16)
def _taken(
    path: str, seed: int, cache: str | None, part: Part, count: int | None
) -> tuple[Images, str]:
    """Some of a part's images, with their digest."""
    images = _parts(path, seed, cache)[part]
    images = drawn(images, count, seed, what=f"The {part} part of {path!r}")
    return images, images.digest()


def drawn(images: Images, count: int | None, seed: int, *, what: str) -> Images:
    """So many of some images, in the proportions of their classes, in their order.

    Args:
        images: what is drawn from.
        count: how many; None for all.
        seed: of the draw.
        what: what errors call the images.

    Raises:
        DataError: there are fewer.
    """
    if count is None or count == len(images):
        return images
    if count > len(images):
        raise DataError(f"{what} has {len(images)} images, fewer than {count}: ask for fewer.")
    generator = torch.Generator().manual_seed(derived_seed(seed, "images"))
    order = torch.randperm(len(images), generator=generator)
    by_class = order[images.labels[order].argsort(stable=True)]
    # evenly spaced in the order of the classes, so that each class has its share
    chosen = by_class[torch.arange(count) * len(images) // count]
    return images.select(chosen.sort().values)
