"""TRADES: right on clean images, and the same answer around them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure.attacks import PGD, Goal, Objective
from notsure.attacks.problem import Problem
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.core.state import derived_seed
from notsure.core.target import Response
from notsure.training.adversarial import LINF, as_deployed, in_box
from notsure.training.objectives import Batch, TrainingObjective, check_weight

START = 0.001
"""Standard deviation of the attack's start, in [0,1] pixel units: at the image itself the
divergence has no slope."""


def divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q), the sum of p (log p - log q), of log-probabilities (B, K): (B,), at least 0."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Divergence(Objective):
    """How far the answer has moved from the clean one: KL(F(x) || F(x')).

    It belongs to one batch, all of whose samples have to be asked about at once and in order.

    Attributes:
        clean: log F(x), (B, K).
    """

    clean: torch.Tensor

    def __call__(self, response: Response, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """The value of each sample, (B,).

        Raises:
            ConfigurationError: the answer is not for as many samples as the clean one.
        """
        if response.logits.shape != self.clean.shape:
            raise ConfigurationError(
                f"Divergence holds {tuple(self.clean.shape)} clean answers and was asked about "
                f"{tuple(response.logits.shape)}: it takes an attack on the whole batch that "
                "leaves out no sample, early_stop=False."
            )
        return divergence(self.clean, F.log_softmax(response.logits, dim=1))


@dataclass(frozen=True, kw_only=True)
class _FromNearby(PGD):
    """PGD from a start a little beside the image."""

    def first_step(self, problem: Problem, rows: torch.Tensor, start: int) -> torch.Tensor:
        """Gaussian noise of standard deviation START, in ball and box."""
        x = problem.x[rows]
        noise = problem.streams.select(rows).fork(start).normal(x.shape[1:], dtype=x.dtype)
        return self.geometry.project(START * noise, self.radius, -x, 1 - x)


@dataclass(frozen=True, kw_only=True)
class Trades(TrainingObjective):
    """Cross-entropy of x plus beta * KL(F(x) || F(x')), x' the point of the ball that maximises it.

    Zhang et al. 2019. The divergence does not look at the label: it is small where the answer does
    not change within the ball. Its maximum is sought by PGD from the clean image plus Gaussian
    noise of standard deviation 0.001, on the network in evaluation mode and without a trace on it;
    the gradient to the weights flows through F(x) and F(x'), not through the attack.

    Deviation: the published attack takes the last iterate; here it is the image of the largest
    divergence that it has come by.

    Attributes:
        attack: PGD; its norm, eps, steps, step size, restarts and gradient source count. Its
            `random_start`, `early_stop` and `leap` are turned off, and its objective is the
            divergence.
        beta: the weight of the divergence, at least 0; 6 in the paper (its 1 / lambda). At 0 it is
            cross-entropy and nothing is attacked.

    Raises:
        ConfigurationError: the attack is another one than PGD or has an objective of its own, or
            beta is no such number.
    """

    paper: ClassVar[str] = "Zhang et al. 2019"
    fit_cost: ClassVar[str] = "the attack's passes, 3 F + 2 B an image and epoch"
    attack: PGD = LINF
    beta: float = 6.0

    def __post_init__(self) -> None:
        check_weight(self.beta, "beta")
        if type(self.attack) is not PGD:
            raise ConfigurationError(
                f"Trades seeks the largest divergence by PGD, such as PGD(eps=0.3, steps=40); got "
                f"{self.attack!r}."
            )
        if self.attack.objective is not None:
            raise ConfigurationError(
                "Trades gives the attack its objective, the divergence from the clean answer: "
                "leave objective out of it."
            )
        used = replace(self.attack, random_start=False, early_stop=False, leap=False)
        object.__setattr__(self, "attack", used)

    def require(self, classifier: Classifier) -> None:
        """Checks that the attack applies to the classifier as well.

        Raises:
            ConfigurationError: the classifier cannot be trained on it.
            UnsupportedError: the attack does not apply to the classifier.
        """
        super().require(classifier)
        self.attack.require(classifier)

    def attacked(self, batch: Batch) -> torch.Tensor:
        """The images (B, C, H, W) of the ball on which the answer differs most."""
        x = in_box(batch)
        objective = Divergence(clean=F.log_softmax(as_deployed(batch.classifier, x), dim=1))
        attack = _FromNearby(**{**vars(self.attack), "objective": objective})
        return attack.perturb(
            batch.classifier, x, batch.y, seed=derived_seed(batch.seed, "adversarial")
        )

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of each sample, (B,)."""
        if self.beta == 0:
            return F.cross_entropy(batch.logits, batch.y, reduction="none")
        # before the clean pass, so that its graph need not be kept meanwhile
        images = self.attacked(batch)
        clean = F.log_softmax(batch.logits, dim=1)
        moved = F.log_softmax(batch.logits_of(images), dim=1)
        return F.nll_loss(clean, batch.y, reduction="none") + self.beta * divergence(clean, moved)
