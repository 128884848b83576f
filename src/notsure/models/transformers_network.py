"""The networks of transformers by their type; they need the extra `transformers`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from notsure.core.errors import ConfigurationError
from notsure.models.registry import register_collection


@register_collection("transformers")
def transformers_model(name: str) -> Callable[..., nn.Module]:
    """What builds a network of transformers, see `transformers_network`.

    Args:
        name: a model type, such as "resnet" or "vit".
    """
    return partial(transformers_network, name)


def transformers_network(
    name: str,
    *,
    config: Mapping[str, Any] | None = None,
    num_classes: int = 10,
    in_channels: int = 3,
    size: int = 224,
) -> nn.Module:
    """A network for image classification of transformers with untrained weights.

    Args:
        name: a model type, such as "resnet" or "vit".
        config: the settings of its configuration, as its `to_dict()` gives them; by default the
            type's own for these classes, channels and this size.
        num_classes: K, where no config is given.
        in_channels: channels of the images, where no config is given.
        size: height and width of the images, where no config is given.

    Raises:
        ConfigurationError: transformers is not installed, or cannot build such a network.
    """
    transformers = _library()
    if config is None:
        config = {"num_labels": num_classes, "num_channels": in_channels, "image_size": size}
    settings = {key: value for key, value in config.items() if key != "model_type"}
    try:
        made = transformers.AutoConfig.for_model(name, **settings)
        module = transformers.AutoModelForImageClassification.from_config(made)
    except (ValueError, KeyError, TypeError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ConfigurationError(
            f"transformers cannot build {name!r} for image classification: {first[:300]}"
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigurationError(f"transformers builds no torch module of the type {name!r}.")
    return module.float()


def _library() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigurationError(
            "The networks named transformers:... are built by the package transformers, which is "
            f"not there ({error}): pip install 'notsure[transformers]'"
        ) from error
