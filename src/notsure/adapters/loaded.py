"""A model from outside, and what is known of how it wants its images."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType

from notsure.adapters.resizing import Resizing
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.guard import Guard

Numbers = float | Sequence[float]
"""A mean or standard deviation in [0,1] units: one number for all channels, or one each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A model that can be examined, with what its own files say of it.

    Attributes:
        target: images (B, C, H, W) in [0,1] to logits (B, K), mean and std inside: a Classifier,
            or a Guard where the model is the folder of one. Where no gradient reaches its images
            its `differentiable` is False, so that only attacks by scores and decisions apply.
        name: a short name for reports, such as "resnet18".
        origin: where the model and its weights came from, in one sentence.
        num_classes: K.
        channels: of the images.
        size: height and width of the images in pixels; None where the model takes any.
        resizing: how images of other sizes are brought to that size; None where it takes any.
        mean: one number per channel, in [0,1] units; None for a Guard's own.
        std: one number per channel, in [0,1] units; None for a Guard's own.
        class_names: the K names in the order of the logits; empty where the model has none.
        no_gradients: why no gradients reach the images; empty where they do.
        notes: what else a reader of the figures has to know, in sentences.
    """

    target: Classifier | Guard
    name: str
    origin: str
    num_classes: int
    channels: int
    size: tuple[int, int] | None
    resizing: Resizing | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    no_gradients: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def classifier(self) -> Classifier:
        """The target, or what stands at the heart of the Guard."""
        return self.target.classifier if isinstance(self.target, Guard) else self.target

    @property
    def guard(self) -> Guard:
        """The target as a Guard: itself, or a bare one around the Classifier."""
        return self.target if isinstance(self.target, Guard) else Guard(self.target)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user says of a model; it goes before what the model's own files say.

    Attributes:
        checkpoint: a file of weights.
        size: height and width, or one number for both, in pixels.
        mean: in [0,1] units.
        std: in [0,1] units.
        class_names: in the order of the logits.
        channels: of the images, where the model's own file tells.
    """

    checkpoint: str | None = None
    size: int | tuple[int, int] | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    class_names: tuple[str, ...] = ()
    channels: int | None = None

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """The size as two numbers."""
        if self.size is None or isinstance(self.size, tuple):
            return self.size
        return self.size, self.size


def extra(module: str, *, name: str, what: str) -> ModuleType:
    """A package of one of notsure's extras, imported where it is used.

    Args:
        module: what is imported.
        name: of the extra.
        what: what needs it, such as "A model of transformers".

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{what} needs the package {module.partition('.')[0]}, which is not there ({error}): "
            f"pip install 'notsure[{name}]'"
        ) from error


def per_channel(value: Numbers | None, channels: int, default: float) -> tuple[float, ...]:
    """A mean or standard deviation as one number per channel.

    Raises:
        ConfigurationError: there is another number of them.
    """
    if value is None:
        return (default,) * channels
    numbers = (float(value),) if isinstance(value, int | float) else tuple(map(float, value))
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels:
        raise ConfigurationError(
            f"The model takes {channels} channels, and mean or std has {len(numbers)} numbers: "
            "give one for all, or one for each."
        )
    return numbers
