"""Files that are whole or not there: atomic writes, safetensors and JSON, never pickle."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notsure.core.errors import CheckpointError, ConfigurationError

if TYPE_CHECKING:
    import torch

_NOTE = "notsure"


def writable_folder(folder: str | Path) -> Path:
    """Makes the folder if need be and checks that files can be written there.

    Raises:
        ConfigurationError: it is a file, or cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"Cannot write to the output folder {str(folder)!r} ({error.strerror or error}): "
            "give another one, or the right to write there."
        ) from error
    return folder


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place only if the block succeeds."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: there is no such file, or it is not a JSON object.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no {path.name} in {str(path.parent)!r}.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged, not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(path)!r} is not one of ours: it holds no JSON object.")
    return content


def save_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], *, note: Mapping[str, Any] | None = None
) -> None:
    """Writes named tensors, and a JSON note beside them, atomically into one safetensors file."""
    from safetensors.torch import save_file

    # safetensors refuses views that share memory; a copy is cheap beside a file
    copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(
            {name: copy.contiguous() for name, copy in copies.items()},
            temporary,
            metadata={_NOTE: json.dumps(note or {})},
        )


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads named tensors and their note from a safetensors file.

    Raises:
        CheckpointError: there is no such file, or it is damaged, or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no {path.name} in {str(path.parent)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            note = json.loads((file.metadata() or {}).get(_NOTE, "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{str(path)!r} is damaged or not a safetensors file ({error}). Pickled checkpoints "
            "are not read: convert them once with safetensors.torch.save_file."
        ) from error
    return tensors, note
