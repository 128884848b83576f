"""Models and guards as they are named on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from notsure import models
from notsure.adapters import Loaded, load_model
from notsure.classifier import Classifier
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.part import under
from notsure.core.storage import load_json, load_tensors, save_json
from notsure.guard import Guard

MODEL = "model.json"
"""What is known of a network that a guard's folder does not hold."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a model was asked for.

    Attributes:
        spec: see `notsure.adapters.load_model`; or a checkpoint that notsure's training wrote.
        checkpoint: a file of weights for it.
        size: height and width in pixels, where the model's own is wrong or unknown.
        mean: in [0,1] units, in place of the model's own.
        std: in [0,1] units, in place of the model's own.
    """

    spec: str
    checkpoint: str | None = None
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def load(self) -> Loaded:
        """The model.

        Raises:
            NotSureError: see `notsure.adapters.load_model`.
        """
        path = Path(self.spec).expanduser()
        if path.suffix == ".safetensors" and path.is_file():
            _, note = load_tensors(path)
            if note.get("kind") == "training":
                self._refuse_settings()
                return of_training(path)
        return load_model(
            self.spec,
            checkpoint=self.checkpoint,
            size=self.size,
            mean=self.mean,
            std=self.std,
        )

    def _refuse_settings(self) -> None:
        given = [name for name, value in asdict(self).items() if value and name != "spec"]
        if given:
            raise ConfigurationError(
                f"A checkpoint of notsure's training brings its network and preprocessing: leave "
                f"{' and '.join(given)} out."
            )

    def save(self, folder: Path) -> None:
        """Writes down what `load_guard` has to load."""
        save_json(folder / MODEL, asdict(self))


def of_training(path: Path) -> Loaded:
    """The network of a checkpoint that `notsure.training.train` wrote (or `notsure demo`).

    Raises:
        CheckpointError: its architecture is not one of ours, or it is damaged.
    """
    tensors, note = load_tensors(path)
    try:
        told = note["identity"]
        architecture = json.loads(told["network"])
        preprocessing = json.loads(told["preprocessing"])
        module = models.build(architecture["name"], **architecture["arguments"])
        module.load_state_dict(under("module.", tensors))
        classifier = Classifier(module, **_statistics(preprocessing))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"The network of {str(path)!r} cannot be built again ({type(error).__name__}: "
            f"{error}): it is not one of notsure's, or was trained by another version. "
            "Build it in a file of your own, path/to/file.py:build_model."
        ) from error
    classifier.eval()
    arguments = architecture["arguments"]
    size, channels = arguments.get("size"), arguments.get("in_channels")
    count = channels or classifier.channels or 1
    return Loaded(
        target=classifier,
        name=path.stem,
        origin=f"{architecture['name']}, the checkpoint {path.name} of notsure's training",
        num_classes=int(arguments.get("num_classes", 10)),
        channels=count,
        size=None if size is None else (size, size),
        resizing=None,
        mean=tuple(classifier.mean.flatten().expand(count).tolist()),
        std=tuple(classifier.std.flatten().expand(count).tolist()),
        class_names=(),
    )


def _statistics(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a Classifier as its constructor takes them."""
    single = {
        name: value[0] if isinstance(value, Sequence) and len(value) == 1 else value
        for name, value in settings.items()
        if name in ("mean", "std")
    }
    return {**settings, **single}


def load_guard(folder: str | Path) -> Guard:
    """Reads a guard that `notsure guard fit` wrote, and the network it stands around.

    `Guard.load` does where the network is one of notsure's architectures or timm's; for others the
    folder holds their hash and how they were loaded, and they are loaded in the same way again.

    Args:
        folder: the guard's folder.

    Returns:
        The guard.

    Raises:
        CheckpointError: it is no guard, or the network is not the one that it was made for.
        NotSureError: the network cannot be loaded, see `notsure.adapters.load_model`.
    """
    loaded = network_of(folder)
    return Guard.load(folder, None if loaded is None else loaded.classifier)


def network_of(folder: str | Path) -> Loaded | None:
    """The network of a guard's folder, loaded as it was for `notsure guard fit`.

    None where the folder holds the network itself.

    Raises:
        CheckpointError: the folder's file about it is not one of ours.
        NotSureError: the network cannot be loaded, see `notsure.adapters.load_model`.
    """
    path = Path(folder) / MODEL
    if not path.is_file():
        return None
    told: dict[str, Any] = load_json(path)
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
    }
    try:
        source = Source(**settings)
    except TypeError as error:
        raise CheckpointError(f"{str(path)!r} is not one of ours: {error}") from error
    return source.load()
