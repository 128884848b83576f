"""The substitute of a suite, which is taught when it is first needed and not before."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from notsure.attacks import Distilled
from notsure.core.target import Response, Target


class Pupil:
    """A target that is to be taught by a guard's answers, and can be planned with before that.

    Teaching takes a good part of a quick suite, and a run that is over, or that was stopped when
    all transfers had been made, needs nobody who is taught.

    Args:
        teach: teaches it; called once, when `taught` is first asked for.
    """

    rejects = False
    stochastic = False
    differentiable = True

    def __init__(self, teach: Callable[[], Distilled]) -> None:
        self._teach = teach

    @cached_property
    def taught(self) -> Distilled:
        """The substitute, and how well it imitates."""
        return self._teach()

    def respond(self, x: torch.Tensor) -> Response:
        """Logits of images (B, C, H, W) in [0,1], and no rejection."""
        return self.taught.classifier.respond(x)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0,1]."""
        return self.taught.classifier.logits(x)

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        """(B,): -inf, since nothing rejects."""
        return self.taught.classifier.rejection(x)


def ready(target: Target) -> Target:
    """What an attack is given: of a pupil the network that it becomes."""
    return target.taught.classifier if isinstance(target, Pupil) else target
