"""Writing a guard as one graph, and checking it before the file takes its place."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from notsure.core.errors import UnsupportedError
from notsure.core.storage import atomic, writable_folder
from notsure.data import Images
from notsure.export.checking import Check, compared, random_images, require
from notsure.export.description import KEY, Description
from notsure.export.graph import GuardGraph, shape_of_guard
from notsure.export.running import INPUT, OUTPUTS, OnnxGuard, ProgramGuard, needed, onnxruntime
from notsure.guard import Guard

_LARGEST = (1 << 31) - (1 << 20)
"""Bytes of weights that fit into one ONNX file."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported guard.

    Attributes:
        path: the file.
        description: what is known of it, also kept in the file.
        check: how it compared with the guard before it was written.
        given: whether the images of the check were given; otherwise they are random.
    """

    path: Path
    description: Description
    check: Check
    given: bool


def to_onnx(
    guard: Guard,
    path: str | Path,
    *,
    images: torch.Tensor | Images | None = None,
    size: int | tuple[int, int] | None = None,
) -> Exported:
    """Writes a guard as one ONNX graph, and checks it in onnxruntime before the file is there.

    The graph takes `image`, (batch, C, H, W) in [0,1], and yields `label`, int64 (batch,), -1 where
    the guard is not sure; `accepted`, bool (batch,); and `scores`, (batch, D), one column a
    detector. It does not check the range of the images. What else is known (`Description`) is in
    the file's metadata under "notsure".

    Args:
        guard: fitted and calibrated; it is left as it is.
        path: the file to write.
        images: what it is checked on, (N, C, H, W) in [0,1], or `Images`; better of the kind that
            it is for. By default 64 random ones.
        size: height and width of the images in pixels, or one number for both, where neither the
            guard nor images tell.

    Returns:
        The file, what is in it, and what it was checked on.

    Raises:
        ConfigurationError: a package is missing, the folder cannot be written to, or the size is
            not known.
        UnsupportedError: a part cannot be exported; the message has the reason of each.
        NotFittedError: the guard was not fitted or not calibrated.
        VerificationError: the graph does not say what the guard says.
    """
    for package in ("onnx", "onnxscript"):
        needed(package, "ONNX files are written through")
    onnxruntime()
    x, sample, description = _prepared(guard, images, size)
    graph = GuardGraph(guard, sample)
    weights = sum(t.numel() * t.element_size() for t in graph.state_dict().values())
    if weights > _LARGEST:
        raise UnsupportedError(
            f"This guard has {weights / 2**30:.1f} GiB of weights and an ONNX file holds 2: export "
            "a program (to_program, --format torch), or keep fewer points (max_points)."
        )
    traced = _traced(graph, sample)
    with _quiet():
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            external_data=False,
            verbose=False,
        )
    program.model.metadata_props[KEY] = description.to_json()
    path = Path(path)
    writable_folder(path.parent)
    with atomic(path) as temporary:
        with _quiet():
            program.save(str(temporary), external_data=False)
        check = require(compared(guard, OnnxGuard(temporary), x))
    return Exported(path=path, description=description, check=check, given=images is not None)


def to_program(
    guard: Guard,
    path: str | Path,
    *,
    images: torch.Tensor | Images | None = None,
    size: int | tuple[int, int] | None = None,
) -> Exported:
    """Writes a guard as a program of torch.export (.pt2), and checks it before the file is there.

    `torch.export.load(path).module()(image)` gives the three outputs of `to_onnx`; the description
    is the extra file "notsure.json".

    Args:
        guard: fitted and calibrated; it is left as it is.
        path: the file to write.
        images: see `to_onnx`.
        size: see `to_onnx`.

    Returns:
        The file, what is in it, and what it was checked on.

    Raises:
        ConfigurationError: the folder cannot be written to, or the size is not known.
        UnsupportedError: a part cannot be exported; the message has the reason of each.
        NotFittedError: the guard was not fitted or not calibrated.
        VerificationError: the program does not say what the guard says.
    """
    x, sample, description = _prepared(guard, images, size)
    traced = _traced(GuardGraph(guard, sample), sample)
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(traced, buffer, extra_files={f"{KEY}.json": description.to_json()})
    path = Path(path)
    writable_folder(path.parent)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
        check = require(compared(guard, ProgramGuard(temporary), x))
    return Exported(path=path, description=description, check=check, given=images is not None)


def _prepared(
    guard: Guard,
    images: torch.Tensor | Images | None,
    size: int | tuple[int, int] | None,
) -> tuple[torch.Tensor, torch.Tensor, Description]:
    """Images to check on, a few of them to trace with, and the guard's description."""
    parameter = next(guard.classifier.parameters(), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    if images is None:
        x = random_images(shape_of_guard(guard, size), dtype)
    else:
        x = images.x if isinstance(images, Images) else images
    # the guard's own checks come before anything else is made of the images
    x = guard.classifier.check(x.to(guard.classifier.device)).to(dtype)
    shape = (int(x.shape[1]), int(x.shape[2]), int(x.shape[3]))
    # tracing takes a batch of one for a constant
    sample = x[:4] if len(x) >= 2 else x.repeat(2, 1, 1, 1)
    with torch.inference_mode():
        classes = guard.classifier.logits(sample).shape[1]
    precision = str(dtype).removeprefix("torch.")
    described = Description.of(guard, shape, num_classes=classes, precision=precision)
    return x, sample.cpu(), described


def _traced(graph: GuardGraph, sample: torch.Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(
                graph, (sample,), dynamic_shapes={"image": {0: batch}}, strict=False
            )
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        raise UnsupportedError(
            "torch.export cannot trace the guard's network, most likely because it decides in "
            f"Python by what a tensor holds or by the size of the batch ({type(error).__name__}: "
            f"{first}). Write these as operations on tensors; x.shape[0], not len(x), is the size "
            "of a batch."
        ) from error
    # which file and line an operation came from is nobody's business who gets the graph
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
