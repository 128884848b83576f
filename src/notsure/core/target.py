"""What an attack sees, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

import torch

NOT_SURE = -1
"""The label of an input that a guard declines to answer."""


@dataclass(frozen=True, eq=False)
class Response:
    """A target's answer to a batch.

    Attributes:
        logits: (B, K) with K >= 2; the decision is their argmax.
        rejection: (B,), positive where the target answers NOT SURE; None where the target has
            nothing that rejects.
    """

    logits: torch.Tensor
    rejection: torch.Tensor | None = None

    @property
    def prediction(self) -> torch.Tensor:
        """The label before any rejection, int64 (B,)."""
        return self.logits.argmax(dim=1)

    @property
    def accepted(self) -> torch.Tensor:
        """Where the target stands by its prediction, bool (B,)."""
        if self.rejection is None:
            return torch.ones(len(self.logits), dtype=torch.bool, device=self.logits.device)
        return self.rejection <= 0

    def select(self, rows: torch.Tensor) -> Response:
        """The answers to some of the batch."""
        rejection = None if self.rejection is None else self.rejection[rows]
        return Response(self.logits[rows], rejection)


class Access(IntEnum):
    """What an attacker gets to see of a target; who sees more sees the rest as well."""

    DECISIONS = 0
    """The label, or NOT SURE."""
    SCORES = 1
    """The logits, and whether the answer stands."""
    GRADIENTS = 2
    """Logits and rejection with their derivatives."""


@runtime_checkable
class Target(Protocol):
    """What an attack sees: a Classifier, a Guard, or a view that shows less of one."""

    @property
    def rejects(self) -> bool:
        """Whether some inputs may be answered with NOT SURE."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether the same input may get different answers."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether `respond` can be differentiated down to the input."""
        ...

    def respond(self, x: torch.Tensor) -> Response:
        """Logits and rejection of images (B, C, H, W) in [0,1], from one pass."""
        ...

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0,1]."""
        ...

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        """(B,): positive where the image would be rejected, -inf where nothing rejects."""
        ...


def access_of(target: Target) -> Access:
    """What the target shows: what it says itself as `access`, otherwise gradients or scores."""
    declared = getattr(target, "access", None)
    if isinstance(declared, Access):
        return declared
    return Access.GRADIENTS if target.differentiable else Access.SCORES


def distances(x: torch.Tensor, other: torch.Tensor) -> dict[str, torch.Tensor]:
    """The distances between two batches of images, each (B,): l0 counts pixel values."""
    delta = (other - x).flatten(1)
    size = delta.abs()
    return {
        "l0": (delta != 0).sum(dim=1).to(delta.dtype),
        "l1": size.sum(dim=1),
        "l2": torch.linalg.vector_norm(delta, dim=1),
        "linf": size.amax(dim=1),
    }


@dataclass(frozen=True, eq=False)
class Adversarial:
    """What an attack returns, one entry a sample.

    Attributes:
        x: (B, C, H, W) in [0,1], of the shape, dtype and device of the input; the clean image
            where the attack failed.
        success: bool (B,), judged by running the target again on `x`.
        distance: "l0", "l1", "l2", "linf" to the clean image, each (B,), in [0,1] pixel units.
        queries: int64 (B,), forward passes that the attacker spent on the sample, the one over the
            clean image included; the framework's own judging comes on top.
        gradients: int64 (B,), backward passes spent on the sample.
        dead_gradients: int64 (B,), how many of these were zero or not finite.
        non_finite_gradients: int64 (B,), how many of these were not finite.
    """

    x: torch.Tensor
    success: torch.Tensor
    distance: Mapping[str, torch.Tensor]
    queries: torch.Tensor
    gradients: torch.Tensor
    dead_gradients: torch.Tensor
    non_finite_gradients: torch.Tensor

    def robust_accuracy(self, radii: Sequence[float], norm: str = "l2") -> torch.Tensor:
        """The share of samples that nobody within each radius has fooled, (len(radii),).

        One run of a minimum-norm attack yields the whole curve; of a bounded attack the curve
        holds at the attack's own eps and is an upper bound below it.

        Args:
            radii: distances in [0,1] pixel units.
            norm: one of the keys of `distance`.
        """
        reach = torch.where(self.success, self.distance[norm].double(), torch.inf)
        limits = torch.as_tensor(radii, dtype=torch.float64, device=reach.device)
        return (reach[None] > limits[:, None]).double().mean(dim=1)

    @classmethod
    def joined(cls, parts: list[Adversarial]) -> Adversarial:
        """The results of consecutive batches as one."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            x=torch.cat([part.x for part in parts]),
            success=torch.cat([part.success for part in parts]),
            distance={
                norm: torch.cat([part.distance[norm] for part in parts])
                for norm in parts[0].distance
            },
            queries=torch.cat([part.queries for part in parts]),
            gradients=torch.cat([part.gradients for part in parts]),
            dead_gradients=torch.cat([part.dead_gradients for part in parts]),
            non_finite_gradients=torch.cat([part.non_finite_gradients for part in parts]),
        )
