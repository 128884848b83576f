"""What judges behind a service: a guard's folder, or a guard that was exported to ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from notsure.choosing import load_guard
from notsure.export.description import Description
from notsure.export.graph import shape_of_guard
from notsure.export.running import OnnxGuard
from notsure.guard import Guard


@dataclass(frozen=True, eq=False)
class Judged:
    """What is said of a batch.

    Attributes:
        label: int64 (B,), NOT_SURE (-1) where the image is rejected.
        accepted: bool (B,).
        scores: (B, D), one column a detector.
        prediction: int64 (B,), the label before any rejection; None where that is not known.
    """

    label: torch.Tensor
    accepted: torch.Tensor
    scores: torch.Tensor
    prediction: torch.Tensor | None


class Backend(Protocol):
    """Whatever judges images."""

    description: Description

    def judge(self, x: torch.Tensor) -> Judged:
        """What it says of checked images (B, C, H, W) in [0,1], float32."""
        ...


class GuardBackend:
    """A guard as it was saved.

    Args:
        guard: fitted and calibrated.
        size: height and width of the images in pixels, where the guard does not tell.

    Raises:
        ConfigurationError: the size is not known.
        NotFittedError: the guard was not fitted or not calibrated.
    """

    def __init__(self, guard: Guard, *, size: int | None = None) -> None:
        self.guard = guard
        parameter = next(guard.classifier.parameters(), None)
        self._dtype = torch.float32 if parameter is None else parameter.dtype
        shape = shape_of_guard(guard, size)
        sample = torch.full((2, *shape), 0.5, dtype=self._dtype, device=guard.classifier.device)
        # what does not work at all is told before anybody asks
        guard.judge(sample)
        with torch.inference_mode():
            classes = guard.classifier.logits(sample).shape[1]
        precision = str(self._dtype).removeprefix("torch.")
        self.description = Description.of(guard, shape, num_classes=classes, precision=precision)

    def judge(self, x: torch.Tensor) -> Judged:
        """What the guard says of images (B, C, H, W) in [0,1]."""
        device = self.guard.classifier.device
        verdict = self.guard.judge(x.to(device, self._dtype), batch_size=max(1, len(x)))
        scores = [verdict.scores[name].cpu() for name in self.description.detectors]
        together = torch.stack(scores, dim=1) if scores else torch.empty(len(x), 0)
        return Judged(
            verdict.label.cpu(), verdict.accepted.cpu(), together, verdict.prediction.cpu()
        )


class OnnxBackend:
    """An exported guard in onnxruntime.

    Args:
        path: the ONNX file.
    """

    def __init__(self, path: str | Path) -> None:
        self._guard = OnnxGuard(path)
        self.description = self._guard.description

    def judge(self, x: torch.Tensor) -> Judged:
        """What the exported guard says of images (B, C, H, W) in [0,1]."""
        answer = self._guard.judge(x, batch_size=max(1, len(x)))
        scores = [answer.scores[name] for name in self.description.detectors]
        together = torch.stack(scores, dim=1) if scores else torch.empty(len(x), 0)
        return Judged(answer.label, answer.accepted, together, None)


def backend_of(path: str | Path, *, size: int | None = None) -> Backend:
    """The backend for a guard's folder or an ONNX file.

    Raises:
        CheckpointError: it is neither, or damaged.
        ConfigurationError: see the backends.
    """
    if Path(path).is_file():
        return OnnxBackend(path)
    return GuardBackend(load_guard(path), size=size)
