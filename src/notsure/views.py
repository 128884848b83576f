"""Targets that show less of themselves: scores without gradients, or decisions alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from notsure.classifier import Classifier, as_target
from notsure.core.checks import check_images
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.target import NOT_SURE, Access, Response, Target

Answering = Target | nn.Module | Callable[[torch.Tensor], torch.Tensor]
"""A target, a bare module, or a function of images (B, C, H, W) in [0,1]."""


class View(nn.Module):
    """A target as seen from outside: no gradient leaves it."""

    access: ClassVar[Access]
    differentiable = False

    def __init__(self, of: Answering) -> None:
        super().__init__()
        self.target: Target | None = None
        self.function: Callable[[torch.Tensor], torch.Tensor] | None = None
        if isinstance(of, Target | nn.Module):
            self.target = as_target(of)
        elif callable(of):
            self.function = of
        else:
            raise ConfigurationError(
                f"A view shows a target, a torch.nn.Module or a function of images, not "
                f"{type(of).__name__}."
            )

    @property
    def rejects(self) -> bool:
        """Whether it may answer NOT SURE."""
        return self.target is not None and self.target.rejects

    @property
    def stochastic(self) -> bool:
        """Whether the same input may get different answers."""
        return self.target is not None and self.target.stochastic

    def check(self, x: torch.Tensor) -> torch.Tensor:
        """Checks images against what is viewed, and returns them without their graph."""
        classifier = getattr(self.target, "classifier", self.target)
        if isinstance(classifier, Classifier):
            return classifier.check(x)
        check_images(x)
        return x.detach()

    def respond(self, x: torch.Tensor) -> Response:
        """What the attacker sees of the answer to images (B, C, H, W) in [0,1]."""
        with torch.no_grad():
            return self._shown(x.detach())

    def _shown(self, x: torch.Tensor) -> Response:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits shown, (B, K)."""
        return self.respond(x).logits

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """The logits shown, (B, K)."""
        return self.respond(x).logits

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        """(B,): 1 where the answer is NOT SURE, -1 where it stands, -inf where nothing rejects."""
        response = self.respond(x)
        if response.rejection is None:
            return torch.full((len(x),), -torch.inf, device=x.device)
        return response.rejection


def checked_images(target: Target, x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) without their graph, after the target's own checks.

    Raises:
        InputError: see `Classifier.check`.
    """
    classifier = getattr(target, "classifier", target)
    if isinstance(classifier, Classifier | View):
        return classifier.check(x)
    check_images(x)
    return x.detach()


def _verdict(response: Response) -> torch.Tensor | None:
    """Accepted or not, and no word of how narrowly."""
    if response.rejection is None:
        return None
    return torch.where(response.accepted, -1.0, 1.0).to(response.logits)


class ScoresOnly(View):
    """A target that shows its scores and whether it stands by them, and no gradient.

    Args:
        of: what is viewed; a function has to return scores (B, K), K >= 2.
        probabilities: whether the function's scores are probabilities, whose logarithms are then
            taken as logits.
    """

    access = Access.SCORES

    def __init__(self, of: Answering, *, probabilities: bool = False) -> None:
        super().__init__(of)
        if probabilities and self.function is None:
            raise ConfigurationError("probabilities=True is for functions; a target yields logits.")
        self.probabilities = probabilities

    def _shown(self, x: torch.Tensor) -> Response:
        if self.target is not None:
            response = self.target.respond(x)
            return Response(response.logits, _verdict(response))
        scores = _answer_of(self.function, x)
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise InputError(
                f"The function has to return scores (B, K) with K >= 2, not {tuple(scores.shape)}: "
                "for labels alone use DecisionsOnly."
            )
        scores = scores.to(x)
        return Response(scores.clamp_min(1e-30).log() if self.probabilities else scores)


class DecisionsOnly(View):
    """A target that shows its label, or NOT SURE, and nothing else.

    As logits it shows 1 for the label and 0 for every other class; all 0 where it is NOT SURE.

    Args:
        of: what is viewed; a function has to return integer labels (B,), NOT_SURE (-1) where it
            declines to answer.
        num_classes: K, for a function.
    """

    access = Access.DECISIONS

    def __init__(self, of: Answering, *, num_classes: int | None = None) -> None:
        super().__init__(of)
        if self.function is not None and (num_classes is None or num_classes < 2):
            raise ConfigurationError(
                "A function that returns labels does not tell how many classes there are: give "
                "num_classes, at least 2."
            )
        self.num_classes = num_classes

    @property
    def rejects(self) -> bool:
        """Whether it may answer NOT SURE; a function may."""
        return self.function is not None or super().rejects

    def _shown(self, x: torch.Tensor) -> Response:
        if self.target is not None:
            response = self.target.respond(x)
            logits = torch.zeros_like(response.logits)
            logits.scatter_(1, response.prediction[:, None], response.accepted[:, None].to(logits))
            return Response(logits, _verdict(response))
        labels = _answer_of(self.function, x)
        if labels.ndim != 1 or labels.is_floating_point():
            raise InputError(
                f"The function has to return integer labels (B,), not {labels.dtype} of shape "
                f"{tuple(labels.shape)}: for scores use ScoresOnly."
            )
        labels = labels.to(x.device).long()
        declined = labels == NOT_SURE
        logits = torch.zeros(len(x), self.num_classes or 2, dtype=x.dtype, device=x.device)
        logits.scatter_(1, labels.clamp_min(0)[:, None], (~declined)[:, None].to(logits))
        return Response(logits, torch.where(declined, 1.0, -1.0).to(logits))


def _answer_of(
    function: Callable[[torch.Tensor], torch.Tensor] | None, x: torch.Tensor
) -> torch.Tensor:
    answer = torch.as_tensor(function(x) if function is not None else x)
    if len(answer) != len(x):
        raise InputError(f"The function answered {len(answer)} of {len(x)} images.")
    return answer
