"""ONNX files: run by onnxruntime, attacked through a conversion to torch where there is one."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from notsure.adapters.answers import answer_in
from notsure.adapters.loaded import Given, Loaded, extra
from notsure.adapters.programs import in_batches, stamp
from notsure.adapters.python_file import of_module, raise_if_checkpoint
from notsure.core.errors import CheckpointError, ConfigurationError, UnsupportedError

AGREEMENT = 1e-3
"""How far the conversion may be from onnxruntime, as a share of the largest logit."""

_PROBES = 4
_CHUNK = 1 << 20
_OPSET = 17
_SEED = 0


class OnnxModel(nn.Module):
    """An ONNX file as a module: answers are onnxruntime's, gradients those of its conversion.

    What is examined is the file as it is deployed. Only where a gradient is asked for does its
    conversion to torch answer, whose logits agree with onnxruntime's within `AGREEMENT`; whether
    an attack has succeeded is then asked of onnxruntime again.

    Args:
        session: an `onnxruntime.InferenceSession`.
        digest: SHA-256 of the file and of its weights.
        batch: how many images it takes at a time; None for any.
        converted: the conversion; None where there is none.
        why_not: why there is none.
    """

    def __init__(
        self,
        session: Any,
        digest: bytes,
        batch: int | None,
        converted: nn.Module | None,
        why_not: str = "",
    ) -> None:
        super().__init__()
        object.__setattr__(self, "session", session)
        self.converted = converted
        self.batch = batch
        self.differentiable = converted is not None
        self.no_gradients = why_not
        self.input = str(session.get_inputs()[0].name)
        self.digest = stamp(digest)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModel:
        """The same session, which cannot be copied, and a copy of the conversion."""
        return OnnxModel(
            self.__dict__["session"],
            bytes(self.digest.tolist()),
            self.batch,
            copy.deepcopy(self.converted, memo),
            self.no_gradients,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the file yields for images (B, C, H, W): the output that is the logits."""
        if self.converted is not None and x.requires_grad and torch.is_grad_enabled():
            answered: torch.Tensor = in_batches(self._converted, x, self.batch)
            return answered
        found: torch.Tensor = in_batches(self._run, x.detach(), self.batch)
        return found.to(x.device)

    def _converted(self, x: torch.Tensor) -> torch.Tensor:
        return answer_in(cast("nn.Module", self.converted)(x))

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        session: Any = self.__dict__["session"]
        outputs = session.run(None, {self.input: x.cpu().numpy()})
        tensors = {
            described.name: torch.from_numpy(value)
            for described, value in zip(session.get_outputs(), outputs, strict=True)
            if isinstance(value, np.ndarray)
        }
        return next(iter(tensors.values())) if len(tensors) == 1 else answer_in(tensors)


def load_onnx(path: Path, given: Given) -> Loaded:
    """An ONNX file.

    Args:
        path: the file; it takes one batch of float32 images (B, C, H, W).
        given: what the user says.

    Raises:
        CheckpointError: it is damaged.
        ConfigurationError: onnxruntime is not installed.
        UnsupportedError: it takes something else than images.
    """
    raise_if_checkpoint(given)
    runtime = extra("onnxruntime", name="onnx", what=f"The ONNX file {path}")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises kinds of its own
        first = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{str(path)!r} cannot be read by onnxruntime ({first[:200]})."
        ) from None
    batch, channels, size = _shape(session.get_inputs(), path)
    asked = given.height_and_width
    if asked is not None and size is not None and asked != size:
        raise ConfigurationError(
            f"{str(path)!r} takes images of {size[0]} x {size[1]}, and the size is given as "
            f"{asked[0]} x {asked[1]}: leave it out."
        )
    size = size or asked
    converted, why_not = _conversion(path)
    digest = _digest(path)
    module = OnnxModel(session, digest, batch, converted, why_not)
    if converted is not None:
        why_not = _disagreement(module, channels, size)
        if why_not:
            module = OnnxModel(session, digest, batch, None, why_not)
    given = replace(given, size=size, channels=channels)
    how = "gradients through its conversion to torch" if module.differentiable else "scores alone"
    return of_module(module, path.stem, f"ONNX file {path}, run by onnxruntime; {how}", given)


def _digest(path: Path) -> bytes:
    """SHA-256 of the file, and of those beside it that it names: large weights are kept there."""
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    for other in sorted(path.parent.iterdir()):
        if other.name != path.name and other.name.encode() in content and other.is_file():
            with other.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
    return digest.digest()


def _shape(
    inputs: Sequence[Any], path: Path
) -> tuple[int | None, int | None, tuple[int, int] | None]:
    described = ", ".join(f"{one.name}: {one.type} {list(one.shape)}" for one in inputs)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        raise UnsupportedError(
            f"{str(path)!r} takes {described}; a classifier takes one batch of images "
            "(B, C, H, W) in float32."
        )
    batch, channels, height, width = (
        one if isinstance(one, int) and one > 0 else None for one in inputs[0].shape
    )
    if channels not in (None, 1, 3) and width in (1, 3):
        raise UnsupportedError(
            f"{str(path)!r} takes {described}, whose channels seem to be last: export it with "
            "channels first, (B, C, H, W), such as by tf2onnx --inputs-as-nchw."
        )
    return batch, channels, None if height is None or width is None else (height, width)


def _conversion(path: Path) -> tuple[nn.Module | None, str]:
    """The file as a torch module, or why there is none."""
    try:
        onnx = extra("onnx", name="onnx", what="A gradient through an ONNX file")
        converter = extra("onnx2torch", name="onnx", what="A gradient through an ONNX file")
    except ConfigurationError as error:
        return None, str(error)
    why_not = ""
    for prepared in (_as_it_is, _in_older_operators):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = converter.convert(prepared(onnx, path))
        except Exception as error:  # the converter raises whatever it meets
            first = (str(error).strip().splitlines() or [""])[0]
            # why the file itself cannot be converted is what its owner can act on
            why_not = why_not or (
                f"onnx2torch cannot convert it ({type(error).__name__}: {first[:160]})"
            )
            continue
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        return cast("nn.Module", module.eval()), ""
    return None, why_not


def _as_it_is(onnx: Any, path: Path) -> Any:
    return onnx.load(str(path))


def _in_older_operators(onnx: Any, path: Path) -> Any:
    """The same network in the operators of opset 17, the last that onnx2torch knows well.

    torch.onnx.export writes newer ones. A reshape's `allowzero` is left out, which means something
    for empty tensors only; whether the conversion answers alike is asked all the same.
    """
    versions = extra("onnx.version_converter", name="onnx", what="A gradient through an ONNX file")
    model = onnx.load(str(path))
    for node in model.graph.node:
        kept = [one for one in node.attribute if one.name != "allowzero"]
        if node.op_type == "Reshape" and len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)
    return versions.convert_version(model, _OPSET)


def _disagreement(module: OnnxModel, channels: int | None, size: tuple[int, int] | None) -> str:
    """Why the conversion is not to be used; empty where it answers as onnxruntime does."""
    height, width = size or (32, 32)
    generator = torch.Generator().manual_seed(_SEED)
    x = torch.rand(_PROBES, channels or 3, height, width, generator=generator)
    try:
        with torch.no_grad():
            ours = module(x)
        theirs = module(x.requires_grad_()).detach()
    except Exception as error:  # a conversion may fail in any way
        first = (str(error).strip().splitlines() or [""])[0]
        return f"its conversion to torch does not run ({type(error).__name__}: {first[:160]})"
    apart = float((ours - theirs).abs().max())
    if ours.shape != theirs.shape or apart > AGREEMENT * max(1.0, float(ours.abs().max())):
        return f"its conversion to torch answers otherwise than onnxruntime (by {apart:.2g})"
    return ""
