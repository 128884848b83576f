"""What metrics are made of: torchmetrics' Metric where it is installed, and a small one where not.

Both keep named states that batches add to, and know `update`, `compute`, `reset` and a call, which
adds a batch and gives the value of that batch alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

State = torch.Tensor | list[torch.Tensor]


class Accumulator:
    """As much of torchmetrics' Metric as the metrics here use, in one process."""

    def __init__(self) -> None:
        self._defaults: dict[str, State] = {}

    def add_state(self, name: str, default: State, dist_reduce_fx: str | None = None) -> None:
        """Adds a state: a tensor that batches are summed into, or a list that they are put on."""
        self._defaults[name] = default
        setattr(self, name, _fresh(default))

    def update(self, *given: Any, **named: Any) -> None:
        """Takes in a batch."""
        raise NotImplementedError

    def compute(self) -> torch.Tensor:
        """The value over all batches since the last reset."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forgets all batches."""
        for name, default in self._defaults.items():
            setattr(self, name, _fresh(default))

    def forward(self, *given: Any, **named: Any) -> torch.Tensor:
        """Takes in a batch, and gives the value of that batch alone."""
        before = {name: getattr(self, name) for name in self._defaults}
        self.reset()
        self.update(*given, **named)
        value = self.compute()
        for name, state in before.items():
            setattr(self, name, state + getattr(self, name))
        return value

    def __call__(self, *given: Any, **named: Any) -> torch.Tensor:
        """As `forward`."""
        return self.forward(*given, **named)

    @contextmanager
    def sync_context(self) -> Iterator[None]:
        """The states of all processes, of which there is one."""
        yield


def _fresh(default: State) -> State:
    return default.clone() if isinstance(default, torch.Tensor) else []


def _base() -> type[Any]:
    try:
        found: type[Any] = import_module("torchmetrics").Metric
    except ImportError:
        return Accumulator
    return found


if TYPE_CHECKING:
    Metric = Accumulator
else:
    Metric = _base()
