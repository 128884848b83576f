"""Where gradients come from when plain differentiation will not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from notsure.attacks.problem import AUTOGRAD, Ascent, Function, GradientSource, Problem
from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.target import Access, Response, Target, access_of

_PURPOSE = 0x4E45
"""Keeps the directions of NES apart from whatever else a sample draws."""


@dataclass(frozen=True, kw_only=True)
class EOT(GradientSource):
    """Expectation over transformation: the mean gradient of n draws of a stochastic target.

    Athalye et al. 2018 b. It is the gradients that are averaged, each of its own draw's objective;
    a step counts as n forward and n backward passes.

    Attributes:
        n: how many draws.
        of: where each draw's gradient comes from.
    """

    n: int = 20
    of: GradientSource = AUTOGRAD

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigurationError(f"n is a number of draws, at least 1; got {self.n}.")

    def fits(self, target: Target) -> bool:
        """As the source of each draw."""
        return self.of.fits(target)

    def ascend(
        self, problem: Problem, images: torch.Tensor, rows: torch.Tensor, function: Function
    ) -> Ascent:
        """The means over the draws; reached is what most draws reach."""
        first = self.of.ascend(problem, images, rows, function)
        logits, rejection = first.response.logits, first.response.rejection
        reached, value, gradient = first.reached.double(), first.value, first.gradient
        for _ in range(self.n - 1):
            draw = self.of.ascend(problem, images, rows, function)
            logits = logits + draw.response.logits
            if rejection is not None and draw.response.rejection is not None:
                rejection = rejection + draw.response.rejection
            reached = reached + draw.reached
            value = value + draw.value
            gradient = gradient + draw.gradient
        n = self.n
        mean = Response(logits / n, None if rejection is None else rejection / n)
        return Ascent(mean, reached > n / 2, value / n, gradient / n)


@dataclass(frozen=True, kw_only=True)
class BPDA(GradientSource):
    """Backward pass differentiable approximation of the parts that declare themselves hard.

    Athalye et al. 2018 a. The forward pass is the target's own; in the backward pass every module
    whose `differentiable` is False is replaced by its `surrogate`, a differentiable function of
    its input, or by the identity where it declares none.

    Attributes:
        of: where the gradient of the target so mended comes from, such as EOT(n=20).
    """

    of: GradientSource = AUTOGRAD

    def fits(self, target: Target) -> bool:
        """Whether the target is made of modules that can be mended."""
        shown = getattr(target, "access", Access.GRADIENTS)
        return isinstance(target, nn.Module) and shown == Access.GRADIENTS

    def ascend(
        self, problem: Problem, images: torch.Tensor, rows: torch.Tensor, function: Function
    ) -> Ascent:
        """As the source it wraps, on the mended target."""
        with _mended(problem.target):
            return self.of.ascend(problem, images, rows, function)


@contextmanager
def _mended(target: Any) -> Iterator[None]:
    hard = [part for part in target.modules() if getattr(part, "differentiable", True) is False]
    # a whole that is hard only because of a part of it is mended by mending the part
    hard = [part for part in hard if not any(p in hard for p in part.modules() if p is not part)]
    handles = [part.register_forward_hook(_straight_through) for part in hard]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _straight_through(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    if not torch.is_grad_enabled() or not isinstance(output, torch.Tensor):
        return None
    given = inputs[0]
    surrogate = getattr(part, "surrogate", None)
    smooth = given if surrogate is None else surrogate(given)
    if smooth.shape != output.shape:
        raise UnsupportedError(
            f"{type(part).__name__} maps {tuple(given.shape)} to {tuple(output.shape)}, which the "
            "identity cannot stand in for: give it a method surrogate(x), differentiable and of "
            "the same output shape."
        )
    return smooth + (output - smooth).detach()


@dataclass(frozen=True, kw_only=True)
class NaturalEvolution(GradientSource):
    """A gradient from scores alone, by antithetic Gaussian directions.

    Wierstra et al. 2014, Ilyas et al. 2018; preaut equation 5, with every direction taken both
    ways, which cancels the value at the point itself. The estimate of a sample is the mean over
    its directions u of u * (f(x + sigma u) - f(x - sigma u)) / (2 sigma), f the sample's own
    objective; it costs `samples` + 1 queries.

    Attributes:
        samples: queries an estimate, even.
        sigma: how far the directions reach, in [0,1] pixel units.
    """

    needs: ClassVar[Access] = Access.SCORES
    samples: int = 50
    sigma: float = 1e-3

    def __post_init__(self) -> None:
        if self.samples < 2 or self.samples % 2:
            raise ConfigurationError(
                f"samples has to be even and at least 2 (antithetic pairs); got {self.samples}."
            )
        if not self.sigma > 0:
            raise ConfigurationError(f"sigma has to be > 0; got {self.sigma}.")

    @property
    def cost(self) -> int:
        """Queries an estimate takes of a target that is not stochastic."""
        return self.samples + 1

    def fits(self, target: Target) -> bool:
        """Whether the target shows scores."""
        return access_of(target) >= Access.SCORES

    def ascend(
        self, problem: Problem, images: torch.Tensor, rows: torch.Tensor, function: Function
    ) -> Ascent:
        """Answer and value at the candidates, and the estimate."""
        shape, dtype = images.shape[1:], images.dtype
        answer = problem.ask(images, rows)
        value = function(answer.response)
        each = value.shape[1:]
        gradient = torch.zeros(len(images), *each, *shape, dtype=dtype, device=images.device)
        for _ in range(self.samples // 2):
            streams = problem.streams.select(rows).fork(_PURPOSE).fork(problem.queries[rows])
            direction = streams.normal(shape, dtype=dtype)
            ahead = function(problem.draw(images + self.sigma * direction, rows))
            behind = function(problem.draw(images - self.sigma * direction, rows))
            rise = ((ahead - behind) / (self.sigma * self.samples)).to(dtype)
            direction = direction.view(len(images), *([1] * len(each)), *shape)
            gradient += rise.view(*rise.shape, 1, 1, 1) * direction
        return Ascent(answer.response, answer.reached, value, gradient)
