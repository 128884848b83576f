"""A model that a Python file of the user's builds."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from notsure.adapters.answers import Answering, probe
from notsure.adapters.loaded import Given, Loaded, per_channel
from notsure.adapters.resizing import squeezed
from notsure.adapters.weights import fill, state_of
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError, NotSureError, UnsupportedError
from notsure.guard import Guard

_NAME = "notsure_user_model"


def is_python(spec: str) -> bool:
    """Whether a spec reads path/to/file.py:function."""
    return ".py:" in spec


def load_python(spec: str, given: Given) -> Loaded:
    """The model that a function of a Python file returns; this runs the file.

    The function takes no arguments and returns a `torch.nn.Module`, a Classifier or a Guard. The
    file may also define `mean`, `std`, `size` and `class_names`, and a folder of its own neighbours
    can be imported from it.

    Args:
        spec: "path/to/file.py:build_model".
        given: what the user says; a checkpoint has to be safetensors, or weights of torch.save.

    Raises:
        ConfigurationError: there is no such file or function, or running it failed.
        UnsupportedError: it returns no model.
    """
    path_text, _, function = spec.rpartition(":")
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise ConfigurationError(f"There is no file {str(path)!r} that could build a model.")
    module, built = _run(path, function)
    given = _completed(given, module)
    origin = f"{function}() of {path}, which was run to build it"
    if isinstance(built, Guard):
        raise_if_checkpoint(given)
        return of_guard(built, path.stem, origin, given)
    if not isinstance(built, nn.Module):
        raise UnsupportedError(
            f"{function}() in {str(path)!r} returned {type(built).__name__}, not a torch.nn.Module "
            "from images to logits."
        )
    if given.checkpoint:
        inner = built.module if isinstance(built, Classifier) else built
        fill(inner, state_of(given.checkpoint, what=str(path)), source=given.checkpoint)
        origin += f", weights of {given.checkpoint}"
    if isinstance(built, Classifier):
        return of_classifier(built, path.stem, origin, given)
    return of_module(built, path.stem, origin, given)


def raise_if_checkpoint(given: Given) -> None:
    """Refuses a checkpoint beside a model that brings its weights.

    Raises:
        ConfigurationError: there is one.
    """
    if given.checkpoint:
        raise ConfigurationError("This model brings its weights: leave the checkpoint out.")


def of_module(module: nn.Module, name: str, origin: str, given: Given) -> Loaded:
    """A module of unknown kind: what it takes and yields is found out by asking it.

    Raises:
        UnsupportedError: it answers no images, or not with logits.
        ConfigurationError: mean or std do not fit its channels.
    """
    probed = probe(
        module, _channels_of(module, given), given.height_and_width, called=f"The model {name}"
    )
    size = probed.size
    notes = []
    if probed.probabilities:
        notes.append(
            "It yields probabilities, whose logarithms are taken as logits; where one is rounded "
            "to 0 or 1 it has no gradient."
        )
    if not probed.plain or probed.probabilities:
        module = Answering(module, probabilities=probed.probabilities)
    mean = per_channel(given.mean, probed.channels, 0.0)
    std = per_channel(given.std, probed.channels, 1.0)
    if given.mean is None and given.std is None:
        notes.append(
            "Nothing says how it wants its images, so it gets them in [0,1] as they are; --mean "
            "and --std say otherwise."
        )
    if probed.no_gradients:
        # what a Classifier and the attacks read
        module.differentiable = False  # type: ignore[assignment]
    classifier = Classifier(module, mean=mean, std=std)
    classifier.eval()
    return Loaded(
        target=classifier,
        name=name,
        origin=origin,
        num_classes=probed.num_classes,
        channels=probed.channels,
        size=size,
        resizing=squeezed(size, "bilinear"),
        mean=mean,
        std=std,
        class_names=given.class_names,
        no_gradients=probed.no_gradients,
        notes=tuple(notes),
    )


def of_classifier(classifier: Classifier, name: str, origin: str, given: Given) -> Loaded:
    """A Classifier, which knows its own preprocessing.

    Raises:
        ConfigurationError: the user gives another mean or std.
        UnsupportedError: it answers no images.
    """
    if given.mean is not None or given.std is not None:
        raise ConfigurationError(
            "The model is a notsure.Classifier, whose mean and std are its own: leave mean and "
            "std out."
        )
    probed = probe(
        classifier, classifier.channels, given.height_and_width, called=f"The model {name}"
    )
    size = probed.size
    classifier.eval()
    return Loaded(
        target=classifier,
        name=name,
        origin=origin,
        num_classes=probed.num_classes,
        channels=probed.channels,
        size=size,
        resizing=squeezed(size, "bilinear"),
        mean=per_channel(classifier.mean.flatten().tolist(), probed.channels, 0.0),
        std=per_channel(classifier.std.flatten().tolist(), probed.channels, 1.0),
        class_names=given.class_names,
        no_gradients=probed.no_gradients,
    )


def of_guard(guard: Guard, name: str, origin: str, given: Given) -> Loaded:
    """A Guard: what is known of its classifier, and the guard as the target.

    Raises:
        ConfigurationError: the user gives another mean or std.
        UnsupportedError: its classifier answers no images.
    """
    found = of_classifier(guard.classifier, name, origin, given)
    hard = (
        ""
        if guard.differentiable
        else "A part of the guard is not differentiable; attacks go through it by BPDA"
    )
    guard.eval()
    return replace(found, target=guard, notes=(f"{hard}.",) if hard else ())


def _run(path: Path, function: str) -> tuple[ModuleType, Any]:
    spec = importlib.util.spec_from_file_location(_NAME, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{str(path)!r} cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    with _neighbours(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
            return module, _function_of(module, function, path)()
        except NotSureError:
            raise
        except Exception as error:  # the user's code may raise anything
            line = error.__traceback__
            while line is not None and line.tb_next is not None:
                line = line.tb_next
            where = "" if line is None else f", line {line.tb_lineno} of {_file_of(line)}"
            raise ConfigurationError(
                f"Running {str(path)!r} failed: {type(error).__name__}: {error}{where}."
            ) from error


def _function_of(module: ModuleType, function: str, path: Path) -> Callable[[], Any]:
    build = getattr(module, function, None)
    if not callable(build):
        raise ConfigurationError(
            f"{str(path)!r} defines no function {function!r}: name the one that builds the model, "
            "path/to/file.py:FUNCTION."
        )
    found: Callable[[], Any] = build
    return found


def _file_of(line: Any) -> str:
    return Path(line.tb_frame.f_code.co_filename).name


@contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Inside, modules beside the file can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _completed(given: Given, module: ModuleType) -> Given:
    """What the user says, and what the file says where the user does not."""
    size: Any = getattr(module, "size", None)
    if isinstance(size, list | tuple):
        size = tuple(size)
    names = getattr(module, "class_names", ())
    return replace(
        given,
        size=given.size if given.size is not None else size,
        mean=given.mean if given.mean is not None else getattr(module, "mean", None),
        std=given.std if given.std is not None else getattr(module, "std", None),
        class_names=given.class_names or tuple(str(name) for name in names),
    )


def _channels_of(module: nn.Module, given: Given) -> int | None:
    """How many channels the first convolution or the mean tells of."""
    if given.channels is not None:
        return given.channels
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is not None:
        return first.in_channels
    told = given.mean if given.mean is not None else given.std
    return None if told is None or isinstance(told, int | float) else len(told)
