"""The networks of timm by name, for images of any size; they need the extra `zoo`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure.core.errors import ConfigurationError
from notsure.models.registry import register_collection

_GRID = 32
"""Images are enlarged to multiples of this: most networks halve them five times."""


class TimmNetwork(nn.Module):
    """A model of timm with untrained weights, behind a bilinear resizing of the images.

    timm's networks are made for images of 224x224 and more, and some pool smaller ones away to
    nothing. By default images are left as they are where the network takes them, and otherwise
    enlarged to the smallest multiple of 32 that it takes (or to the size it was made for). The
    resizing is part of the network, so that attacks work on the images as they are and gradients go
    through it.

    Args:
        name: a model of timm, without weights: "efficientnet_b3".
        num_classes: K, the number of logits.
        in_channels: channels of the images.
        size: height and width of the images.
        resize: height and width that they are resized to; by default as said above.

    Raises:
        ConfigurationError: timm is not installed or has no such model, or it takes no images of
            these channels or of this size.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        size: int = 224,
        resize: int | None = None,
    ) -> None:
        super().__init__()
        timm = _library()
        try:
            self.network: nn.Module = timm.create_model(
                name, pretrained=False, num_classes=num_classes, in_chans=in_channels
            )
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise ConfigurationError(
                f"timm cannot build {name!r} for {num_classes} classes and {in_channels} channels: "
                f"{error}"
            ) from error
        self.resize = _working_size(self.network, name, in_channels, num_classes, size, resize)

    def extra_repr(self) -> str:
        """What images are resized to, for people."""
        return f"resize={self.resize}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (B, C, H, W) to logits (B, K)."""
        if x.shape[2:] != (self.resize, self.resize):
            to = (self.resize, self.resize)
            x = F.interpolate(x, size=to, mode="bilinear", align_corners=False)
        logits: torch.Tensor = self.network(x)
        return logits


@register_collection("timm")
def timm_model(name: str) -> Callable[..., nn.Module]:
    """What builds a model of timm, see `TimmNetwork`.

    Raises:
        ConfigurationError: timm is not installed, or has no such model. Names by which timm would
            fetch something from the hub are none of them.
    """
    timm = _library()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigurationError(
            f"timm has no model {name!r}.{hint} timm.list_models() lists them; weights are trained "
            "here, and none are downloaded."
        )
    return partial(TimmNetwork, name)


def _library() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigurationError(
            "The networks named timm:... are built by the package timm, which is not there "
            f'({error}): pip install "notsure[zoo]"'
        ) from error


def _working_size(
    network: nn.Module,
    name: str,
    in_channels: int,
    num_classes: int,
    size: int,
    resize: int | None,
) -> int:
    """The size that the network gets: what was asked for, or else the first that works.

    Raises:
        ConfigurationError: it does not work at that size, or at none.
    """
    for value, what in ((size, "size"), (resize, "resize")):
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigurationError(f"{what} is a number of pixels, at least 1; got {value!r}.")
    told = ""
    for candidate in _candidates(network, size) if resize is None else (resize,):
        told = _failure(network, in_channels, num_classes, candidate)
        if not told:
            return candidate
    tried = f"resized to {resize}x{resize}" if resize is not None else f"of {size}x{size} or more"
    raise ConfigurationError(
        f"{name} of timm does not take images {tried} ({told}): give resize, in pixels, as its "
        "documentation has it."
    )


def _candidates(network: nn.Module, size: int) -> Iterator[int]:
    """The images' own size, multiples of the grid, and the size that the network was made for."""
    made_for = int(getattr(network, "default_cfg", {}).get("input_size", (3, 224, 224))[-1])
    yield size
    yield from (one for one in range(_GRID, made_for, _GRID) if one > size)
    if made_for > size:
        yield made_for


def _failure(network: nn.Module, in_channels: int, num_classes: int, size: int) -> str:
    """What goes wrong with images of a size; empty where nothing does."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            answer = network(torch.zeros(1, in_channels, size, size))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        return str(error) or type(error).__name__
    finally:
        network.train(was_training)
    if not isinstance(answer, torch.Tensor) or answer.shape != (1, num_classes):
        shape = tuple(getattr(answer, "shape", ()))
        return f"it yields {type(answer).__name__} {shape}, not logits (1, {num_classes})"
    return ""
