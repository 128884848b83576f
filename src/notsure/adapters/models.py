"""One road for every model from outside: what a spec means, and who loads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from notsure.adapters.loaded import Given, Loaded, Numbers
from notsure.adapters.onnx_models import load_onnx
from notsure.adapters.programs import load_program
from notsure.adapters.python_file import is_python, load_python, of_guard, raise_if_checkpoint
from notsure.adapters.timm_models import load_timm
from notsure.adapters.transformers_models import load_transformers
from notsure.adapters.weights import kind_of, refuse_pickle
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.storage import load_json
from notsure.guard import Guard
from notsure.guard_files import DESCRIPTION

KNOWN = (
    "timm:NAME (with --checkpoint for weights of your own), hf:ORG/NAME, a folder of transformers, "
    "path/to/file.py:build_model, a TorchScript or torch.export program (.pt, .pt2), an ONNX file, "
    "or the folder of a guard"
)
"""The specs that there are."""


def load_model(
    spec: str | Path,
    *,
    checkpoint: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    class_names: Sequence[str] = (),
) -> Loaded:
    """A model from outside, with its preprocessing.

    Nothing that runs code when it is read is read: no pickle, no code of a hub's repository. A
    Python file is run, since that is what it is given for, and programs are run as programs.

    Args:
        spec: "timm:NAME" or "timm:FOLDER"; "hf:ORG/NAME" or "hf:FOLDER" or a local folder of
            transformers; "path/to/file.py:build_model"; a TorchScript or torch.export program; an
            ONNX file; a folder that `Guard.save` wrote.
        checkpoint: weights for the model of timm or of a Python file: safetensors, or a file of
            torch.save that holds tensors and nothing else.
        size: height and width of the images in pixels, where the model's own is wrong or unknown.
        mean: subtracted per channel, in [0,1] units, in place of the model's own.
        std: divided by per channel, in [0,1] units, in place of the model's own.
        class_names: the names of the classes in the order of the logits, in place of its own.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        CheckpointError: a file is a pickle, damaged, or does not fit the network.
        ConfigurationError: the spec is none of these, a package is missing, or a setting does not
            go with the model.
        UnsupportedError: it is no classifier of images.
    """
    text = str(spec)
    for pixels in () if size is None else (size,) if isinstance(size, int) else size:
        if pixels < 1:
            raise ConfigurationError(f"A size is at least 1 pixel; got {size}.")
    given = Given(
        checkpoint=None if checkpoint is None else str(checkpoint),
        size=size,
        mean=mean,
        std=std,
        class_names=tuple(str(name) for name in class_names),
    )
    loaded = _load(text, given)
    if loaded.class_names and len(loaded.class_names) != loaded.num_classes:
        raise ConfigurationError(
            f"{text} yields {loaded.num_classes} logits, and {len(loaded.class_names)} class names "
            "are given for them."
        )
    return loaded


def _load(text: str, given: Given) -> Loaded:
    prefix, _, rest = text.partition(":")
    if prefix == "timm" and rest:
        return load_timm(rest, given)
    if prefix == "hf" and rest:
        return load_transformers(rest, given)
    if is_python(text):
        return load_python(text, given)
    path = Path(text).expanduser()
    if path.is_dir():
        return _load_folder(path, given)
    if path.is_file():
        return _load_file(path, given)
    raise ConfigurationError(f"There is no model {text!r}. A model is {KNOWN}.")


def _load_folder(path: Path, given: Given) -> Loaded:
    if (path / DESCRIPTION).is_file():
        raise_if_checkpoint(given)
        return of_guard(
            Guard.load(path), path.name, f"the guard in {path}", _with_size(path, given)
        )
    if (path / "config.json").is_file():
        if "architecture" in load_json(path / "config.json"):
            return load_timm(str(path), given)
        return load_transformers(str(path), given)
    raise CheckpointError(
        f"The folder {str(path)!r} holds neither a guard ({DESCRIPTION}) nor a model of "
        f"transformers or timm (config.json). A model is {KNOWN}."
    )


def _with_size(path: Path, given: Given) -> Given:
    """What the user says, and the size that the guard's architecture was built for."""
    if given.size is not None:
        return given
    told = load_json(path / DESCRIPTION).get("classifier", {}).get("architecture") or {}
    size = told.get("arguments", {}).get("size")
    return replace(given, size=size if isinstance(size, int) else None)


def _load_file(path: Path, given: Given) -> Loaded:
    kind = kind_of(path)
    if kind == "onnx":
        return load_onnx(path, given)
    if kind in ("torchscript", "exported"):
        return load_program(path, given)
    if kind == "pickle":
        raise refuse_pickle(path)
    if kind == "safetensors":
        raise CheckpointError(
            f"{str(path)!r} holds weights and no network: name the network as well, such as "
            f"timm:resnet18 --checkpoint {path.name}, or path/to/file.py:build_model."
        )
    hint = f" For a Python file name its function: {path}:build_model." * (path.suffix == ".py")
    raise ConfigurationError(f"{str(path)!r} is no model that is known.{hint} A model is {KNOWN}.")
