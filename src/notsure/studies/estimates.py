"""How long a step takes, roughly: multiplications of the network times passes over it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from notsure import models
from notsure.attacks import EOT, JSMA, Attack, AutoAttack, OrthogonalPGD
from notsure.attacks.generator import Generator
from notsure.attacks.problem import AUTOGRAD
from notsure.core.errors import NotSureError
from notsure.core.target import Access
from notsure.evaluation.suites import DISTILLED, check_suite, rounds_and_epochs, suite_plan
from notsure.evaluation.threats import NAMES, TransferFrom
from notsure.guard import Guard
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

_COUNTED = (nn.Conv2d, nn.Linear)
"""The layers whose multiplications count."""

BACKWARD = 3.0
"""What a forward and a backward pass cost, in forward passes."""


def seconds_of_pass(architecture: str, arguments: Mapping[str, Any], device: torch.device) -> float:
    """Seconds that one image takes through a network, roughly; NaN where that cannot be told."""
    return _looked_at(architecture, json.dumps(dict(arguments)))[0] / _speed(device)


def is_stochastic(architecture: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the same image may get different answers; False where that cannot be told."""
    return _looked_at(architecture, json.dumps(dict(arguments)))[1]


def seconds_of_generator(width: int, shape: tuple[int, int, int], device: torch.device) -> float:
    """Seconds that AdvGAN's generator takes for one image (C, H, W), roughly."""
    with torch.device("meta"):
        return _multiplications(Generator(channels=shape[0], width=width), shape) / _speed(device)


def seconds_of_layers(
    make: Callable[[], nn.Module],
    run: Callable[[nn.Module, torch.Tensor], object],
    shape: tuple[int, int, int],
    device: torch.device,
) -> float:
    """Seconds that one image takes through each layer of a part once; NaN where it cannot be told.

    A part may run some of its layers several times for an image, as it does not when it learns.

    Args:
        make: makes the part.
        run: runs it on images (1, C, H, W).
        shape: of an image, (C, H, W).
        device: where it is to work.
    """
    found: dict[nn.Module, float] = {}

    def note(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        if isinstance(layer, _COUNTED):
            found[layer] = output[0].numel() * layer.weight[0].numel()

    try:
        with torch.device("meta"), torch.no_grad():
            module = make().eval()
            for part in module.modules():
                part.register_forward_hook(note)
            run(module, torch.zeros(1, *shape))
    except (NotSureError, RuntimeError, NotImplementedError):
        return math.nan
    return sum(found.values()) / _speed(device) if found else math.nan


def _speed(device: torch.device) -> float:
    threads = GAIN if device.type == "cuda" else torch.get_num_threads()
    return SPEED * threads / 2


@lru_cache(maxsize=256)
def _looked_at(architecture: str, arguments: str) -> tuple[float, bool]:
    """Multiplications for one image, and whether chance has a part in it; NaN if unknown."""
    told = json.loads(arguments)
    try:
        with torch.device("meta"):
            module = models.build(architecture, **told)
            count = _multiplications(module, _shape_of(told))
    except (NotSureError, RuntimeError, KeyError):
        return math.nan, False
    stochastic = any(getattr(part, "stochastic", False) is True for part in module.modules())
    return count, stochastic


def _shape_of(arguments: Mapping[str, Any]) -> tuple[int, int, int]:
    """Channels, height and width of an architecture's images; a wrapper's may stand within."""
    if "in_channels" not in arguments and isinstance(arguments.get("of"), Mapping):
        arguments = arguments["of"]["arguments"]
    return arguments["in_channels"], arguments["size"], arguments["size"]


def _multiplications(module: nn.Module, shape: tuple[int, ...]) -> float:
    total = 0.0

    def add(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, _COUNTED):
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


def passes_of_attack(attack: Attack, values: int = 0, *, stochastic: bool = False) -> float:
    """How many forward passes an attack takes for an image, at most and roughly.

    Args:
        attack: the attack.
        values: how many values an image has, for attacks that change one after the other.
        stochastic: whether the target is, so that gradients are averaged.
    """
    if isinstance(attack, AutoAttack):
        return sum(passes_of_attack(part, values, stochastic=stochastic) for part in attack.parts)
    restarts = getattr(attack, "restarts", 1)
    if attack.needs < Access.GRADIENTS:
        return 1.0 + (getattr(attack, "queries", 0) or restarts)
    source = attack.source
    draws = source.n if isinstance(source, EOT) else 1
    if stochastic and source == AUTOGRAD:
        draws = EOT().n
    rounds = restarts * getattr(attack, "binary_search_steps", 1)
    rounds *= max(1, getattr(attack, "targets", 0))
    step, steps = BACKWARD, attack_steps(attack)
    if isinstance(attack, JSMA | OrthogonalPGD):
        # two backward passes a step, in place of one
        step = 2 * BACKWARD - 1
    if isinstance(attack, JSMA):
        # two values a step
        steps = max(1, int(attack.gamma * values / 2))
    return 1 + getattr(attack, "queries", 0) + step * rounds * steps * draws


def attack_steps(attack: Attack) -> int:
    """How many steps it takes; 1 where it has no such setting."""
    return max(1, int(getattr(attack, "steps", 1)))


def passes_of_suite(
    suite: str,
    eps: Sequence[float | str],
    *,
    norm: str,
    threats: Sequence[str] | None,
    substitutes: Iterable[str],
    rejects: bool,
    stochastic: bool,
    values: int,
) -> float:
    """How many forward passes a suite takes for an image, at most and roughly.

    Args:
        suite: its name.
        eps: budgets.
        norm: of the budgets.
        threats: those that are wanted; None for all.
        substitutes: what transfers are made from, besides that which the guard teaches.
        rejects: whether the guard has detectors.
        stochastic: whether chance has a part in its answers.
        values: how many values an image has.
    """
    chosen, named = tuple(NAMES if threats is None else threats), check_suite(suite)
    # all that a suite looks at is whether the guard rejects and draws
    guard = cast("Guard", SimpleNamespace(rejects=rejects, stochastic=stochastic))
    called = dict.fromkeys((*substitutes, DISTILLED))
    plan = suite_plan(guard, named, eps, norm=norm, threats=chosen, substitutes=called)
    passes = sum(passes_of_attack(one, values, stochastic=stochastic) for _, one in plan)
    if TransferFrom.name in chosen:
        # the student is taken to be as large as its teacher, and its images double in each round
        rounds, epochs = rounds_and_epochs(named)
        passes += BACKWARD * epochs * (2 ** (rounds + 1) - 1) + 2**rounds
    return passes


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
