"""Timing in turns, and one judge for everybody."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from notsure.core.target import distances

TOLERANCE = 1e-6
"""How far |x' - x| may exceed eps: the rounding of x + delta in float32."""

JUDGE_BATCH = 256

T = TypeVar("T")


@dataclass(eq=False)
class Timing(Generic[T]):
    """What came of one contestant.

    Attributes:
        seconds: of each round.
        first: what the first round returned; None where it failed.
        failure: the error that ended it; empty for none.
    """

    seconds: list[float] = field(default_factory=list)
    first: T | None = None
    failure: str = ""


def interleaved(
    runs: Mapping[str, Callable[[], T]],
    rounds: int,
    *,
    before: Callable[[], None] = lambda: None,
    device: torch.device | None = None,
) -> dict[str, Timing[T]]:
    """Times everybody once a round, in an order that rotates, so that drifts hit all alike.

    An error ends the contestant that raised it, not the others.

    Args:
        runs: what to time, by name.
        rounds: how often.
        before: called before each timed call, outside the clock.
        device: a GPU to wait for; None for work that is done when the call returns.
    """
    timings: dict[str, Timing[T]] = {name: Timing() for name in runs}
    order = list(runs)
    for number in range(rounds):
        turn = number % max(len(order), 1)
        for name in order[turn:] + order[:turn]:
            timing = timings[name]
            if timing.failure:
                continue
            before()
            # the same random starts whoever came before, and another one each round
            torch.manual_seed(number)
            np.random.seed(number)  # noqa: NPY002  (ART draws from the global generator)
            gc.collect()
            try:
                seconds, result = timed(runs[name], device)
            except Exception as error:  # a peer may raise anything; the reason is recorded
                timing.failure = f"{type(error).__name__}: {error}"
                continue
            timing.seconds.append(seconds)
            if number == 0:
                timing.first = result
    return timings


def timed(run: Callable[[], T], device: torch.device | None = None) -> tuple[float, T]:
    """Seconds and result of one call."""
    _wait(device)
    began = time.perf_counter()
    result = run()
    _wait(device)
    return time.perf_counter() - began, result


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Verdict:
    """What the images of one contestant are worth.

    Attributes:
        distance: of each image in the row's norm where it fools the network, and None where not.
        beyond_eps: how many images lie outside the ball; they count as not fooling.
        outside_box: how many images had pixels outside [0,1]; they are judged after a clamp.
        not_finite: how many had pixels that are not finite; they count as not fooling.
    """

    distance: list[float | None]
    beyond_eps: int
    outside_box: int
    not_finite: int


def judge(
    module: nn.Module,
    x: torch.Tensor,
    adversarial: torch.Tensor,
    y: torch.Tensor,
    *,
    norm: str,
    eps: float | None = None,
    targets: torch.Tensor | None = None,
) -> Verdict:
    """Looks at the images with the plain network in float32, for everybody alike.

    Args:
        module: images (B, C, H, W) to logits (B, K), in evaluation mode.
        x: the clean images.
        adversarial: what a contestant made of them.
        y: their true labels (B,).
        norm: the norm of the row.
        eps: the radius of the ball, where there is one.
        targets: the wanted labels (B,) of a targeted attack.

    Raises:
        ValueError: the images do not have the shape of the clean ones.
    """
    if adversarial.shape != x.shape:
        raise ValueError(
            f"it returned images of shape {tuple(adversarial.shape)} for {tuple(x.shape)}"
        )
    adversarial = adversarial.detach().to(x)
    finite = torch.isfinite(adversarial).flatten(1).all(dim=1)
    adversarial = torch.where(finite.view(-1, 1, 1, 1), adversarial, x)
    low, high = adversarial.flatten(1).amin(dim=1), adversarial.flatten(1).amax(dim=1)
    outside = (low < 0) | (high > 1)
    adversarial = adversarial.clamp(0, 1)
    with torch.inference_mode():
        parts = torch.split(adversarial, JUDGE_BATCH)
        prediction = torch.cat([module(part).argmax(dim=1) for part in parts])
    fooled = (prediction != y) if targets is None else (prediction == targets)
    # in float64, so that the subtraction's rounding is no violation
    distance = distances(x.double(), adversarial.double())[norm]
    beyond = torch.zeros_like(fooled) if eps is None else distance > eps + TOLERANCE
    counts = fooled & finite & ~beyond
    return Verdict(
        distance=[
            round(size, 7) if holds else None
            for size, holds in zip(distance.tolist(), counts.tolist(), strict=True)
        ],
        beyond_eps=int(beyond.sum()),
        outside_box=int(outside.sum()),
        not_finite=int((~finite).sum()),
    )
