"""A whole guard as one module that can be traced."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.part import Part
from notsure.core.target import NOT_SURE
from notsure.export import detecting, neighbouring, purifying  # noqa: F401  (they register forms)
from notsure.export.forms import form_of
from notsure.guard import Guard
from notsure.models import architecture_of, factory_of
from notsure.observation import Observation
from notsure.purifiers.base import Shape


class TracedClassifier(Classifier):
    """A classifier whose features come from one hook that stays, found out beforehand.

    Args:
        classifier: whose module it uses, and whose preprocessing.
        sample: images (B, C, H, W) in [0,1].
        features: whether features will be asked for.
    """

    def __init__(self, classifier: Classifier, sample: torch.Tensor, *, features: bool) -> None:
        told = classifier.settings()
        super().__init__(
            classifier.module,
            mean=_one_or_many(told["mean"]),
            std=_one_or_many(told["std"]),
            reverse_logits=told["reverse_logits"],
            features=told["features"],
        )
        self._kept: list[torch.Tensor] = []
        # the pass that looks for probabilities, which no graph can
        self.check(sample)
        if features:
            if self.features_name is not None:
                named = self.module.get_submodule(self.features_name)
                named.register_forward_hook(self._keep_output)
            else:
                _layer_of_features(classifier, sample).register_forward_hook(self._keep_input)

    def logits_and_features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K) and features (B, D) from one pass over images (B, C, H, W) in [0,1]."""
        self._kept.clear()
        logits = self.logits(x)
        features = self._kept[-1].flatten(1)
        self._kept.clear()
        return logits, features

    def _keep_output(self, part: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        self._kept.append(output)

    def _keep_input(self, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._kept.append(inputs[0])


def _one_or_many(values: list[float]) -> float | list[float]:
    return values if len(values) > 1 else values[0]


def _layer_of_features(classifier: Classifier, sample: torch.Tensor) -> nn.Module:
    """The linear layer that yields the logits: what enters it are the features."""
    given: list[tuple[nn.Module, torch.Tensor]] = []

    def keep(part: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        given.append((part, inputs[0]))

    linear = [part for part in classifier.module.modules() if isinstance(part, nn.Linear)]
    handles = [part.register_forward_hook(keep) for part in linear]
    try:
        _, features = classifier.logits_and_features(sample)
    finally:
        for handle in handles:
            handle.remove()
    for part, entered in reversed(given):
        if entered.numel() == features.numel() and torch.equal(entered.flatten(1), features):
            return part
    raise UnsupportedError(
        f"The layer of {type(classifier.module).__name__} that yields its features cannot be told "
        "apart: name it when the Classifier is made, features='...'."
    )


class GuardGraph(nn.Module):
    """A guard as one module from images to label, accepted and scores.

    It works on a copy: the guard and its classifier are left as they are.

    Args:
        guard: fitted and calibrated.
        sample: images (B, C, H, W) in [0,1], B at least 2, to find things out with.

    Raises:
        UnsupportedError: a part cannot be exported; the message names each with its reason.
        NotFittedError: the guard was not fitted or not calibrated.
    """

    def __init__(self, guard: Guard, sample: torch.Tensor) -> None:
        super().__init__()
        guard = copy.deepcopy(guard).cpu().eval().requires_grad_(False)
        sample = sample.cpu()
        guard.judge(sample)
        told = reasons(guard)
        if told:
            lines = "; ".join(f"{name}: {reason}" for name, reason in told.items())
            raise UnsupportedError(f"This guard cannot be exported. {lines}.")
        dtype = sample.dtype
        needs_features = any(part.needs_features for _, part in guard.named_detectors())
        self.classifier = TracedClassifier(guard.classifier, sample, features=needs_features)
        self.purifier = None if guard.purifier is None else form_of(guard.purifier, dtype)
        self.corrector = None if guard.corrector is None else form_of(guard.corrector, dtype)
        self.names = [name for name, _ in guard.named_detectors()]
        self.detectors = nn.ModuleList(form_of(part, dtype) for _, part in guard.named_detectors())
        self.calibration, self.features = guard.calibration, needs_features
        self.eval().requires_grad_(False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the guard says of images (B, C, H, W) in [0,1].

        Returns:
            `label`, int64 (B,), -1 where rejected; `accepted`, bool (B,); `scores` (B, D), one
            column a detector.
        """
        observation = Observation(
            image, self.classifier, purifier=self.purifier, features=self.features
        )
        columns = [detector(observation) for detector in self.detectors]
        logits = observation.logits
        accepted = torch.ones_like(logits[:, 0], dtype=torch.bool)
        if self.calibration is None or not columns:
            return logits.argmax(dim=1), accepted, logits[:, :0]
        flagged = self.calibration.rejection(dict(zip(self.names, columns, strict=True)))
        scores = torch.stack(columns, dim=1)
        if self.corrector is not None:
            corrected = self.corrector(observation)
            answered = torch.where(flagged[:, None] > 0, corrected, logits)
            return answered.argmax(dim=1), accepted, scores
        accepted = flagged <= 0
        return torch.where(accepted, logits.argmax(dim=1), NOT_SURE), accepted, scores


def reasons(guard: Guard) -> dict[str, str]:
    """Why parts of a guard cannot be exported, by part; nothing where all of them can be.

    Args:
        guard: any guard; it is left as it is.
    """
    told = {}
    drawing = [
        type(part).__name__
        for part in guard.classifier.module.modules()
        if getattr(part, "stochastic", False) is True
    ]
    if drawing:
        told["classifier"] = (
            f"{', '.join(sorted(set(drawing)))} draws random numbers for every image, keyed by a "
            "hash of its content, and a graph cannot compute that hash"
        )
    parts: dict[str, Part] = {
        f"detector {name!r}": detector for name, detector in guard.named_detectors()
    }
    if guard.purifier is not None:
        parts["purifier"] = guard.purifier
    if guard.corrector is not None:
        parts["corrector"] = guard.corrector
    for name, part in parts.items():
        reason = _reason(part)
        if reason is not None:
            told[name] = reason
    return told


def _reason(part: Part) -> str | None:
    try:
        form_of(part, torch.float32)
    except UnsupportedError as error:
        return str(error)
    return None


def _arguments(module: nn.Module) -> dict[str, Any]:
    """What an architecture of ours was built with, its defaults included; nothing of others."""
    architecture = architecture_of(module)
    if architecture is None:
        return {}
    name, arguments = architecture.name, architecture.arguments
    while isinstance(arguments.get("of"), Mapping):
        # a wrapper knows what it is put around
        name, arguments = arguments["of"]["name"], arguments["of"]["arguments"]
    settings = inspect.signature(factory_of(name)).parameters.values()
    return {one.name: one.default for one in settings} | arguments


def shape_of_guard(guard: Guard, size: int | tuple[int, int] | None) -> Shape:
    """Channels, height and width of the images that a guard is about, as far as it says.

    Args:
        guard: asked are its purifier, its detectors and its architecture, in this order.
        size: height and width in pixels, or one number for both; what the caller knows.

    Raises:
        ConfigurationError: nobody knows.
    """
    if size is None:
        for part in guard.modules():
            shape = getattr(part, "shape", None)
            if isinstance(part, Part) and isinstance(shape, tuple) and len(shape) == 3:
                return shape[0], shape[1], shape[2]
            patterns = getattr(part, "patterns", None)
            if isinstance(patterns, torch.Tensor) and patterns.ndim == 4:
                return patterns.shape[1], patterns.shape[2], patterns.shape[3]
    arguments = _arguments(guard.classifier.module)
    channels = guard.classifier.channels or arguments.get("in_channels")
    size = arguments.get("size") if size is None else size
    if not isinstance(channels, int) or not isinstance(size, (int, tuple)):
        raise ConfigurationError(
            "The size of the images is not known from the guard: give it, size=(height, width), "
            "or images of it."
        )
    rows, columns = (size, size) if isinstance(size, int) else size
    return channels, int(rows), int(columns)
