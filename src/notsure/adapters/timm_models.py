"""Models of timm: by name from the hub, from a local folder, or with a checkpoint of your own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch

from notsure import models
from notsure.adapters.loaded import Given, Loaded, Numbers, extra, per_channel
from notsure.adapters.resizing import Interpolation, Resizing
from notsure.adapters.weights import SAFE, fill, state_of
from notsure.classifier import Classifier
from notsure.core.errors import CheckpointError, ConfigurationError
from notsure.core.storage import load_json
from notsure.models import TimmNetwork

_WEIGHTS = "model.safetensors"
_COMMON = {"num_classes", "in_chans", "img_size", "global_pool"}
"""Arguments of timm's models that a network here is built with as well, or compared by."""

_UNKNOWN_HEAD = (
    "timm does not tell which layer of {name} is the last one, so the number of classes of the "
    "checkpoint is not known: give the folder that timm.models.save_for_hf writes, whose "
    "config.json tells."
)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What was found under a name: a network of timm, its configuration and its weights."""

    architecture: str
    config: Mapping[str, Any]
    state: Mapping[str, torch.Tensor]
    num_classes: int
    channels: int
    class_names: tuple[str, ...]
    origin: str
    pooling: str | None = None


def load_timm(name: str, given: Given) -> Loaded:
    """A model of timm.

    Args:
        name: a model's name, whose weights come from the hub or from `given.checkpoint`; or a local
            folder as `timm.models.save_for_hf(..., safe_serialization=True)` writes it.
        given: what the user says.

    Raises:
        CheckpointError: the weights cannot be read, or do not fit.
        ConfigurationError: timm is not installed or has no such model, or the hub cannot be
            reached.
    """
    timm = extra("timm", name="zoo", what=f"The model timm:{name}")
    if Path(name).is_dir():
        source = _of_folder(timm, Path(name), given)
    else:
        source = _of_checkpoint(timm, name, given) if given.checkpoint else _of_hub(timm, name)
    resizing = _resizing(source.config, given)
    height, width = resizing.size
    if height != width:
        raise ConfigurationError(
            f"timm:{name} is wanted for images of {height} x {width}; it is built for square ones: "
            "give one number as the size."
        )
    # an architecture of ours, so that a guard around it can be saved and built again
    module = models.build(
        f"timm:{source.architecture}",
        num_classes=source.num_classes,
        in_channels=source.channels,
        size=height,
        resize=height,
    )
    network = cast("TimmNetwork", module).network
    fill(network, source.state, source=source.origin)
    if source.pooling not in (None, _pooling(network)):
        raise CheckpointError(
            f"The model in {name} pools its features by {source.pooling!r}, and timm builds it "
            f"with {_pooling(network)!r}: build it in a file of yours and give that, "
            "path/to/file.py:build_model."
        )
    mean = _statistic(given.mean, source, "mean", 0.0)
    std = _statistic(given.std, source, "std", 1.0)
    # as a guard's folder is read, so that the same weights give the same numbers to the bit
    module.to(memory_format=torch.channels_last)
    classifier = Classifier(module, mean=mean, std=std)
    classifier.eval()
    return Loaded(
        target=classifier,
        name=source.architecture,
        origin=source.origin,
        num_classes=source.num_classes,
        channels=source.channels,
        size=resizing.size,
        resizing=resizing,
        mean=mean,
        std=std,
        class_names=given.class_names or source.class_names,
    )


def _of_hub(timm: Any, name: str) -> _Source:
    models.factory_of(f"timm:{name}")
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client raises many kinds
        first = (str(error).strip().splitlines() or [""])[0]
        raise ConfigurationError(
            f"The weights of timm:{name} could not be had from the hub "
            f"({type(error).__name__}: {first[:200]}). Connect to it; or give a checkpoint "
            "(--checkpoint model.safetensors); or give a local folder in its place, "
            "timm:path/to/folder with its config.json and model.safetensors."
        ) from None
    config = dict(network.pretrained_cfg)
    return _Source(
        architecture=name,
        config=config,
        state=network.state_dict(),
        num_classes=int(network.num_classes),
        channels=int(config.get("input_size", (3,))[0]),
        class_names=_names(timm, config, int(network.num_classes)),
        origin=f"timm:{name}, weights of the hub ({config.get('hf_hub_id') or config.get('url')})",
    )


def _of_checkpoint(timm: Any, name: str, given: Given) -> _Source:
    models.factory_of(f"timm:{name}")
    checkpoint = str(given.checkpoint)
    config = dict(timm.get_pretrained_cfg(name).to_dict())
    state = state_of(checkpoint, what=f"timm:{name}")
    num_classes, channels = _head_and_stem(timm, name, config, state)
    known = num_classes == config.get("num_classes")
    return _Source(
        architecture=name,
        config=config,
        state=state,
        num_classes=num_classes,
        channels=channels,
        class_names=_names(timm, config, num_classes) if known else (),
        origin=f"timm:{name}, weights of {checkpoint}",
    )


def _of_folder(timm: Any, folder: Path, given: Given) -> _Source:
    content = load_json(folder / "config.json")
    architecture = content.get("architecture")
    if not isinstance(architecture, str):
        raise CheckpointError(
            f"The config.json in {str(folder)!r} names no architecture of timm: a folder of "
            "transformers is given as hf:FOLDER."
        )
    arguments = content.get("model_args") or {}
    own = sorted(set(arguments) - _COMMON)
    if _of_another_size(timm, architecture, arguments.get("img_size")):
        own.append("img_size")
    if own:
        raise CheckpointError(
            f"The model in {str(folder)!r} is built with arguments of its own ({', '.join(own)}): "
            "build it in a file of yours and give that, path/to/file.py:build_model."
        )
    path = Path(given.checkpoint) if given.checkpoint else folder / _WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"There is no {_WEIGHTS} in {str(folder)!r}; pickled weights are not looked for. {SAFE}"
        )
    config = dict(content.get("pretrained_cfg", {}))
    num_classes = int(content.get("num_classes") or config.get("num_classes") or 0)
    names = content.get("label_names") or config.get("label_names") or ()
    described = content.get("label_descriptions") or config.get("label_descriptions") or {}
    return _Source(
        architecture=architecture,
        config=config,
        state=state_of(path, what=architecture),
        num_classes=num_classes,
        channels=int(config.get("input_size", (3,))[0]),
        class_names=tuple(_described(str(name), described) for name in names),
        origin=f"{architecture} of timm in the folder {folder}",
        pooling=(content.get("model_args") or {}).get("global_pool"),
    )


def _of_another_size(timm: Any, architecture: str, size: Any) -> bool:
    """Whether a network was built for images of another size than timm builds it for.

    What a transformer of images learns of places depends on their number.
    """
    if size is None or not timm.is_model(architecture):
        return False
    made_for = tuple(timm.get_pretrained_cfg(architecture).input_size)[1:]
    return (tuple(size) if isinstance(size, list) else (size, size)) != made_for


def _pooling(network: Any) -> str | None:
    """How a network of timm pools its features, by timm's name of it."""
    own = getattr(network, "global_pool", None)
    return own if isinstance(own, str) else getattr(own, "pool_type", None)


def _described(name: str, described: Mapping[str, str]) -> str:
    return f"{name}, {described[name]}" if name in described else name


def _head_and_stem(
    timm: Any, name: str, config: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[int, int]:
    """How many classes and channels a checkpoint was trained for, by its last and first layer."""
    default = timm.create_model(name, pretrained=False).state_dict()
    channels = int(config.get("input_size", (3,))[0])
    stem = _layer(config, "first_conv")
    if stem in default and stem in state and state[stem].ndim == default[stem].ndim:
        # of a patch embedding or a convolution: channels are the second axis
        channels = channels * state[stem].shape[1] // default[stem].shape[1]
    head = _layer(config, "classifier")
    if head not in state:
        if set(state) == set(default):
            raise CheckpointError(_UNKNOWN_HEAD.format(name=name))
        # a foreign checkpoint: what does not fit is told when it is put in
        return int(config.get("num_classes", 1000)), channels
    return len(state[head]), channels


def _layer(config: Mapping[str, Any], key: str) -> str:
    named = config.get(key)
    first = named[0] if isinstance(named, list | tuple) and named else named
    return f"{first}.weight"


def _resizing(config: Mapping[str, Any], given: Given) -> Resizing:
    interpolation = str(config.get("interpolation", "bicubic"))
    if interpolation not in get_args(Interpolation):
        interpolation = "bicubic"
    how = cast("Interpolation", interpolation)
    own = given.height_and_width
    made_for = config.get("input_size", (3, 224, 224))
    height, width = own or (int(made_for[1]), int(made_for[2]))
    share = float(config.get("crop_pct") or 1.0)
    if own is not None:
        return Resizing(height=height, width=width, interpolation=how)
    if config.get("crop_mode") == "squash":
        first = (max(int(height / share), height), max(int(width / share), width))
        return Resizing(
            height=height,
            width=width,
            before_crop=None if first == (height, width) else first,
            interpolation=how,
        )
    shortest = max(int(max(height, width) / share), height, width)
    return Resizing(height=height, width=width, shortest_edge=shortest, interpolation=how)


def _statistic(
    given: Numbers | None, source: _Source, key: str, default: float
) -> tuple[float, ...]:
    """What the user says, or the configuration; its average where the channels are others."""
    if given is not None:
        return per_channel(given, source.channels, default)
    told = [float(one) for one in source.config.get(key) or [default]]
    if len(told) != source.channels:
        told = [sum(told) / len(told)]
    return per_channel(told, source.channels, default)


def _names(timm: Any, config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """The names of ImageNet's classes, where the weights are of one of its subsets."""
    names = config.get("label_names")
    if names and len(names) == num_classes:
        return tuple(str(one) for one in names)
    if num_classes != 1000:
        return ()
    info = timm.data.ImageNetInfo("imagenet-1k")
    return tuple(
        f"{info.index_to_label_name(i)}, {info.index_to_description(i)}" for i in range(1000)
    )
