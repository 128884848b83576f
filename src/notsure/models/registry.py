"""The architectures by name, and the recipe that rebuilds each of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from notsure.core.errors import ConfigurationError

_ATTRIBUTE = "_notsure_architecture"
_FACTORIES: dict[str, Callable[..., nn.Module]] = {}
_WRAPPERS: set[str] = set()
_COLLECTIONS: dict[str, Callable[[str], Callable[..., nn.Module]]] = {}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is needed to build a network again: a registered name and its arguments.

    Attributes:
        name: what it was registered under.
        arguments: what its factory was called with, JSON-ready.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def register(
    name: str, *, wrapper: bool = False
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Registers a factory of networks under a name that users, studies and saved guards use.

    Args:
        name: what it is built by.
        wrapper: whether it makes something of another architecture, which it takes as `of`.

    Returns:
        What registers the factory that it decorates, and gives it back.
    """

    def decorate(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        _FACTORIES[name] = factory
        if wrapper:
            _WRAPPERS.add(name)
        return factory

    return decorate


def register_collection(
    prefix: str,
) -> Callable[
    [Callable[[str], Callable[..., nn.Module]]], Callable[[str], Callable[..., nn.Module]]
]:
    """Registers another library's networks, which users name as "prefix:name".

    What is decorated gives the factory of a name, or raises ConfigurationError.
    """

    def decorate(
        find: Callable[[str], Callable[..., nn.Module]],
    ) -> Callable[[str], Callable[..., nn.Module]]:
        _COLLECTIONS[prefix] = find
        return find

    return decorate


def names() -> tuple[str, ...]:
    """The registered names of networks that can be built by themselves, sorted.

    Those of collections ("timm:resnet18") are not among them: they are another library's.
    """
    return tuple(sorted(_FACTORIES.keys() - _WRAPPERS))


def factory_of(name: str) -> Callable[..., nn.Module]:
    """What builds an architecture from its arguments.

    Args:
        name: one of `names()`, a wrapper's, or one of a collection.

    Raises:
        ConfigurationError: there is no such architecture, or the collection is not installed.
    """
    prefix, _, rest = name.partition(":")
    if rest and prefix in _COLLECTIONS:
        return _COLLECTIONS[prefix](rest)
    if name not in _FACTORIES:
        near = difflib.get_close_matches(name, _FACTORIES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        more = "".join(f", and {prefix}:NAME for any model of {prefix}" for prefix in _COLLECTIONS)
        raise ConfigurationError(
            f"There is no architecture {name!r}.{hint} There are: {', '.join(names())}{more}."
        )
    return _FACTORIES[name]


def build(name: str, **arguments: Any) -> nn.Module:
    """Builds an architecture by its registered name.

    Args:
        name: one of `names()`, for example "resnet32"; "timm:NAME" for a model of timm; or
            "randomized" or "jump_relu", which take another one's name as `of` (see
            `notsure.models.Randomized` and `with_jump_relu`).
        **arguments: what the architecture takes; all take `num_classes`, `in_channels` and
            `size` (height = width of the images, in pixels).

    Returns:
        The network, freshly initialised from torch's global generator, which remembers how it
        was built (so that a saved guard can build it again).

    Raises:
        ConfigurationError: the name is not registered, or the arguments do not fit.
    """
    factory = factory_of(name)
    try:
        module = factory(**arguments)
    except TypeError as error:
        raise ConfigurationError(f"Architecture {name!r} does not take that: {error}") from error
    remember(module, Architecture(name=name, arguments=dict(arguments)))
    return module


def architecture_of(module: nn.Module) -> Architecture | None:
    """How the network was built, or None where it was not built by `build`.

    Args:
        module: any network.
    """
    found = getattr(module, _ATTRIBUTE, None)
    return found if isinstance(found, Architecture) else None


def remember(module: nn.Module, architecture: Architecture | None) -> None:
    """Notes on a network how it can be built again; None where nobody knows."""
    object.__setattr__(module, _ATTRIBUTE, architecture)


def architecture_around(name: str, module: nn.Module, **arguments: Any) -> Architecture | None:
    """How a wrapper of this network can be built again; None where the network cannot be."""
    inner = architecture_of(module)
    if inner is None:
        return None
    return Architecture(name=name, arguments={"of": asdict(inner), **arguments})


def build_inner(of: str | Mapping[str, Any], arguments: Mapping[str, Any]) -> nn.Module:
    """The network that a wrapper is put around.

    Args:
        of: its registered name; or its name and arguments, as `Architecture` has them.
        arguments: its arguments, beside a name.

    Raises:
        ConfigurationError: `of` is neither, or the arguments do not fit.
    """
    if isinstance(of, str):
        return build(of, **arguments)
    if not isinstance(of, Mapping) or set(of) != {"name", "arguments"}:
        raise ConfigurationError(
            f"of is the name of an architecture (one of {', '.join(names())}), or a mapping of "
            f"its 'name' and 'arguments'; got {of!r}."
        )
    if arguments:
        raise ConfigurationError(
            f"The arguments {', '.join(arguments)} belong among those of the architecture "
            f"{of['name']!r}: put them into of['arguments']."
        )
    return build(of["name"], **of["arguments"])
