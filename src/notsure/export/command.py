"""What `notsure export` does."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from notsure import data
from notsure.core.errors import ConfigurationError
from notsure.export.files import Exported, to_onnx, to_program
from notsure.guard import Guard

Format = Literal["onnx", "torch"]
"""ONNX, or a program of torch.export."""

_ENDINGS: dict[str, str] = {"onnx": "onnx", "torch": "pt2"}


def export_guard(
    guard: Guard,
    folder: Path,
    *,
    kind: str = "onnx",
    out: Path | None = None,
    source: str | None = None,
    count: int = 1000,
    size: int | None = None,
) -> Exported:
    """Exports a guard that was read from a folder.

    Args:
        guard: the guard.
        folder: where it was saved.
        kind: "onnx" or "torch".
        out: the file to write; by default guard.onnx or guard.pt2 in the folder.
        source: a data set (see `notsure.data.load`) on whose first test images it is checked;
            random images by default.
        count: how many of them.
        size: height and width of the images in pixels, where the guard does not tell.

    Raises:
        ConfigurationError: there is no such format, or see `to_onnx`.
    """
    if kind not in get_args(Format):
        raise ConfigurationError(f"--format is {' or '.join(get_args(Format))}; got {kind!r}.")
    if count < 1:
        raise ConfigurationError(f"--count is a number of images, at least 1; got {count}.")
    images = None if source is None else data.load(source).test.select(slice(0, count))
    path = folder / f"guard.{_ENDINGS[kind]}" if out is None else out
    write = to_onnx if kind == "onnx" else to_program
    return write(guard, path, images=images, size=size)


def told(exported: Exported) -> list[str]:
    """What is said of an exported guard, line by line."""
    check, description = exported.check, exported.description
    channels, rows, columns = description.shape
    kind = "given" if exported.given else "random"
    lines = [
        f"wrote {exported.path}",
        f"image (batch, {channels}, {rows}, {columns}) {description.precision} in [0,1] -> label, "
        f"accepted, scores ({', '.join(description.detectors) or 'no detectors'})",
        f"checked on {check.count} {kind} images, {check.rejected} of them rejected: "
        f"{check.differing} decided otherwise, scores within {check.largest_difference:.2g} "
        f"({check.largest_relative_difference:.2g} relative)",
    ]
    if not exported.given:
        lines.append("give --data to check it on images of the kind that it is for")
    return lines
