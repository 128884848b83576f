"""What a part of a guard becomes in a graph: the same numbers without any choice made by Python."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.part import Part
from notsure.observation import Observation

_MAKERS: dict[type[Part], Callable[[Any, torch.dtype], nn.Module]] = {}
_REASONS: dict[type[Part], str] = {}


class Form(nn.Module, ABC):
    """A detector or a corrector as it stands in a graph.

    A graph is traced once, with a batch of unknown size: nothing in `forward` may depend on the
    values of a tensor but through tensors, and the size of the batch is `x.shape[0]`, as Python's
    `len` would fix it.
    """

    @abstractmethod
    def forward(self, observation: Observation) -> torch.Tensor:
        """What the part says: scores (B,), or a corrector's (B, K)."""


def register_form(
    kind: type[Part],
) -> Callable[[Callable[[Any, torch.dtype], nn.Module]], Callable[[Any, torch.dtype], nn.Module]]:
    """Registers what builds the form of a kind of part.

    What is decorated takes the part and the type of float that the graph computes in, and returns a
    `Form`; for a purifier, a module from images (B, C, H, W) in [0,1] to images. It raises
    UnsupportedError where the part's settings keep it from being exported.

    Args:
        kind: the class; its subclasses may compute something else and are not meant.

    Returns:
        What registers the function that it decorates, and gives it back.
    """

    def decorate(
        maker: Callable[[Any, torch.dtype], nn.Module],
    ) -> Callable[[Any, torch.dtype], nn.Module]:
        _MAKERS[kind] = maker
        return maker

    return decorate


def never(kind: type[Part], reason: str) -> None:
    """Notes why a kind of part cannot be exported."""
    _REASONS[kind] = reason


def form_of(part: Part, dtype: torch.dtype) -> nn.Module:
    """The form of a part.

    Args:
        part: it is left as it is; the form may hold its networks.
        dtype: the type of float that the graph computes in.

    Raises:
        UnsupportedError: it cannot be exported; the message is the reason.
    """
    maker = _MAKERS.get(type(part))
    if getattr(part, "stochastic", False) is True:
        raise UnsupportedError(
            "it draws random numbers for every image, keyed by a hash of its content, and a graph "
            "cannot compute that hash"
        )
    if maker is None:
        told = _REASONS.get(type(part))
        raise UnsupportedError(
            told
            or f"{type(part).__name__} is not known to the export: tell it how to trace it, "
            f"@notsure.export.register_form({type(part).__name__})"
        )
    form = maker(part, dtype)
    if not isinstance(form, nn.Module):
        raise ConfigurationError(
            f"What is registered as the form of {type(part).__name__} returned "
            f"{type(form).__name__}; it has to return a module."
        )
    return form


def constant(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor's values for a graph, without its graph, layout or owner."""
    return values.detach().to(dtype).clone(memory_format=torch.contiguous_format)
