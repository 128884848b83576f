"""What models answer, brought to one tensor of logits; what is found out by asking once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import nn

from notsure.core.errors import UnsupportedError
from notsure.core.state import seeded, undisturbed

KEYS = ("logits", "scores", "output", "outputs", "out", "predictions", "prediction")
"""The names under which a dictionary of several tensors is looked through, in this order."""

SIZES = (32, 28, 64, 8, 16, 96, 128, 224, 256, 299, 384)
"""The sizes that a model of unknown size is tried with."""

_SMALLEST = 1e-12
_STEADY = 1e-2
_SEED = 0


class Answering(nn.Module):
    """A module whose answer is one tensor of logits, whatever the inner one returns.

    Args:
        module: images, normalised, to a tensor, a dictionary, a tuple or an output object.
        probabilities: whether it yields probabilities, whose logarithms are taken as logits; those
            below 1e-12 count as 1e-12.
        pairs: whether it has to be asked about two images at least; one alone is asked about twice.
    """

    def __init__(
        self, module: nn.Module, *, probabilities: bool = False, pairs: bool = False
    ) -> None:
        super().__init__()
        self.module = module
        self.probabilities, self.pairs = probabilities, pairs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        alone = self.pairs and len(x) == 1
        answer = answer_in(self.module(torch.cat([x, x]) if alone else x))
        answer = answer[:1] if alone else answer
        return answer.clamp_min(_SMALLEST).log() if self.probabilities else answer


def answer_in(output: Any) -> torch.Tensor:
    """The tensor of logits in what a model returned.

    Raises:
        UnsupportedError: there is none, or it cannot be told which one it is.
    """
    if isinstance(output, torch.Tensor):
        return output
    found: Any = getattr(output, "logits", None)
    if _is_scores(found):
        return found
    named: list[tuple[str, Any]] = []
    if isinstance(output, Mapping):
        named = [(str(key), value) for key, value in output.items()]
        for key in KEYS:
            found = output.get(key)
            if _is_scores(found):
                return found
    elif isinstance(output, Iterable):
        named = [(str(position), value) for position, value in enumerate(output)]
        # auxiliary answers come after the main one
        first = next((value for _, value in named if _is_answer(value)), None)
        if first is not None:
            return first
    answers = [value for _, value in named if _is_answer(value)]
    if len(answers) == 1:
        return answers[0]
    told = ", ".join(f"{name}: {_shape(value)}" for name, value in named) or type(output).__name__
    raise UnsupportedError(
        f"The model returns {type(output).__name__} ({told}), in which the logits (B, K) cannot be "
        "told: call them 'logits', or wrap the model in a module that returns them alone."
    )


def _is_answer(value: Any) -> TypeGuard[torch.Tensor]:
    return _is_scores(value) and value.ndim == 2


def _is_scores(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether it is a tensor of numbers, and not the labels that they came to."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What a model showed when it was asked about random images.

    Attributes:
        num_classes: K; 2 for a single logit.
        channels: of the images that it took.
        size: height and width of the images; None where it takes several.
        probabilities: whether its answers are probabilities.
        plain: whether it returns a tensor, or an object with `.logits`, as a Classifier reads them.
        pairs: whether it answers a single image in another shape than several, or not at all.
        no_gradients: why no gradient reaches the images; empty where one does.
        taken: which of several tensors was taken, in a sentence; empty where there is one.
    """

    num_classes: int
    channels: int
    size: tuple[int, int] | None
    probabilities: bool
    plain: bool
    pairs: bool
    no_gradients: str
    taken: str


def probe(
    module: nn.Module, channels: int | None, size: tuple[int, int] | None, *, called: str
) -> Probed:
    """Asks a model about two random images, and for a gradient.

    Args:
        module: normalised images to whatever it returns.
        channels: how many the images have; None where that is found out (3, then 1).
        size: height and width; None where any of `SIZES` will do.
        called: what errors call the model.

    Raises:
        UnsupportedError: it answers no images, or not with logits.
    """
    failures: list[str] = []
    for count in (3, 1) if channels is None else (channels,):
        for height, width in [(one, one) for one in SIZES] if size is None else [size]:
            x = _random(count, height, width)
            output = _answer(module, x, failures)
            if output is None:
                continue
            if size is None and _answer(module, _random(count, height + 4, width + 4), []) is None:
                return _probed(module, x, output, (height, width))
            return _probed(module, x, output, size)
    raise UnsupportedError(
        f"{called} answered no images that it was tried with ({'; '.join(failures[-2:])}): give "
        "the size (--size) and, in its file or wrapper, the number of channels that it takes."
    )


def _random(channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.rand(2, channels, height, width, generator=generator)


def _answer(module: nn.Module, x: torch.Tensor, failures: list[str]) -> Any:
    """What a module returns; None where it fails, which is told in `failures`."""
    with undisturbed(module), torch.no_grad():
        try:
            return module(x)
        except Exception as error:  # a foreign module may raise anything
            told = f"{type(error).__name__}: {error}".strip().splitlines()
            failures.append(f"{'x'.join(map(str, x.shape[1:]))}: {told[0][:200]}")
            return None


def _probed(
    module: nn.Module, x: torch.Tensor, output: Any, size: tuple[int, int] | None
) -> Probed:
    answer = answer_in(output)
    if not answer.is_floating_point():
        raise UnsupportedError(
            f"The model yields {answer.dtype}, which seem to be labels; a classifier yields the "
            "logits that these come from."
        )
    if answer.ndim == 1 and len(answer) == len(x):
        answer = answer[:, None]
    if answer.ndim != 2 or len(answer) != len(x):
        raise UnsupportedError(
            f"The model answers two images with shape {tuple(answer.shape)}; a classifier yields "
            "logits (2, K)."
        )
    _require_steady(module, x, answer)
    values = answer.double()
    sums = bool(((values.sum(dim=1) - 1).abs() < 1e-4).all())
    inside = bool(((values >= 0) & (values <= 1)).all())
    # a squeezed sigmoid looks like any other number, and is left to its owner
    shares = answer.shape[1] > 1 and sums and inside
    return Probed(
        num_classes=max(2, answer.shape[1]),
        channels=x.shape[1],
        size=size,
        probabilities=shares,
        plain=isinstance(output, torch.Tensor)
        or isinstance(getattr(output, "logits", None), torch.Tensor),
        pairs=not _answers_one(module, x, answer),
        no_gradients=_gradient_failure(module, x),
        taken=_taken_of(output),
    )


def _answers_one(module: nn.Module, x: torch.Tensor, answer: torch.Tensor) -> bool:
    """Whether a single image is answered as one of several is: `squeeze()` may take its axis."""
    output = _answer(module, x[:1], [])
    try:
        alone = None if output is None else answer_in(output)
    except UnsupportedError:
        return False
    if alone is None or alone.ndim == 0 or len(alone) != 1:
        return False
    return alone.numel() == answer.shape[1]


def _require_steady(module: nn.Module, x: torch.Tensor, answer: torch.Tensor) -> None:
    """Refuses a model whose answer to an image depends on chance or on the images beside it.

    Raises:
        UnsupportedError: it does, and does not declare that it is stochastic.
    """
    if any(getattr(part, "stochastic", False) is True for part in module.modules()):
        return
    least = _STEADY * float(answer.abs().max())
    with seeded(_SEED + 1):
        again = _answer(module, x, [])
    if again is not None and _apart(answer, answer_in(again)) > least:
        raise UnsupportedError(
            "The model answers the same images otherwise each time. If that is meant, say "
            "stochastic = True on the module that draws, whose answers attacks then average; if "
            "not, a dropout is in training mode: a program is made after model.eval()."
        )
    turned = _answer(module, x.flip(0)[:1].repeat(2, 1, 1, 1), [])
    if turned is not None and _apart(answer[-1:], answer_in(turned)[:1]) > least:
        raise UnsupportedError(
            "The model's answer to an image depends on the images beside it, as with a batch "
            "normalisation in training mode: a program is made after model.eval()."
        )


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.reshape(-1) - other.reshape(-1)).abs().max())


def _taken_of(output: Any) -> str:
    """What is to be said where a model returned several tensors that could be its logits."""
    if isinstance(output, torch.Tensor | Mapping) or _is_scores(getattr(output, "logits", None)):
        return ""
    shapes = [str(tuple(value.shape)) for value in output if _is_answer(value)]
    if len(shapes) < 2:
        return ""
    return (
        f"It returns several tensors, for two images of the shapes {', '.join(shapes)}; the first "
        "is taken as the logits."
    )


def _gradient_failure(module: nn.Module, x: torch.Tensor) -> str:
    """Why no gradient reaches the images; empty where one does."""
    declared = [m for m in module.modules() if getattr(m, "differentiable", True) is False]
    if declared:
        return str(getattr(declared[0], "no_gradients", "")) or "a part of it declares so"
    x = x.clone().requires_grad_()
    with undisturbed(module), torch.inference_mode(False), torch.enable_grad():
        try:
            answer = answer_in(module(x))
            if not answer.requires_grad:
                return "its answer does not depend on the images in a way that torch can follow"
            torch.autograd.grad(answer.sum(), x)
        except Exception as error:  # a foreign module may raise anything
            told = f"{type(error).__name__}: {error}".strip().splitlines()
            return f"differentiating it failed ({told[0][:200]})"
    return ""
