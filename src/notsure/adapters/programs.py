"""Programs: TorchScript and torch.export files, which bring network and weights in one."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from notsure.adapters.loaded import Given, Loaded
from notsure.adapters.python_file import in_float32, of_module, raise_if_checkpoint
from notsure.adapters.weights import SAFE, kind_of, refuse_pickle
from notsure.core.errors import CheckpointError, ConfigurationError, UnsupportedError

_HARMLESS = re.compile(
    r"(models/model\.json|data/weights/weight_\d+|data/weights/model_weights_config\.json"
    r"|data/constants/tensor_\d+|data/constants/model_constants_config\.json"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version"
    r"|\.data/\w+|\.format_version|\.storage_alignment|extra/.*)"
)
_SAMPLES = "data/sample_inputs/"
_TRUST = "A program is run as it is: audit only programs whose makers you trust."


class Program(nn.Module):
    """A program from a file, as a module that answers batches of any size.

    Its state holds the file's SHA-256, so that two programs are told apart by their weights' hash.

    Args:
        inner: the program; it is never put into another mode.
        digest: SHA-256 of its file.
        batch: the number of images it takes at a time; None for any. Smaller batches are filled up
            with zeros, larger ones cut.
    """

    def __init__(self, inner: nn.Module, digest: bytes, batch: int | None = None) -> None:
        super().__init__()
        # not a child: programs refuse train() and eval(), and cannot be copied
        object.__setattr__(self, "inner", inner)
        self.batch = batch
        self.digest = stamp(digest)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        """The same program: it does not change, and most cannot be copied."""
        return Program(self.__dict__["inner"], bytes(self.digest.tolist()), self.batch)

    def forward(self, x: torch.Tensor) -> Any:
        """Whatever the program yields for images (B, C, H, W); in float32, as programs are."""
        return in_batches(self._answer, x, self.batch)

    def _answer(self, x: torch.Tensor) -> Any:
        inner: Any = self.__dict__["inner"]
        return inner(x)


def stamp(digest: bytes) -> nn.Parameter:
    """A file's SHA-256 as a part of a module's state.

    It is a parameter, so that nobody takes the module for one that has learnt nothing.
    """
    return nn.Parameter(torch.tensor(list(digest), dtype=torch.uint8), requires_grad=False)


def in_batches(answer: Any, x: torch.Tensor, batch: int | None) -> Any:
    """Asks for batches of a fixed size, and puts the tensors of the answers together.

    Raises:
        UnsupportedError: a program of a fixed batch yields something else than a tensor.
    """
    given = x.float()
    if batch is None:
        return _like(answer(given), x)
    parts = []
    for start in range(0, len(given), batch):
        piece = given[start : start + batch]
        missing = batch - len(piece)
        if missing:
            piece = torch.cat([piece, piece.new_zeros(missing, *piece.shape[1:])])
        part = answer(piece)
        if isinstance(part, tuple | list) and len(part) == 1:
            part = part[0]
        if not isinstance(part, torch.Tensor):
            raise UnsupportedError(
                f"The program takes {batch} images at a time and yields {type(part).__name__}: "
                "export it with a dynamic batch, or with one tensor of logits."
            )
        parts.append(part[: batch - missing])
    return _like(torch.cat(parts), x)


def _like(output: Any, x: torch.Tensor) -> Any:
    return output.to(x.dtype) if isinstance(output, torch.Tensor) else output


def load_program(path: Path, given: Given) -> Loaded:
    """A TorchScript or torch.export program.

    Of a torch.export program only plain tensors are read: whatever its archive keeps as a pickle is
    left out (sample inputs) or refused, and so is compiled code.

    Args:
        path: the file.
        given: what the user says.

    Raises:
        CheckpointError: it is a pickle, damaged, or of another kind.
        UnsupportedError: it answers no images, or not with logits.
    """
    raise_if_checkpoint(given)
    kind = kind_of(path)
    if kind == "pickle":
        raise refuse_pickle(path)
    content = path.read_bytes()
    digest = hashlib.sha256(content).digest()
    if kind == "torchscript":
        inner = _torchscript(path)
        precision = in_float32(inner)
        program = Program(inner, digest)
        origin = f"TorchScript program {path}. {_TRUST}"
        loaded = of_module(program, path.stem, origin, given)
        return replace(loaded, notes=(*loaded.notes, *([precision] if precision else [])))
    if kind != "exported":
        raise CheckpointError(
            f"{str(path)!r} is neither a TorchScript nor a torch.export program nor an ONNX file."
        )
    exported = _exported(path, content)
    batch, channels, size = _shape(exported)
    program = Program(exported.module(), digest, batch)
    asked = given.height_and_width
    if asked is not None and size is not None and asked != size:
        raise ConfigurationError(
            f"{str(path)!r} takes images of {size[0]} x {size[1]}, and the size is given as "
            f"{asked[0]} x {asked[1]}: leave it out."
        )
    given = replace(given, size=size or given.size, channels=channels)
    return of_module(program, path.stem, f"torch.export program {path}. {_TRUST}", given)


def _torchscript(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and still what people have
            load: Any = torch.jit.load
            program: nn.Module = load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{str(path)!r} cannot be read as TorchScript ({first[:200]})."
        ) from None
    for part in program.modules():
        part.training = False
    return program


def _exported(path: Path, content: bytes) -> Any:
    """The program, from a copy of the archive that holds its graph and plain tensors alone."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{str(path)!r} is damaged ({error}).") from None
    top = names[0].partition("/")[0]
    inner = {name: name.removeprefix(f"{top}/") for name in names}
    foreign = [name for name in inner.values() if not _HARMLESS.fullmatch(name)]
    if foreign:
        raise CheckpointError(
            f"{str(path)!r} holds {foreign[0]!r}, which is compiled code, a pickle or of an older "
            "format, and is refused. Save it again with this version of torch: "
            "torch.export.save(program, 'model.pt2')."
        )
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as written:
        for name, short in inner.items():
            if short.endswith("_config.json"):
                _refuse_pickled(path, archive.read(name))
            # sample inputs are kept as a pickle, and nobody needs them
            written.writestr(name, b"" if short.startswith(_SAMPLES) else archive.read(name))
    copy.seek(0)
    try:
        return torch.export.load(copy)
    except Exception as error:  # torch raises many kinds for what it cannot read
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{str(path)!r} cannot be read by torch {torch.__version__} ({first[:200]}): export it "
            "with this version."
        ) from None


def _refuse_pickled(path: Path, content: bytes) -> None:
    try:
        entries = json.loads(content)["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged ({error}).") from None
    pickled = [name for name, entry in entries.items() if entry.get("use_pickle") is not False]
    if pickled:
        raise CheckpointError(
            f"{str(path)!r} keeps {pickled[0]!r} as a pickle, which runs code when it is read, and "
            f"is refused. {SAFE}"
        )


def _shape(exported: Any) -> tuple[int | None, int | None, tuple[int, int] | None]:
    """Batch, channels, and height and width that a program was exported for; None for any."""
    inputs = set(exported.graph_signature.user_inputs)
    values = [
        node.meta["val"]
        for node in exported.graph.nodes
        if node.op == "placeholder"
        and node.name in inputs
        and isinstance(node.meta.get("val"), torch.Tensor)
    ]
    shapes, types = [one.shape for one in values], [one.dtype for one in values]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UnsupportedError(
            f"The program takes {len(shapes)} tensors of shapes {[tuple(s) for s in shapes]}; a "
            "classifier takes one batch of images (B, C, H, W)."
        )
    if types[0] != torch.float32:
        raise UnsupportedError(
            f"The program takes images in {types[0]}: export it in torch.float32, which images are "
            "examined in."
        )
    fixed = [one if isinstance(one, int) else None for one in shapes[0]]
    batch, channels, height, width = fixed
    size = None if height is None or width is None else (height, width)
    return batch, channels, size
