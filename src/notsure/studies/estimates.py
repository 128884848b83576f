"""How long a step takes, roughly: multiplications of the network times passes over it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from notsure import models
from notsure.attacks import EOT, Attack
from notsure.core.errors import NotSureError
from notsure.training import (
    AdversarialTraining,
    MixedAdversarialTraining,
    Sum,
    Trades,
    TrainingObjective,
)

SPEED = 1.5e10
"""Multiplications and additions a second that one thread of a processor does, or about so."""

GAIN = 300.0
"""How many such threads a GPU is worth."""

BACKWARD = 3.0
"""What a forward and a backward pass cost, in forward passes."""


def seconds_of_pass(architecture: str, arguments: Mapping[str, Any], device: torch.device) -> float:
    """Seconds that one image takes through a network, roughly; NaN where that cannot be told."""
    try:
        with torch.device("meta"):
            module = models.build(architecture, **arguments)
            count = _multiplications(module, (arguments["in_channels"], *[arguments["size"]] * 2))
    except (NotSureError, RuntimeError, KeyError):
        return math.nan
    threads = GAIN if device.type == "cuda" else torch.get_num_threads()
    return 2 * count / (SPEED * threads)


def _multiplications(module: nn.Module, shape: tuple[int, ...]) -> float:
    total = 0.0

    def add(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += output.numel() * layer.weight[0].numel()

    handles = [part.register_forward_hook(add) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            module(torch.zeros(1, *shape))
    finally:
        for handle in handles:
            handle.remove()
    return total


def passes_of_attack(attack: Attack) -> float:
    """How many forward passes an attack takes for an image, at most and roughly."""
    rounds = getattr(attack, "restarts", 1) * getattr(attack, "binary_search_steps", 1)
    source = attack.source
    draws = source.n if isinstance(source, EOT) else 1
    return 1 + getattr(attack, "queries", 0) + BACKWARD * rounds * attack_steps(attack) * draws


def attack_steps(attack: Attack) -> int:
    """How many steps it takes; 1 where it has no such setting."""
    return max(1, int(getattr(attack, "steps", 1)))


def passes_of_objective(objective: TrainingObjective) -> float:
    """How many forward passes a training takes for an image and epoch, roughly."""
    if isinstance(objective, Sum):
        return BACKWARD + sum(passes_of_objective(one) - BACKWARD for one in objective.parts)
    if isinstance(objective, AdversarialTraining | Trades):
        return 2 * BACKWARD + passes_of_attack(objective.attack)
    if isinstance(objective, MixedAdversarialTraining):
        every = [passes_of_attack(attack) for attack in objective.attacks]
        return 2 * BACKWARD + (sum(every) if objective.mode == "max" else max(every))
    return BACKWARD
