"""Exported guards in use, as a runtime sees them."""

from __future__ import annotations

import importlib
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from notsure.core.checks import check_images
from notsure.core.errors import CheckpointError, ConfigurationError, InputError
from notsure.export.description import KEY, Description

INPUT = "image"
OUTPUTS = ("label", "accepted", "scores")


@dataclass(frozen=True, eq=False)
class Answer:
    """What an exported guard says of a batch.

    Attributes:
        label: int64 (B,), NOT_SURE (-1) where the image is rejected.
        accepted: bool (B,).
        scores: per detector (B,), higher = more adversarial.
    """

    label: torch.Tensor
    accepted: torch.Tensor
    scores: Mapping[str, torch.Tensor]


class ExportedGuard(ABC):
    """A guard that was exported, and what is known of it."""

    description: Description

    @abstractmethod
    def _run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The graph's three outputs for a batch."""

    def judge(self, x: torch.Tensor, *, batch_size: int = 256) -> Answer:
        """Answers, or declines to.

        Args:
            x: images (B, C, H, W) in [0,1], of the shape that the guard was exported for.
            batch_size: how many images are looked at at a time.

        Raises:
            InputError: the images are not what they have to be.
        """
        check_images(x, channels=self.description.shape[0])
        if tuple(x.shape[1:]) != self.description.shape:
            raise InputError(
                f"This guard was exported for images of shape {self.description.shape}; these have "
                f"{tuple(x.shape[1:])}: resize them, or export it for theirs."
            )
        dtype = getattr(torch, self.description.precision)
        parts = [self._run(part.to(dtype).contiguous()) for part in torch.split(x, batch_size)]
        label, accepted, scores = (torch.cat(column) for column in zip(*parts, strict=True))
        columns = zip(self.description.detectors, scores.unbind(dim=1), strict=True)
        return Answer(label, accepted, dict(columns))


class OnnxGuard(ExportedGuard):
    """An ONNX file that `to_onnx` wrote, in onnxruntime on the CPU.

    Args:
        path: the file.
        threads: of onnxruntime; by default as many as torch uses.

    Raises:
        ConfigurationError: onnxruntime is not installed.
        CheckpointError: the file is missing, damaged, or no guard that notsure exported.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        runtime = onnxruntime()
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"There is no file {str(path)!r}: `notsure export` writes one.")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session: Any = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CheckpointError(
                f"{str(path)!r} is damaged or no ONNX file ({type(error).__name__}: {error})."
            ) from error
        noted = self._session.get_modelmeta().custom_metadata_map
        self.description = Description.from_json(noted.get(KEY), repr(str(path)))

    def _run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        label, accepted, scores = self._session.run(list(OUTPUTS), {INPUT: x.numpy()})
        return torch.from_numpy(label), torch.from_numpy(accepted), torch.from_numpy(scores)


class ProgramGuard(ExportedGuard):
    """A program of torch.export that `to_program` wrote.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is missing, damaged, or no guard that notsure exported.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"There is no file {str(path)!r}: `notsure export` writes one.")
        notes = {f"{KEY}.json": ""}
        try:
            program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=notes)
        except Exception as error:
            raise CheckpointError(
                f"{str(path)!r} is damaged or no program of torch.export "
                f"({type(error).__name__}: {error})."
            ) from error
        text = notes[f"{KEY}.json"]
        self.description = Description.from_json(text or None, repr(str(path)))
        self._module = program.module()

    def _run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            label, accepted, scores = self._module(x)
        return label, accepted, scores


def onnxruntime() -> ModuleType:
    """The package, or an error that says how to get it.

    Raises:
        ConfigurationError: it is not installed.
    """
    return needed("onnxruntime", "An exported guard is run by")


def needed(package: str, purpose: str) -> ModuleType:
    """A package of the extra `export`.

    Args:
        package: its name.
        purpose: the beginning of the message that says what it is for.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigurationError(
            f"{purpose} the package {package}, which is not there ({error}): "
            'pip install "notsure[export]"'
        ) from error
