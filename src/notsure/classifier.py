"""The Classifier: a network with its preprocessing inside."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from notsure.core.checks import check_images
from notsure.core.errors import ConfigurationError, InputError, UnsupportedError
from notsure.core.state import undisturbed
from notsure.core.target import Response, Target

Statistic = float | Sequence[float]


class Classifier(nn.Module):
    """A module with its preprocessing inside: images in [0,1] to logits and features.

    Everything outside speaks of images in [0,1]; the mean and standard deviation live here. The
    module itself is used as it is: never moved, never re-moded, never hooked for longer than a
    call.

    Args:
        module: images (B, C, H, W), normalised, to logits (B, K); (B, 1) or (B,) is one logit of
            class 1 against class 0. An output object with `.logits` works as well.
        mean: subtracted per channel, in [0,1] units; a number for all channels. Default 0.
        std: divided by, per channel, in [0,1] units; a number for all channels. Default 1.
        reverse_logits: the module was trained by reverse cross-entropy (Pang et al. 2018, section
            3.2): its logits are negated, and nobody downstream knows.
        features: name of the submodule whose output is the feature vector, as in
            `module.named_modules()`. By default the features are what enters the linear layer
            that yields the logits.

    Raises:
        ConfigurationError: mean or std do not fit each other, std is not positive, or there is no
            submodule of that name.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        module: nn.Module,
        mean: Statistic | None = None,
        std: Statistic | None = None,
        *,
        reverse_logits: bool = False,
        features: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise ConfigurationError(
                f"A Classifier wraps a torch.nn.Module, not {type(module).__name__}."
            )
        if isinstance(module, Classifier):
            raise ConfigurationError("This is a Classifier already: use it as it is.")
        if features is not None and features not in dict(module.named_modules()):
            known = ", ".join(name for name, _ in module.named_modules() if name)
            raise ConfigurationError(f"The module has no submodule {features!r}. It has: {known}.")
        self.module = module
        self.reverse_logits = reverse_logits
        self.features_name = features
        self.register_buffer("mean", _statistic(mean, 0.0, "mean"), persistent=False)
        self.register_buffer("std", _statistic(std, 1.0, "std"), persistent=False)
        self.channels = _channels(module, mean, std)
        if not bool((self.std > 0).all()):
            raise ConfigurationError(f"std has to be positive; got {std!r}.")
        # nothing to do is not even done: an attack makes this pass again and again
        self._identity = not bool(self.mean.any()) and bool((self.std == 1).all())
        self._probed = False
        parameter = next(module.parameters(), None)
        if parameter is not None:
            self.mean = self.mean.to(parameter.device)
            self.std = self.std.to(parameter.device)

    @property
    def rejects(self) -> bool:
        """False: a bare classifier always answers."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether the same input may get different answers; a module may declare it."""
        return any(getattr(part, "stochastic", False) is True for part in self.module.modules())

    @property
    def differentiable(self) -> bool:
        """Whether gradients reach the input; a module may declare that they do not."""
        return all(
            getattr(part, "differentiable", True) is not False for part in self.module.modules()
        )

    @property
    def device(self) -> torch.device:
        """Where the module's first parameter lives (the CPU where it has none)."""
        parameter = next(self.module.parameters(), None)
        return self.mean.device if parameter is None else parameter.device

    def settings(self) -> dict[str, Any]:
        """The preprocessing and how the module is used, as JSON-ready values."""
        return {
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "reverse_logits": self.reverse_logits,
            "features": self.features_name,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), K >= 2, of images (B, C, H, W) in [0,1]."""
        return self._read(self.module(self._normalised(x)))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), K >= 2, of images (B, C, H, W) in [0,1]."""
        logits: torch.Tensor = self(x)
        return logits

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        """-inf for each image: nothing is rejected."""
        return torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)

    def respond(self, x: torch.Tensor) -> Response:
        """Logits of images (B, C, H, W) in [0,1]; nothing is rejected."""
        return Response(self(x))

    def logits_and_features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, K) and features (B, D) from one pass over images (B, C, H, W) in [0,1].

        Raises:
            UnsupportedError: the logits do not come from a linear layer, so that the features have
                to be named.
        """
        captured: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        caller = threading.get_ident()

        def capture(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if threading.get_ident() == caller and inputs and isinstance(output, torch.Tensor):
                captured[id(part)] = (inputs[0], output)

        if self.features_name is not None:
            watched: list[nn.Module] = [self.module.get_submodule(self.features_name)]
        else:
            watched = [part for part in self.module.modules() if isinstance(part, nn.Linear)]
        handles = [part.register_forward_hook(capture) for part in watched]
        try:
            raw = _tensor_of(self.module(self._normalised(x)))
        finally:
            for handle in handles:
                handle.remove()
        if self.features_name is not None:
            if not captured:
                raise UnsupportedError(
                    f"The submodule {self.features_name!r} took no part in the forward pass, or "
                    "does not yield a tensor: name another one as features=..."
                )
            features = captured[id(watched[0])][1]
        else:
            features_or_none = next(
                (given for given, output in captured.values() if _same(output, raw)), None
            )
            if features_or_none is None:
                raise UnsupportedError(
                    f"{type(self.module).__name__} does not end in a linear layer, so its features "
                    "are not known: name the submodule that yields them, "
                    "notsure.Classifier(module, features='...')."
                )
            features = features_or_none
        return self._read(raw), features.flatten(1)

    def check(self, x: torch.Tensor) -> torch.Tensor:
        """Checks images against this classifier and returns them without their graph.

        Args:
            x: images (B, C, H, W).

        Returns:
            The images, floats in [0,1].

        Raises:
            InputError: see `notsure.core.checks.check_images`; or the module yields probabilities
                where logits are due.
        """
        check_images(x, channels=self.channels)
        x = x.detach()
        if x.is_inference():
            x = x.clone()
        if x.device != self.device:
            raise InputError(
                f"The images are on {x.device}, the classifier on {self.device}: move one of them."
            )
        if not self._probed:
            with undisturbed(self, x.device), torch.inference_mode():
                self(x[:8])
        return x

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        if self._identity:
            return x
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def _read(self, output: Any) -> torch.Tensor:
        raw = _tensor_of(output)
        if raw.ndim == 1:
            raw = raw[:, None]
        if raw.ndim != 2:
            raise UnsupportedError(
                f"The module yields shape {tuple(raw.shape)}; a classifier yields logits (B, K)."
            )
        if not self._probed:
            _refuse_probabilities(raw)
            self._probed = True
        if raw.shape[1] == 1:
            raw = torch.cat([torch.zeros_like(raw), raw], dim=1)
        return -raw if self.reverse_logits else raw


def as_target(target: Target | nn.Module) -> Target:
    """The target itself, or a bare module as a Classifier without preprocessing.

    Raises:
        UnsupportedError: it is neither.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, nn.Module):
        return Classifier(target)
    raise UnsupportedError(
        f"{type(target).__name__} is no target: give a Classifier, a Guard or a torch.nn.Module."
    )


def _statistic(value: Statistic | None, default: float, name: str) -> torch.Tensor:
    try:
        numbers = torch.as_tensor(default if value is None else value, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} has to be numbers, one a channel: {value!r}.") from error
    if numbers.ndim > 1 or not bool(torch.isfinite(numbers).all()):
        raise ConfigurationError(f"{name} has to be finite numbers, one a channel: {value!r}.")
    return numbers.view(1, -1, 1, 1)


def _channels(module: nn.Module, mean: Statistic | None, std: Statistic | None) -> int | None:
    """How many channels the images need, where mean, std or the first convolution tells."""
    told = {
        name: len(value)
        for name, value in (("mean", mean), ("std", std))
        if isinstance(value, Sequence)
    }
    if len(set(told.values())) > 1:
        raise ConfigurationError(
            f"mean has {told['mean']} channels, std {told['std']}: give one number a channel."
        )
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if told:
        count = next(iter(told.values()))
        if first is not None and count != first.in_channels:
            raise ConfigurationError(
                f"mean or std has {count} channels, but the module's first convolution takes "
                f"{first.in_channels}: give one number a channel, or a single number for all."
            )
        return count
    return None if first is None else first.in_channels


def _tensor_of(output: Any) -> torch.Tensor:
    if not isinstance(output, torch.Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, torch.Tensor):
        raise UnsupportedError(
            f"The module yields {type(output).__name__}; a classifier yields a tensor of logits "
            "(or an object with .logits). Wrap it in a module that returns the logits."
        )
    return output


def _same(output: torch.Tensor, raw: torch.Tensor) -> bool:
    """Whether `raw` is that layer's output, perhaps reshaped (a squeezed single logit)."""
    return output is raw or (
        output.data_ptr() == raw.data_ptr() and output.numel() == raw.numel() and raw.numel() > 0
    )


def _refuse_probabilities(raw: torch.Tensor) -> None:
    if raw.shape[1] < 2:
        return
    values = raw.detach().double()
    tolerance = 4 * torch.finfo(raw.dtype).eps * raw.shape[1]
    sums_to_one = bool(((values.sum(dim=1) - 1).abs() <= tolerance).all())
    if sums_to_one and bool((values >= 0).all()):
        raise InputError(
            "The module yields probabilities (rows in [0,1] that sum to 1), not logits; attacks "
            "and detectors fail silently on these. Leave out its last softmax, or return "
            "torch.log(probabilities)."
        )
