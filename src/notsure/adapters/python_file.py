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

import numpy as np
import torch
from torch import nn

from notsure.adapters.answers import Answering, probe
from notsure.adapters.loaded import Given, Loaded, Numbers, per_channel
from notsure.adapters.resizing import squeezed
from notsure.adapters.weights import fill, state_of
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError, NotSureError, UnsupportedError
from notsure.guard import Guard

_NAME = "notsure_user_model"

_imported: dict[str, ModuleType] = {}
"""What files that were run have imported from beside them."""


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
    given = _completed(given, module, path)
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
    precision = in_float32(module)
    probed = probe(
        module, _channels_of(module, given), given.height_and_width, called=f"The model {name}"
    )
    size = probed.size
    notes = [precision] if precision else []
    if probed.probabilities:
        notes.append(
            "It yields probabilities, whose logarithms are taken as logits; where one is rounded "
            "to 0 or 1 it has no gradient."
        )
    if not probed.plain or probed.probabilities or probed.pairs:
        module = Answering(module, probabilities=probed.probabilities, pairs=probed.pairs)
    mean = per_channel(given.mean, probed.channels, 0.0)
    std = per_channel(given.std, probed.channels, 1.0)
    if probed.taken:
        notes.append(probed.taken)
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
    precision = in_float32(classifier)
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
        notes=(precision,) if precision else (),
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
    notes = (*found.notes, *([f"{hard}."] if hard else []))
    return replace(found, target=guard, notes=notes)


def in_float32(module: nn.Module) -> str:
    """Brings a module to float32, in which images are examined.

    Returns:
        What is to be said of it; nothing where it was float32 already.
    """
    values = [*module.parameters(), *module.buffers()]
    others = {one.dtype for one in values if one.is_floating_point()} - {torch.float32}
    if not others:
        return ""
    module.float()
    kept = ", ".join(sorted(str(one).removeprefix("torch.") for one in others))
    return f"Its weights are kept as {kept}; it is computed in float32 here."


def _run(path: Path, function: str) -> tuple[ModuleType, Any]:
    spec = importlib.util.spec_from_file_location(_NAME, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{str(path)!r} cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    # a dataclass, for one, looks its module up there
    sys.modules[_NAME] = module
    with _neighbours(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
            return module, _function_of(module, function, path)()
        except NotSureError:
            raise
        except SystemExit as error:
            raise ConfigurationError(
                f"Running {str(path)!r} ended the program (exit code {error.code!r}): put what it "
                "does as a script under `if __name__ == '__main__':`."
            ) from error
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
    """Inside, modules beside the file can be imported, and not those beside an earlier file."""
    for name, module in list(_imported.items()):
        if not _lies_in(name, module, folder):
            del _imported[name]
            if sys.modules.get(name) is module:
                del sys.modules[name]
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            if _lies_in(name, sys.modules[name], folder):
                _imported[name] = sys.modules[name]


def _lies_in(name: str, module: ModuleType, folder: Path) -> bool:
    """Whether a module was found in the folder itself, and not somewhere below it."""
    file = getattr(module, "__file__", None)
    top = name.partition(".")[0]
    if file is None or not Path(file).is_relative_to(folder):
        return False
    return Path(file).relative_to(folder).parts[0] in (top, f"{top}.py")


def _completed(given: Given, module: ModuleType, path: Path) -> Given:
    """What the user says, and what the file says where the user does not."""
    size, names = _told(module, "size"), _told(module, "class_names")
    if size is not None and not (
        isinstance(size, int) or (isinstance(size, tuple) and len(size) == 2)
    ):
        raise ConfigurationError(
            f"size in {str(path)!r} is {size!r}: height and width in pixels, or one number."
        )
    if names is not None and not isinstance(names, tuple):
        raise ConfigurationError(
            f"class_names in {str(path)!r} is of type {type(names).__name__}: a list of names, in "
            "the order of the logits."
        )
    mean, std = _statistic(module, "mean", path), _statistic(module, "std", path)
    return replace(
        given,
        size=given.size if given.size is not None else size,
        mean=given.mean if given.mean is not None else mean,
        std=given.std if given.std is not None else std,
        class_names=given.class_names or tuple(str(name) for name in names or ()),
    )


def _statistic(module: ModuleType, name: str, path: Path) -> Numbers | None:
    value = _told(module, name)
    if value is None:
        return None
    try:
        return tuple(map(float, value)) if isinstance(value, tuple) else float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{name} in {str(path)!r} is {value!r}: one number in [0,1] units, or one per channel."
        ) from None


def _told(module: ModuleType, name: str) -> Any:
    """What a file defines under a name; lists, arrays and tensors as tuples of numbers."""
    value = getattr(module, name, None)
    if callable(value) or isinstance(value, ModuleType):
        # as `from torch import mean` leaves it
        return None
    if isinstance(value, torch.Tensor | np.ndarray):
        # also of the shape (C, 1, 1), as a module keeps it
        value = value.flatten().tolist()
    return tuple(value) if isinstance(value, list) else value


def _channels_of(module: nn.Module, given: Given) -> int | None:
    """How many channels the first convolution or the mean tells of."""
    if given.channels is not None:
        return given.channels
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is not None:
        return first.in_channels
    told = given.mean if given.mean is not None else given.std
    return None if told is None or isinstance(told, int | float) else len(told)
