"""Modules whose settings are part of their state."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from notsure.core.errors import CheckpointError


class Configured(nn.Module, ABC):
    """A module that answers otherwise under other settings, though its weights are the same.

    The settings go into its state, so that `weights_hash` covers them; a state that was saved under
    other settings, or by a network without this module, does not load.
    """

    paper: ClassVar[str] = ""
    """Where it comes from."""

    fit_cost: ClassVar[str] = "nothing"
    """What it costs once, in passes over the training images."""

    query_cost: ClassVar[str] = "nothing"
    """What it adds to the forward pass (F) for each image asked about."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What it was told, as JSON-ready values."""

    def get_extra_state(self) -> torch.Tensor:
        """The settings as UTF-8 bytes of JSON, which every file of tensors can hold."""
        text = json.dumps(self.settings(), sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Compares the settings of a saved state with its own.

        Raises:
            CheckpointError: they differ.
        """
        if not torch.equal(state.cpu(), self.get_extra_state()):
            there = bytes(state.tolist()).decode(errors="replace")
            raise CheckpointError(
                f"This state belongs to a {type(self).__name__} with {there}; this one has "
                f"{json.dumps(self.settings(), sort_keys=True)}: build it with the same settings."
            )
