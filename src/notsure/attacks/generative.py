"""Attacks that are learnt beforehand: a network that answers an image with its perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from notsure.attacks.base import Attack, Budget
from notsure.attacks.generator import SMALLEST, Generator, Training, length_of
from notsure.attacks.geometry import check_norm, norm_named
from notsure.attacks.goals import Goal, Misclassified, Targeted, Undetected
from notsure.attacks.problem import Problem
from notsure.classifier import as_target
from notsure.core.checks import check_labels, parse_size
from notsure.core.errors import (
    CheckpointError,
    ConfigurationError,
    InputError,
    NotFittedError,
)
from notsure.core.progress import progress_bar
from notsure.core.state import derived_seed, detached_work, seeded, undisturbed, weights_hash
from notsure.core.stopping import reason_to_stop
from notsure.core.storage import load_tensors, save_tensors
from notsure.core.target import Access, Target
from notsure.views import checked_images

_KIND = "AdvGAN generator"


@dataclass(frozen=True, kw_only=True)
class AdvGAN(Attack):
    """A generator of perturbations, trained against the target: the settings of its training.

    Xiao et al. 2018; martin. `fit` trains it and returns the attack, `FittedAdvGAN`. The generator
    minimises, over the training images,

        class loss + alpha * how well the discriminator tells them apart + beta * excess length

    where the class loss is that of Carlini & Wagner, how far the logit margin falls short of
    `confidence`, and the GAN's losses are least squares. Where the target may reject, an image that
    has its wrong class pays for the rejection as well: first the class, then the detector.

    Training needs the target's gradients, the attack itself nothing but the generator. Against a
    black box, fit it on a distilled substitute (`notsure.attacks.transfer.distill`) and call the
    fitted attack on the target.

    Costs: one forward and one backward pass over the target for each training image and epoch.
    Deviations: the perturbation keeps to a hard ball besides the soft length bound, which the paper
    does by clipping (linf: eps * tanh; l2: scaled down to eps); a confidence of 2, not 0, since
    images that are left at the boundary in training fail on others; images smaller than 16x16 get a
    discriminator of two convolutions in place of three; Adam's rate falls along a cosine.

    Attributes:
        norm: "linf" or "l2".
        eps: the ball's radius in [0,1] pixel units; a number or a string such as "8/255".
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: the highest, of Adam, for both networks.
        confidence: the logit margin (kappa) that training asks for; the more, the better the
            perturbations hold on images that the generator has not seen.
        alpha: the weight of the GAN's loss; 0 trains no discriminator.
        beta: the weight of the excess length.
        bound: the l2 length of a perturbation from which on it counts as excess; by default that of
            the longest in the ball.
        rejection_slack: how far below the threshold a rejection is pushed, in the detectors' units.
        width: channels of the generator's first layer; 8 in the paper.
    """

    norms = ("linf", "l2")
    norm: str = "linf"
    eps: float | str = 0.3
    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 1e-3
    confidence: float = 2.0
    alpha: float = 0.1
    beta: float = 0.1
    bound: float | None = None
    rejection_slack: float = 0.1
    width: int = 8

    def __post_init__(self) -> None:
        check_norm(self.name, self.norm, self.norms)
        radius = parse_size(self.eps, what="eps")
        if not radius > 0 or (self.norm == "linf" and radius > 1):
            raise ConfigurationError(
                f"eps has to be > 0, and at most 1 in linf; got {self.eps!r}. On the 0..255 scale "
                "write eps='8/255'."
            )
        if self.epochs < 1 or self.batch_size < 1 or self.width < 1:
            raise ConfigurationError("epochs, batch_size and width have to be at least 1.")
        if not self.learning_rate > 0:
            raise ConfigurationError(f"learning_rate has to be > 0; got {self.learning_rate}.")
        weights = (self.confidence, self.alpha, self.beta, self.rejection_slack, self.bound or 0.0)
        if not all(0 <= weight < math.inf for weight in weights):
            raise ConfigurationError(
                "confidence, alpha, beta, bound and rejection_slack have to be at least 0 and "
                f"finite; got {weights}."
            )
        # stored as a number, so that "8/255" and 8/255 are the same attack
        object.__setattr__(self, "eps", radius)

    @property
    def radius(self) -> float:
        """Eps as a number."""
        return float(self.eps)

    @property
    def budget(self) -> Budget:
        """The ball."""
        return Budget(norm_named(self.norm), self.radius)

    def default_goal(self, target: Target) -> Goal:
        """Misclassified, and accepted as well where the target may reject.

        Unlike elsewhere the confidence is no part of it: that is what training strives for.
        """
        return Undetected(Misclassified()) if target.rejects else Misclassified()

    def search(self, problem: Problem) -> torch.Tensor:
        """Refuses: there is no generator yet.

        Raises:
            NotFittedError: always.
        """
        raise NotFittedError(
            "AdvGAN has to be trained first: fitted = AdvGAN(...).fit(target, x_train, y_train), "
            "and then fitted(target, x, y)."
        )

    def proposed(self, generator: Generator, x: torch.Tensor) -> torch.Tensor:
        """What the generator would add to images (B, C, H, W): in linf within the ball already.

        Args:
            generator: a trained one.
            x: images (B, C, H, W) in [0,1].
        """
        raw: torch.Tensor = generator(x)
        return self.radius * raw.tanh() if self.norm == "linf" else raw

    def applied(self, delta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The images with proposed perturbations, within the ball and [0,1].

        Args:
            delta: perturbations (B, C, H, W) of any size.
            x: images (B, C, H, W) in [0,1].
        """
        if self.norm == "l2":
            delta = delta * (self.radius / length_of(delta).clamp_min(1e-12)).clamp(max=1)
        # what starts inside the box is only shortened by clipping to it
        return (x + delta).clamp(0, 1)

    def fit(
        self,
        target: Target | nn.Module,
        x: torch.Tensor,
        y: torch.Tensor,
        *,
        goal: Goal | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: bool = False,
    ) -> FittedAdvGAN:
        """Trains a generator against a target; leaves no trace on the target.

        With a checkpoint it can be interrupted and gone on with, to the bit, at the end of every
        epoch.

        Args:
            target: a Classifier, a Guard, or any other Target that shows its gradients.
            x: training images (N, C, H, W) in [0,1], at least 8x8; not those to be attacked.
            y: their true labels (N,).
            goal: `Misclassified`, `Targeted` with one label for all, or either as `Undetected`. By
                default any wrong label, which a target that can reject has to accept as well. A
                targeted generator learns from the images of the other classes.
            seed: of the initial weights and the order of the images.
            checkpoint: a safetensors file to write and to resume from; None for none.
            progress: whether to show a progress bar.

        Returns:
            The attack.

        Raises:
            CheckpointError: the checkpoint is damaged, or belongs to another training.
            UnsupportedError: the target shows no gradients.
            ConfigurationError: the goal is of another kind, or the ball does not fit the images.
            InputError: images or labels are not what they have to be.
            NotSureError: the loss is not finite any more.
        """
        target = as_target(target)
        self.require(target)
        goal = goal or self.default_goal(target)
        decision = goal.goal if isinstance(goal, Undetected) else goal
        target_class = _class_of(decision)
        with detached_work(target, derived_seed(seed, "advgan"), x.device):
            x = checked_images(target, x).clamp(0, 1)
            num_classes = target.respond(x[:2]).logits.shape[1]
            y = check_labels(y, count=len(x), num_classes=num_classes).to(x.device)
            if target_class is not None:
                others = y != target_class
                x, y = x[others], y[others]
                if len(x) == 0:
                    raise InputError(
                        f"All training images are of the wanted class {target_class}: give images "
                        "of the others."
                    )
            self._check_images(x)
            labels = goal.labels(x.new_zeros(len(x), num_classes), y)
            kappa = max(self.confidence, goal.kappa)
            training = Training(self, target, goal, kappa, x, labels, seed)
            self._train(training, None if checkpoint is None else Path(checkpoint), progress)
        return FittedAdvGAN(
            advgan=self,
            generator=training.generator,
            target_class=target_class,
            undetected=goal.undetected,
            history=tuple(training.history),
        )

    def _train(self, training: Training, checkpoint: Path | None, progress: bool) -> None:
        if checkpoint is not None and checkpoint.exists():
            training.restore(checkpoint)
        begun = len(training.history)
        with progress_bar("training AdvGAN", self.epochs, start=begun, shown=progress) as advance:
            for epoch in range(begun, self.epochs):
                fooled = training.epoch(epoch)
                advance(1, f"fooled {fooled:.1%}")
                if checkpoint is not None:
                    training.save(checkpoint)
                    reason = reason_to_stop() if epoch + 1 < self.epochs else None
                    if reason is not None:
                        raise reason

    def _check_images(self, x: torch.Tensor) -> None:
        if min(x.shape[2:]) < SMALLEST:
            raise InputError(
                f"AdvGAN takes images from {SMALLEST}x{SMALLEST} on; these are "
                f"{x.shape[2]}x{x.shape[3]}."
            )
        largest = norm_named(self.norm).largest_radius(x[0].numel())
        if self.radius > largest:
            raise ConfigurationError(
                f"eps={self.radius:g} in {self.norm} is more than any change of such an image "
                f"({largest:g}): is it meant on the 0..255 scale?"
            )


def _class_of(goal: Goal) -> int | None:
    """The one class that the goal wants; None for any wrong one."""
    if isinstance(goal, Misclassified):
        return None
    if isinstance(goal, Targeted) and isinstance(goal.label, int):
        return goal.label
    raise ConfigurationError(
        "A generator is trained for any wrong class or for a single one: the goal has to be "
        f"Misclassified() or Targeted(label=3), Undetected or not; got {goal!r}. Train one for "
        "each class that is wanted."
    )


@dataclass(frozen=True, kw_only=True)
class FittedAdvGAN(Attack):
    """A trained generator as an attack: one pass over the generator, none over the target.

    `AdvGAN.fit` makes it. By default it goes for what it was trained for: any wrong class, or its
    one class; it may be judged by any other goal as well.

    Costs: one query per sample, for the clean image.

    Attributes:
        advgan: the settings of the training.
        generator: the network, on the device and of the type of the images to attack.
        target_class: the class that it makes for; None for any wrong one.
        undetected: whether it was trained to be accepted as well.
        history: the share of training images that reached the goal, by epoch.
    """

    needs = Access.DECISIONS
    norms = ("linf", "l2")
    goals = "the one it was trained for"
    paper = "Xiao et al. 2018"
    cost = "F, after a training with (F + B) an image and epoch"
    advgan: AdvGAN
    generator: Generator
    target_class: int | None = None
    undetected: bool = False
    history: tuple[float, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """The paper's."""
        return AdvGAN.__name__

    @property
    def budget(self) -> Budget:
        """The ball that it was trained for."""
        return self.advgan.budget

    def default_goal(self, target: Target) -> Goal:
        """What it was trained for, and accepted as well where the target may reject."""
        wanted = self.target_class
        goal: Goal = Misclassified() if wanted is None else Targeted(label=wanted)
        return Undetected(goal) if target.rejects else goal

    def settings(self) -> dict[str, Any]:
        """The training's settings, what it was for, and the hash of the generator's weights."""
        return {
            **self.advgan.settings(),
            "target_class": self.target_class,
            "undetected": self.undetected,
            "generator": weights_hash(self.generator),
        }

    def search(self, problem: Problem) -> torch.Tensor:
        """Adds what the generator says.

        Raises:
            InputError: the images are not of the generator's channels, device or type.
        """
        weight, x = next(self.generator.parameters()), problem.x
        if x.shape[1] != self.generator.channels or min(x.shape[2:]) < SMALLEST:
            raise InputError(
                f"The generator takes {self.generator.channels}-channel images from {SMALLEST}x"
                f"{SMALLEST} on; got shape {tuple(x.shape)}."
            )
        if (x.device, x.dtype) != (weight.device, weight.dtype):
            raise InputError(
                f"The generator is {weight.dtype} on {weight.device}, the images are {x.dtype} on "
                f"{x.device}: attack.generator.to(x) moves it."
            )
        proposal = x.clone()
        rows = (~problem.untouched).nonzero().flatten()
        if len(rows) > 0:
            with undisturbed(self.generator, x.device):
                delta = self.advgan.proposed(self.generator, x[rows])
            proposal[rows] = self.advgan.applied(delta, x[rows])
        return proposal

    def save(self, path: str | Path) -> None:
        """Writes the attack to one safetensors file, atomically."""
        note = {
            "kind": _KIND,
            "advgan": self.advgan.settings(),
            "channels": self.generator.channels,
            "target_class": self.target_class,
            "undetected": self.undetected,
            "history": list(self.history),
            "weights": weights_hash(self.generator),
        }
        save_tensors(path, self.generator.state_dict(), note=note)

    @staticmethod
    def load(path: str | Path) -> FittedAdvGAN:
        """Reads an attack that `save` wrote; its generator is on the CPU.

        Args:
            path: the file.

        Returns:
            The attack.

        Raises:
            CheckpointError: the file is missing, damaged, or no generator of ours.
        """
        tensors, note = load_tensors(path)
        if note.get("kind") != _KIND:
            raise CheckpointError(f"{str(path)!r} holds no fitted AdvGAN: give another path.")
        try:
            advgan = AdvGAN(**note["advgan"])
            # weights that are about to be replaced need not take numbers from the user's generator
            with seeded(0):
                generator = Generator(channels=note["channels"], width=advgan.width)
            generator.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
            fitted = FittedAdvGAN(
                advgan=advgan,
                generator=generator.eval(),
                target_class=note["target_class"],
                undetected=note["undetected"],
                history=tuple(note["history"]),
            )
            saved = note["weights"]
        except (KeyError, TypeError, ValueError, RuntimeError, StopIteration) as error:
            raise CheckpointError(
                f"{str(path)!r} was changed or is of another version of notsure "
                f"({type(error).__name__}: {error}): save the fitted attack again."
            ) from error
        if weights_hash(generator) != saved:
            raise CheckpointError(
                f"The weights in {str(path)!r} are not those that were saved: restore the file."
            )
        return fitted
