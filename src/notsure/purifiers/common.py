"""What purifiers have in common: checks of settings, precision, layout, identity."""

from __future__ import annotations

import json
import math
from typing import TypeVar

import torch
from torch import nn

from notsure.core.errors import ConfigurationError
from notsure.purifiers.base import Purifier

M = TypeVar("M", bound=nn.Module)


def check_whole(**values: int) -> None:
    """Raises ConfigurationError unless each of the settings is a whole number, at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"{name} is a whole number, at least 1; got {value!r}.")


def check_weights(**values: float) -> None:
    """Raises ConfigurationError unless each of the settings is finite and at least 0."""
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ConfigurationError(f"{name} has to be at least 0 and finite; got {value!r}.")


def as_weights(network: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """The values in the precision of the network's weights."""
    return values.to(next(network.parameters()).dtype)


def laid_out(network: M, device: torch.device) -> M:
    """The network on a device, in the memory layout that training leaves it in.

    One that is loaded is then computed in the same order, to the bit, as when it was saved.
    """
    return network.to(device).to(memory_format=torch.channels_last)


def initialise_for_relus(network: nn.Module) -> None:
    """He's initial weights, under which layers before ReLUs pass signals on at their size."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            summands = float(layer.in_features)
        elif isinstance(layer, nn.Conv2d):
            summands = layer.in_channels * math.prod(layer.kernel_size)
        elif isinstance(layer, nn.ConvTranspose2d):
            # with a stride, each output meets a part of the kernel only
            part = math.prod(layer.kernel_size) / math.prod(layer.stride)
            summands = layer.in_channels * part
        else:
            continue
        nn.init.normal_(layer.weight, std=math.sqrt(2 / summands))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def identity_of(purifier: Purifier) -> str:
    """What a checkpoint remembers a purifier by."""
    return json.dumps(purifier.description(), sort_keys=True)
