"""Models in less than float32, measured with the same weights in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from notsure.classifier import Classifier


class InFloat32(nn.Module):
    """A module as it would answer with its weights in float32; it is neither copied nor changed.

    In 8 or 11 bits images a budget apart cannot be told from one another, and answers depend on the
    batch. The weights are taken as they are when this is built.

    Args:
        module: with weights of any precision.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        weights = [*module.named_parameters(), *module.named_buffers()]
        # not among this module's own, which are those of the inner one
        self.__dict__["in_float32"] = {
            name: value.detach().float() for name, value in weights if value.is_floating_point()
        }

    def forward(self, x: torch.Tensor) -> Any:
        """What the module yields for images (B, C, H, W) in float32."""
        return functional_call(self.module, self.__dict__["in_float32"], (x,))


def in_its_precision(
    model: nn.Module, x: torch.Tensor
) -> tuple[Classifier | nn.Module, torch.Tensor]:
    """A model that can be measured, and its images in the type that it takes.

    Args:
        model: a Classifier or a bare module.
        x: floating-point images; others are left for the checks to refuse.
    """
    types = {one.dtype for one in model.parameters() if one.is_floating_point()}
    if not x.is_floating_point():
        return model, x
    if torch.float64 in types:
        return model, x.double()
    if types <= {torch.float32}:
        return model, x.float() if types else x
    if not isinstance(model, Classifier):
        return InFloat32(model), x.float()
    told = model.settings()
    features = told["features"]
    return Classifier(
        InFloat32(model.module),
        mean=_one_or_each(told["mean"]),
        std=_one_or_each(told["std"]),
        reverse_logits=told["reverse_logits"],
        features=None if features is None else f"module.{features}",
    ), x.float()


def _one_or_each(values: list[float]) -> float | list[float]:
    return values[0] if len(values) == 1 else values
