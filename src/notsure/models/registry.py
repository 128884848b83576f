"""The architectures by name, and the recipe that rebuilds each of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from notsure.core.errors import ConfigurationError

_ATTRIBUTE = "_notsure_architecture"
_FACTORIES: dict[str, Callable[..., nn.Module]] = {}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is needed to build a network again: a registered name and its arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def register(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Registers a factory of networks under a name that users, studies and saved guards use."""

    def decorate(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        _FACTORIES[name] = factory
        return factory

    return decorate


def names() -> tuple[str, ...]:
    """The registered names, sorted."""
    return tuple(sorted(_FACTORIES))


def build(name: str, **arguments: Any) -> nn.Module:
    """Builds an architecture by its registered name.

    Args:
        name: one of `names()`, for example "resnet32".
        **arguments: what the architecture takes; all take `num_classes`, `in_channels` and
            `size` (height = width of the images, in pixels).

    Returns:
        The network, freshly initialised from torch's global generator, which remembers how it
        was built (so that a saved guard can build it again).

    Raises:
        ConfigurationError: the name is not registered, or the arguments do not fit.
    """
    if name not in _FACTORIES:
        near = difflib.get_close_matches(name, _FACTORIES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(
            f"There is no architecture {name!r}.{hint} There are: {', '.join(names())}."
        )
    try:
        module = _FACTORIES[name](**arguments)
    except TypeError as error:
        raise ConfigurationError(f"Architecture {name!r} does not take that: {error}") from error
    object.__setattr__(module, _ATTRIBUTE, Architecture(name=name, arguments=dict(arguments)))
    return module


def architecture_of(module: nn.Module) -> Architecture | None:
    """How the network was built, or None where it was not built by `build`."""
    found = getattr(module, _ATTRIBUTE, None)
    return found if isinstance(found, Architecture) else None
