"""What every attack shares: the attack proposes, the framework judges."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import torch
from torch import nn

from notsure.attacks.geometry import Norm
from notsure.attacks.goals import Goal, Misclassified, Targeted, Undetected
from notsure.attacks.problem import (
    AUTOGRAD,
    VOTES,
    GradientSource,
    Precision,
    Problem,
    Unjudged,
)
from notsure.classifier import as_target
from notsure.core.checks import check_labels, content_keys
from notsure.core.errors import ConfigurationError, UnsupportedError, VerificationError
from notsure.core.randomness import Streams
from notsure.core.state import derived_seed, detached_work
from notsure.core.target import Access, Adversarial, Target, access_of, distances
from notsure.views import checked_images

BUDGET_TOLERANCE = 1e-6
"""How far |x' - x| may exceed eps: the rounding of x + delta in float32."""


@dataclass(frozen=True)
class Budget:
    """A ball around the clean image: what an attack returns lies in it and in [0,1].

    Attributes:
        norm: in which the distance is measured.
        eps: the radius in [0,1] pixel units.
    """

    norm: Norm
    eps: float


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A search for inputs that fool a target.

    An attack is its hyperparameters and nothing else: it may be called any number of times, on any
    target, and leaves target, caller's tensors and global random state as they were.
    """

    needs: ClassVar[Access] = Access.GRADIENTS
    """What it has to see of the target."""
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    """The norms it is defined for."""
    paper: ClassVar[str] = ""
    """Where it comes from."""
    goals: ClassVar[str] = "any"
    """Which goals it can go for."""
    cost: ClassVar[str] = ""
    """What it costs a sample at most, in forward (F) and backward (B) passes."""

    @property
    def source(self) -> GradientSource:
        """Where its gradients come from."""
        return AUTOGRAD

    @property
    def search_precision(self) -> Precision:
        """What its gradients are computed in."""
        return "fp32"

    @property
    def query_budget(self) -> int | None:
        """How many forward passes it may spend on a sample; None for any."""
        return None

    @property
    def budget(self) -> Budget | None:
        """The ball that bounds it; None for an attack that looks for the nearest point."""
        return None

    @abstractmethod
    def search(self, problem: Problem) -> torch.Tensor:
        """Proposes an image for each sample, (B, C, H, W); proposals need not be right.

        Args:
            problem: the target, the images and the goal; every pass goes through it.

        Returns:
            The proposals, in the order of the images.
        """

    def default_goal(self, target: Target) -> Goal:
        """Misclassified, and accepted as well where the target may reject."""
        goal = Misclassified(confidence=self.asked_margin)
        return Undetected(goal) if target.rejects else goal

    @property
    def asked_margin(self) -> float:
        """Its `confidence`, the logit margin that success takes; 0 where it has no such setting."""
        return float(getattr(self, "confidence", 0.0))

    @property
    def name(self) -> str:
        """The name of the attack's class."""
        return type(self).__name__

    def settings(self) -> dict[str, Any]:
        """Every hyperparameter, as JSON-ready values."""
        return {key: _plain(value) for key, value in vars(self).items()}

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that stand for the attack and all its hyperparameters."""
        text = json.dumps([self.name, self.settings()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __call__(
        self,
        target: Target | nn.Module,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        seed: int = 0,
        goal: Goal | None = None,
        batch_size: int = 256,
        votes: int = VOTES,
    ) -> Adversarial:
        """Attacks a batch.

        The result of a sample depends on the target, the sample and the seed alone, up to
        rounding: not on its batch mates, the batch size or the order. Of a stochastic target this
        holds as far as its layers draw from the samples' own streams, as notsure's do.

        Args:
            target: a Classifier, a Guard, any other Target, or a bare module on [0,1] images.
            x: clean images (B, C, H, W), float, in [0,1].
            y: their true labels, integers (B,).
            seed: of the random start and whatever else is random.
            goal: what counts as success. By default any wrong label, which a target that can
                reject has to accept as well.
            batch_size: how many images are worked on at a time; memory grows with it.
            votes: how many draws of a stochastic target decide whether the goal is reached.

        Returns:
            The images with success, distances and costs per sample; a sample that was not fooled
            comes back as its clean image.

        Raises:
            InputError: images or labels are not what they have to be.
            ConfigurationError: the budget does not fit images of this size, or the queries do not
                suffice for a single step.
            UnsupportedError: the attack does not apply to this target.
        """
        target = as_target(target)
        self.require(target)
        if votes < 1:
            raise ConfigurationError(f"votes is a number of draws, at least 1; got {votes}.")
        with torch.inference_mode(False):
            x, y = _checked(target, x, y)
        if self.budget is not None:
            _check_budget(self.budget, x[0].numel())
        goal = goal or self.default_goal(target)
        parts = []
        with detached_work(target, derived_seed(seed, "attack"), x.device):
            keys = content_keys(x)
            for start in range(0, len(x), batch_size):
                rows = slice(start, start + batch_size)
                streams = Streams.of(keys[rows], seed)
                problem = Problem(
                    target,
                    x[rows],
                    y[rows],
                    _goal_of(goal, rows, len(x)),
                    streams,
                    source=self.source,
                    query_budget=self.query_budget,
                    votes=votes,
                    precision=self.search_precision,
                )
                parts.append(judged(problem, self.search(problem), self.budget))
        return Adversarial.joined(parts)

    def perturb(
        self, target: Target | nn.Module, x: torch.Tensor, y: torch.Tensor, *, seed: int = 0
    ) -> torch.Tensor:
        """The images of the largest objective that the search comes to, fooling or not.

        For training on: nothing is judged or checked again, and images that the target gets wrong
        as they are are attacked as well. A single step from a single start is taken unseen. The
        random numbers of an image depend on its place in the batch. The target is left as it was.

        Args:
            target: what is attacked.
            x: clean images (B, C, H, W) in [0,1].
            y: their true labels (B,).
            seed: of whatever is random.

        Raises:
            ConfigurationError: the attack is not bounded by a ball.
            InputError: the labels are not what they have to be.
        """
        if self.budget is None:
            raise ConfigurationError(
                f"{self.name} has no ball to stay in: take a bounded attack, such as PGD(eps=0.3)."
            )
        target = as_target(target)
        with detached_work(target, derived_seed(seed, "perturb"), x.device):
            x = x.detach()
            problem = Unjudged(
                target,
                x,
                y,
                Misclassified(),
                Streams.of(torch.arange(len(x), device=x.device), seed),
                source=self.source,
                query_budget=self.query_budget,
                votes=1,
                precision=self.search_precision,
            )
            return into(self.budget, self.search(problem), x)

    def require(self, target: Target) -> None:
        """Checks that the target shows what the attack has to see.

        Raises:
            UnsupportedError: it does not.
        """
        if self.needs < Access.GRADIENTS:
            if access_of(target) >= self.needs:
                return
        elif self.source.fits(target):
            return
        hint = ""
        if self.needs == Access.GRADIENTS and isinstance(target, nn.Module):
            hint = (
                " Where a part of it declares differentiable = False, give gradient=BPDA() to "
                "attack through it."
            )
        raise UnsupportedError(
            f"{self.name} needs {self.needs.name.lower()}, and {type(target).__name__} shows "
            f"{access_of(target).name.lower()} only. "
            f"Attacks that apply: {', '.join(_applicable(access_of(target)))}.{hint}"
        )


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack that follows gradients.

    Attributes:
        gradient: where they come from: `Autograd()`, `EOT(n=20)` for stochastic targets, `BPDA()`
            through parts that declare themselves not differentiable.
        precision: "bf16" computes the gradients in bfloat16 (autocast around the target), which
            pays where the hardware has it; every success is found out in full precision, and the
            search goes on where it did not hold.
    """

    gradient: GradientSource = AUTOGRAD
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ConfigurationError(
                f"precision is {' or '.join(get_args(Precision))}; got {self.precision!r}."
            )

    @property
    def source(self) -> GradientSource:
        """Where its gradients come from."""
        return self.gradient

    @property
    def search_precision(self) -> Precision:
        """What its gradients are computed in."""
        return self.precision


def public_attacks() -> list[type[Attack]]:
    """The library's attacks that were imported so far: those that say which paper they are from."""
    found: set[type[Attack]] = set()
    kinds: list[type[Attack]] = list(Attack.__subclasses__())
    while kinds:
        kind = kinds.pop()
        kinds.extend(kind.__subclasses__())
        ours = kind.__module__.startswith("notsure.") and not kind.__name__.startswith("_")
        if ours and kind.paper:
            found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


def _applicable(access: Access) -> list[str]:
    """The names of the public attacks that need no more than this."""
    return [kind.__name__ for kind in public_attacks() if kind.needs <= access]


def into(budget: Budget, images: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The nearest images in the ball around the clean ones `x` and in [0,1], (B, C, H, W)."""
    delta = budget.norm.project(images - x, budget.eps, -x, 1 - x)
    return (x + delta).clamp_(0, 1)


def judged(problem: Problem, proposal: torch.Tensor, budget: Budget | None) -> Adversarial:
    """Turns proposals into results: the one place where success is decided.

    Projects into the budget and [0,1], asks the target again, and gives back the clean image where
    the goal is not reached.

    Raises:
        VerificationError: a proposal is not finite, or cannot be brought into the budget.
    """
    x = problem.x
    proposal = proposal.detach().to(x.dtype)
    if not bool(torch.isfinite(proposal).all()):
        raise VerificationError(
            "The attack proposes images with NaN or infinite pixels: the target's answers or "
            "gradients are not finite. Check the network's weights and outputs."
        )
    proposal = proposal.clamp(0, 1)
    if budget is not None:
        proposal = into(budget, proposal, x)
        over = float((budget.norm.distance(proposal - x) - budget.eps).max())
        if over > BUDGET_TOLERANCE * max(1.0, budget.eps):
            raise VerificationError(f"A projected image exceeds its budget by {over:.3g}.")
    success = problem.judge(proposal)
    # where the clean image does it already, nothing has to be changed
    keep = success & ~problem.untouched
    images = torch.where(keep.view(-1, 1, 1, 1), proposal, x)
    return Adversarial(
        x=images,
        success=success | problem.untouched,
        distance=distances(x, images),
        queries=problem.queries,
        gradients=problem.gradients,
        dead_gradients=problem.dead_gradients,
        non_finite_gradients=problem.non_finite_gradients,
    )


def _checked(target: Target, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = checked_images(target, x)
    y = check_labels(y, count=len(x)).to(x.device)
    # a caller in inference mode hands in tensors that no graph may hold: work on copies
    return x.clamp(0, 1), y.clone()


def _check_budget(budget: Budget, size: int) -> None:
    largest = budget.norm.largest_radius(size)
    if budget.eps > largest:
        raise ConfigurationError(
            f"eps={budget.eps:g} in {budget.norm.name} is more than any change of an image of "
            f"{size} values in [0,1] ({largest:g}): is it meant on the 0..255 scale? Then give "
            f"eps='{budget.eps:g}/255'."
        )


def _goal_of(goal: Goal, rows: slice, count: int) -> Goal:
    """The goal for a part of the batch: per-sample targets are cut with it."""
    if isinstance(goal, Undetected):
        return replace(goal, goal=_goal_of(goal.goal, rows, count))
    if isinstance(goal, Targeted) and isinstance(goal.label, torch.Tensor):
        return replace(goal, label=check_labels(goal.label, count=count)[rows])
    return goal


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {"name": type(value).__name__, **{k: _plain(v) for k, v in vars(value).items()}}
    return value
