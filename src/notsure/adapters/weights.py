"""Weights of a checkpoint put into a network, and what is said when they do not fit."""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from notsure.core.errors import CheckpointError
from notsure.core.storage import load_tensors

SAFE = (
    "Where you trust the file, convert it once: model.load_state_dict(...) as you are used to, "
    "then safetensors.torch.save_file(model.state_dict(), 'model.safetensors'), and give that."
)
"""What is told beside every pickle that is not read."""

_TOLD = 4
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def state_of(path: str | Path, *, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by their names.

    Read are safetensors, and with timm at hand also the zip files of `torch.save` that hold tensors
    and nothing else; these are read in torch's weights-only mode, which builds no other objects.

    Args:
        path: the file.
        what: whose weights they are, for messages.

    Raises:
        CheckpointError: there is no such file, it is damaged, or more than weights.
        ConfigurationError: timm is needed and not there.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {str(path)!r} for {what}.")
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    if kind_of(path) != "pickle" or not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{str(path)!r} is neither a safetensors file nor a state dict that torch.save wrote "
            f"(in the format of torch 1.6 and later). {SAFE}"
        )
    from notsure.adapters.loaded import extra

    helpers = extra("timm.models", name="zoo", what="A checkpoint that torch.save wrote")
    try:
        # the whole file is read by the restricted unpickler, or not at all
        content = helpers.load_state_dict(str(path), use_ema=False, weights_only=True)
        tensors = {
            str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)
        }
    except Exception as error:  # torch raises several kinds for what it does not allow
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{str(path)!r} is a pickle that holds more than weights, or is damaged ({first[:200]})"
            f". Such a file runs code when it is read, and is refused. {SAFE}"
        ) from None
    if not tensors:
        raise CheckpointError(f"{str(path)!r} holds no tensors. {SAFE}")
    return tensors


def kind_of(path: Path) -> str:
    """What a file is: "torchscript", "exported", "pickle", "onnx", "safetensors" or "other".

    Only the names within an archive and the first bytes are looked at.
    """
    if path.suffix.lower() == ".onnx":
        return "onnx"
    if path.suffix.lower() == ".safetensors":
        return "safetensors"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        inner = {name.partition("/")[2] or name for name in names}
        if any(name.startswith("models/") for name in inner) or "archive_format" in inner:
            return "exported"
        if "serialized_exported_program.json" in names:
            return "exported"
        if "data.pkl" in inner:
            return "torchscript" if any(n.startswith("code/") for n in inner) else "pickle"
        return "other"
    with path.open("rb") as file:
        start = file.read(2)
    return "pickle" if start in _PICKLE_STARTS else "other"


def refuse_pickle(path: Path) -> CheckpointError:
    """The error for a pickled model."""
    return CheckpointError(
        f"{str(path)!r} is a pickle, which runs code when it is read, and is refused. {SAFE} The "
        "network itself comes from timm:NAME with --checkpoint, from a file path.py:build_model, "
        "or from a program: torch.export.save(torch.export.export(model, (x,)), 'model.pt2')."
    )


def fill(network: nn.Module, state: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Puts weights into a network, all of them and no others.

    Raises:
        CheckpointError: names or shapes differ; the nearest matches are told.
    """
    wanted = network.state_dict()
    misfit = misfit_of(
        {name: tuple(value.shape) for name, value in wanted.items()},
        {name: tuple(value.shape) for name, value in state.items()},
    )
    if misfit:
        raise CheckpointError(f"The weights of {source} do not fit {_name(network)}: {misfit}")
    network.load_state_dict(dict(state))


def misfit_of(
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
) -> str:
    """What is missing, foreign or of another shape, with the nearest matches; empty if nothing is.

    Args:
        wanted: names and shapes of the network's weights.
        found: those of the checkpoint.
    """
    missing = [name for name in wanted if name not in found and not _counts(name)]
    foreign = [name for name in found if name not in wanted]
    shaped = [
        f"{name} is {found[name]} in the checkpoint and {wanted[name]} in the network"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    told = []
    if foreign:
        told.append(f"{len(foreign)} foreign ({_listed([_near(n, missing) for n in foreign])})")
    if missing:
        told.append(f"{len(missing)} missing ({_listed(missing)})")
    if shaped:
        told.append(f"{len(shaped)} of another shape ({_listed(shaped)})")
    if not told:
        return ""
    prefix = _common_prefix(foreign, missing)
    hint = f" Every foreign name begins with {prefix!r}: save it without that." if prefix else ""
    return "; ".join(told) + "." + hint


def _counts(name: str) -> bool:
    """Counters of BatchNorm, which older checkpoints leave out and no answer depends on."""
    return name.endswith("num_batches_tracked")


def _near(name: str, missing: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, missing, n=1, cutoff=0.5)
    return f"{name}, which is nearest to {near[0]}" if near else name


def _common_prefix(foreign: Sequence[str], missing: Sequence[str]) -> str:
    """What stands before every foreign name that is otherwise a missing one."""
    for name in foreign[:1]:
        for other in missing:
            if name.endswith(other) and name != other:
                prefix = name.removesuffix(other)
                if all(one.startswith(prefix) for one in foreign):
                    return prefix
    return ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return "; ".join(names[:_TOLD]) + more


def _name(network: Any) -> str:
    return type(network).__name__
