"""JumpReLU: small activations are cut off, in networks that were trained with ReLU."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from notsure.core.errors import ConfigurationError
from notsure.models.configured import Configured
from notsure.models.randomized import uniform_numbers
from notsure.models.registry import (
    architecture_around,
    architecture_of,
    build_inner,
    register,
    remember,
)


class JumpReLU(Configured):
    """z where z > kappa, otherwise 0.

    Erichson et al. 2019; martin 9.4, whose kappa is 0.0645. With a spread, kappa is drawn anew for
    every sample, layer and pass, uniformly from [kappa - spread, kappa + spread], no less than 0.
    kappa = 0 is ReLU. The derivative is 1 above kappa and 0 elsewhere: it hides the jump.

    It costs attacks that were made on the network without it. An attack that differentiates through
    it may do better than on the network as it was (tests/test_jump_relu.py measures both).

    Deviation: the report has one random kappa a forward pass and prints no range; here each sample
    and each layer draws its own, so that no sample depends on its batch mates.

    Args:
        kappa: the threshold, at least 0, in units of the activations.
        spread: how far kappa may be off, at least 0, in the same units.

    Raises:
        ConfigurationError: kappa or spread is negative or not finite.
    """

    paper = "martin 9.4"
    fit_cost = "about 20 F an image, to find kappa (training.retrofit)"

    def __init__(self, kappa: float = 0.0645, spread: float = 0.0) -> None:
        super().__init__()
        for name, value in (("kappa", kappa), ("spread", spread)):
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigurationError(f"{name} has to be at least 0 and finite; got {value!r}.")
        self.kappa, self.spread = float(kappa), float(spread)

    @property
    def stochastic(self) -> bool:
        """Whether the same input may get different answers: with any spread at all."""
        return self.spread > 0

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"kappa": self.kappa, "spread": self.spread}

    def extra_repr(self) -> str:
        """The settings, for people."""
        return f"kappa={self.kappa:g}, spread={self.spread:g}"

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Maps activations (B, ...) to activations of the same shape."""
        kappa: float | torch.Tensor = self.kappa
        if self.spread > 0:
            centred = 2 * uniform_numbers(z, (1,) * (z.ndim - 1)) - 1
            kappa = (self.kappa + self.spread * centred).clamp_min_(0).to(z.dtype)
        # written so that NaN passes, as it does through ReLU
        return torch.where(z <= kappa, 0, z)


def with_jump_relu(module: nn.Module, kappa: float = 0.0645, spread: float = 0.0) -> nn.Module:
    """A copy of a trained network with JumpReLU in place of every ReLU; the weights stay.

    Args:
        module: the network; it is left as it is.
        kappa: see `JumpReLU`.
        spread: see `JumpReLU`.

    Returns:
        The copy, which remembers how it is built where the network does.

    Raises:
        ConfigurationError: the network holds no nn.ReLU (what it calls as a function cannot be
            replaced), holds JumpReLU already, or kappa or spread is out of range.
    """
    if any(isinstance(part, JumpReLU) for part in module.modules()):
        raise ConfigurationError(
            "The network has JumpReLU already: take the one without, which it was made from."
        )
    changed = copy.deepcopy(module)
    count = 0
    for parent in list(changed.modules()):
        # what was noted of a part as it was built holds no longer
        if architecture_of(parent) is not None:
            remember(parent, None)
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.ReLU):
                parent._modules[name] = JumpReLU(kappa, spread).train(child.training)
                count += 1
    if count == 0:
        raise ConfigurationError(
            f"{type(module).__name__} holds no nn.ReLU. What is called as a function "
            "(torch.relu, torch.nn.functional.relu, leaky ones included) cannot be replaced: write "
            "the network with nn.ReLU modules, or take one of notsure's that has them, such as "
            "'lenet' or 'digits_cnn'."
        )
    told = {"kappa": float(kappa), "spread": float(spread)}
    remember(changed, architecture_around("jump_relu", module, **told))
    return changed


@register("jump_relu", wrapper=True)
def jump_relu(
    *,
    of: str | Mapping[str, Any],
    kappa: float = 0.0645,
    spread: float = 0.0,
    **arguments: Any,
) -> nn.Module:
    """An architecture with JumpReLU (see `with_jump_relu`); `arguments` are the architecture's."""
    return with_jump_relu(build_inner(of, arguments), kappa, spread)
