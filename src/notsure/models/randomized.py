"""Randomized networks: noise at the input or between the layers, in training and in use."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.randomness import own_streams
from notsure.models.configured import Configured
from notsure.models.registry import architecture_around, build_inner, register, remember

Noise = Literal["gaussian", "laplace", "uniform"]
"""The distribution that noise is drawn from."""


def uniform_numbers(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Uniform numbers in the open interval (0, 1), (B, *shape), as exact as `like` (B, ...) is.

    They come from the samples' own streams, or from torch's global generator where there are none.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    streams = own_streams(len(like))
    if streams is not None:
        return streams.uniform(shape, dtype=dtype)
    # torch draws from [0, 1), and the logarithm of 0 is no noise
    return torch.rand(len(like), *shape, dtype=dtype, device=like.device).clamp_min_(2.0**-25)


def standard_noise(kind: Noise, like: torch.Tensor) -> torch.Tensor:
    """Noise of mean 0 and standard deviation 1, of the shape, type and device of `like`.

    Args:
        kind: its distribution.
        like: float (B, ...); each sample's noise is independent of the others'.
    """
    shape = like.shape[1:]
    if kind == "gaussian":
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        streams = own_streams(len(like))
        if streams is None:
            return torch.randn(like.shape, dtype=dtype, device=like.device).to(like.dtype)
        return streams.normal(shape, dtype=dtype).to(like.dtype)
    centred = 2 * uniform_numbers(like, shape) - 1
    if kind == "uniform":
        return (centred * math.sqrt(3)).to(like.dtype)
    # the inverse distribution function; a Laplace variable of scale b has variance 2 b^2
    return (-centred.sign() * torch.log1p(-centred.abs()) / math.sqrt(2)).to(like.dtype)


class Randomized(Configured):
    """A network with noise added to its input, or to the input of some of its layers.

    Pinot et al. 2019; preaut 4.3 and 5.2: the noise is there in training as well as in use, so that
    its answer is one draw of many; a guard answers by vote, an attack averages gradients
    (`notsure.attacks.EOT`). The numbers come from the samples' own streams where a caller of
    notsure has set them, and from torch's global generator otherwise (in training, which seeds it).

    Args:
        module: the network, used as it is and neither copied nor changed; by itself it stays
            without noise.
        noise: the distribution, "gaussian", "laplace" or "uniform".
        sigma: its standard deviation, whatever the distribution, at least 0, in units of what the
            layer sees: a Classifier divides by its `std` before, so that noise at the input has
            standard deviation sigma * std in [0,1] pixel units. 0 is the network without noise.
        layers: the names of the submodules, as in `module.named_modules()`, whose input gets
            noise; "" is the network itself. Several layers get different numbers.

    Raises:
        ConfigurationError: a setting is out of range, or there is no layer of that name.
    """

    paper = "preaut 4.3"
    fit_cost = "as the network without noise"
    query_cost = "a further F for each further vote"

    def __init__(
        self,
        module: nn.Module,
        *,
        noise: Noise = "gaussian",
        sigma: float = 0.1,
        layers: Sequence[str] = ("",),
    ) -> None:
        super().__init__()
        if noise not in get_args(Noise):
            raise ConfigurationError(f"noise is {' or '.join(get_args(Noise))}; got {noise!r}.")
        if not (sigma >= 0 and math.isfinite(sigma)):
            raise ConfigurationError(
                f"sigma is a standard deviation, at least 0 and finite; got {sigma!r}."
            )
        self.module = module
        self.noise: Noise = noise
        self.sigma = float(sigma)
        self.layers = _checked(layers, module)
        remember(self, architecture_around("randomized", module, **self.settings()))

    @property
    def stochastic(self) -> bool:
        """Whether the same input may get different answers: with any noise at all."""
        return self.sigma > 0

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments besides the module."""
        return {"noise": self.noise, "sigma": self.sigma, "layers": list(self.layers)}

    def extra_repr(self) -> str:
        """The settings, for people."""
        return f"noise={self.noise!r}, sigma={self.sigma:g}, layers={self.layers}"

    def forward(self, x: torch.Tensor) -> Any:
        """One draw of the network's answer to images (B, C, H, W), normalised: logits (B, K).

        Raises:
            UnsupportedError: a named layer took no part in the pass, or is not called with a tensor
                of floats as its first argument.
        """
        if self.sigma == 0:
            return self.module(x)
        reached: set[str] = set()
        handles = [
            self.module.get_submodule(name).register_forward_pre_hook(self._adding(name, reached))
            for name in self.layers
        ]
        try:
            answer = self.module(x)
        finally:
            for handle in handles:
                handle.remove()
        missed = [name for name in self.layers if name not in reached]
        if missed:
            raise UnsupportedError(
                f"The layers {', '.join(missed)} took no part in the pass, so that they got no "
                "noise: name submodules that the network calls."
            )
        return answer

    def _adding(
        self, name: str, reached: set[str]
    ) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        # another thread that uses the module at the same time has hooks of its own
        caller = threading.get_ident()

        def add(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if threading.get_ident() != caller:
                return None
            given = inputs[0] if inputs else None
            if not isinstance(given, torch.Tensor) or not given.is_floating_point():
                raise UnsupportedError(
                    f"Layer {name!r} ({type(layer).__name__}) is not called with a tensor of "
                    "floats as its first argument, so that noise cannot be added: name another."
                )
            reached.add(name)
            return (given + self.sigma * standard_noise(self.noise, given), *inputs[1:])

        return add


def _checked(layers: Sequence[str], module: nn.Module) -> tuple[str, ...]:
    known = dict(module.named_modules())
    if isinstance(layers, str) or len(layers) == 0 or len(set(layers)) < len(layers):
        raise ConfigurationError(
            "layers is a sequence of different names of submodules, such as ('',) for the "
            f"network's input alone; got {layers!r}."
        )
    for name in layers:
        if name not in known:
            raise ConfigurationError(
                f"The network has no layer {name!r}. It has: '' (the network's input), "
                f"{', '.join(other for other in known if other)}."
            )
    return tuple(layers)


@register("randomized", wrapper=True)
def randomized(
    *,
    of: str | Mapping[str, Any],
    noise: Noise = "gaussian",
    sigma: float = 0.1,
    layers: Sequence[str] = ("",),
    **arguments: Any,
) -> Randomized:
    """An architecture with noise (see `Randomized`); `arguments` are those of the architecture."""
    return Randomized(build_inner(of, arguments), noise=noise, sigma=sigma, layers=layers)
