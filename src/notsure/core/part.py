"""What a guard is put together from: parts that can be described, rebuilt and filled again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from notsure.core.errors import CheckpointError, ConfigurationError, NotFittedError

P = TypeVar("P", bound="Part")


class Part(nn.Module, ABC):
    """A purifier, a detector or a corrector.

    What a part learnt is kept in parameters and buffers, so that it moves with `.to(device)` and is
    saved as safetensors; what it was told are its settings. A part may hold other parts.

    A part whose answer is partly chance says so by `stochastic`, one through which no useful
    gradient flows by `differentiable`; then a method `surrogate(x)` may stand in for its backward
    pass (see `notsure.attacks.BPDA`), and the identity does where there is none.
    """

    paper: ClassVar[str] = ""
    """Where it comes from."""

    fit_cost: ClassVar[str] = "nothing"
    """What it costs once, in passes over the training images."""

    query_cost: ClassVar[str] = "nothing"
    """What it adds to the classifier's forward pass (F) for each image asked about."""

    _kinds: ClassVar[dict[str, type[Part]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Every subclass can be found by its name when a saved guard is loaded."""
        super().__init_subclass__(**kwargs)
        Part._kinds[cls.__name__] = cls

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON-ready values (parts by their descriptions)."""

    @property
    def fitted(self) -> bool:
        """Whether it can be used."""
        return True

    def require_fitted(self) -> None:
        """Raises NotFittedError unless it can be used."""
        if not self.fitted:
            raise NotFittedError(
                f"{type(self).__name__} was not fitted: call guard.fit(x_train, y_train) first."
            )

    def description(self) -> dict[str, Any]:
        """What `rebuilt` needs besides the state."""
        return {"type": type(self).__name__, "settings": self.settings()}

    def make_room(self, state: Mapping[str, torch.Tensor]) -> None:
        """Gives the buffers the shapes and types of a saved state, in the parts within as well."""
        for name, tensor in state.items():
            if name in self._buffers:
                self.register_buffer(name, torch.empty_like(tensor))
        for name, child in self.named_modules():
            if isinstance(child, Part) and child is not self:
                for own, tensor in under(f"{name}.", state).items():
                    if own in child._buffers:
                        child.register_buffer(own, torch.empty_like(tensor))


def rebuilt(
    description: Mapping[str, Any],
    kind: type[P],
    state: Mapping[str, torch.Tensor] | None = None,
) -> P:
    """A part as it was described, with the state that it had.

    Args:
        description: what `Part.description` gave.
        kind: what it has to be: Detector, Purifier, ...
        state: its `state_dict()`; None leaves it as it is built.

    Raises:
        CheckpointError: its type is not known here, it is of another kind, or the state does not
            fit it.
    """
    found = Part._kinds.get(description["type"])
    if found is None:
        raise CheckpointError(
            f"A part of type {description['type']!r} is needed, which is not known here: import "
            "the module that defines it first."
        )
    if not issubclass(found, kind):
        raise CheckpointError(f"{found.__name__} is no {kind.__name__}.")
    part = found(**description["settings"])
    if state is not None:
        part.make_room(state)
        try:
            part.load_state_dict(dict(state))
        except RuntimeError as error:
            raise CheckpointError(
                f"The state of {found.__name__} does not fit it: {error}"
            ) from None
        part.eval()
    return part


def given_or_rebuilt(value: P | Mapping[str, Any], kind: type[P], name: str) -> P:
    """A part that was handed to another one, or its description when a guard is loaded.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        return rebuilt(value, kind)
    raise ConfigurationError(f"{name} has to be a {kind.__name__}; got {type(value).__name__}.")


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
