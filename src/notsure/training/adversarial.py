"""Adversarial training: the network learns from what attacks make of its images as it goes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, get_args

import torch

from notsure.attacks import FGSM, PGD, Attack
from notsure.classifier import Classifier
from notsure.core.checks import parse_size
from notsure.core.errors import ConfigurationError
from notsure.core.state import derived_seed, undisturbed
from notsure.training.objectives import Batch, CrossEntropy, TrainingObjective

Mode = Literal["rand", "max"]

CROSS_ENTROPY = CrossEntropy()
"""What is trained on unless another objective is given."""

LINF = PGD(norm="linf", eps=0.3, steps=40)
"""Martin's attack for MNIST (section 9.1), as Madry et al. 2018 train with it."""

L2 = PGD(norm="l2", eps=2.0, steps=40)
"""Its companion in l2, of a length that leaves the digits of MNIST readable."""


def for_training(attack: Attack) -> Attack:
    """An attack as a training takes it: no sample stops early, none leaps.

    It is to make the loss of every sample as large as can be, not to stop at the boundary.

    Raises:
        ConfigurationError: it is no attack, or not bounded by a ball.
    """
    if not isinstance(attack, Attack):
        raise ConfigurationError(
            f"Adversarial training takes an attack, such as PGD(eps=0.3, steps=40); got {attack!r}."
        )
    if attack.budget is None:
        raise ConfigurationError(
            f"{attack.name} looks for the nearest image that fools and has no ball to stay in: "
            "train on a bounded attack, such as PGD(eps=0.3, steps=40)."
        )
    known = {field.name for field in fields(attack)}
    return replace(attack, **{name: False for name in ("early_stop", "leap") if name in known})


def in_box(batch: Batch) -> torch.Tensor:
    """The images that attacks start from: in [0,1], which noise may have carried them out of."""
    return batch.x.clamp(0, 1)


def as_deployed(classifier: Classifier, x: torch.Tensor) -> torch.Tensor:
    """The logits (B, K) that the network gives in evaluation mode, without gradients or traces."""
    with torch.no_grad(), undisturbed(classifier, x.device):
        return classifier.logits(x)


@dataclass(frozen=True, kw_only=True)
class _Adversarial(TrainingObjective):
    """Alpha times a loss of the clean images plus 1 - alpha times that of attacked ones."""

    alpha: float = 0.5
    of: TrainingObjective = CROSS_ENTROPY

    def __post_init__(self) -> None:
        if not isinstance(self.alpha, int | float) or not 0 <= self.alpha <= 1:
            raise ConfigurationError(
                f"alpha is the share of the clean images' loss, in [0, 1]; got {self.alpha!r}."
            )
        fits = isinstance(self.of, TrainingObjective) and self.of.of_logits and self.of.complete
        if not fits:
            raise ConfigurationError(
                f"of={self.of!r} cannot be taken of clean and attacked images alike: give an "
                "objective of the logits that can be trained on by itself, such as "
                "CrossEntropy() or CrossEntropy() + LogitSqueezing(0.1)."
            )

    @property
    @abstractmethod
    def all_attacks(self) -> tuple[Attack, ...]:
        """The attacks it trains against."""

    @abstractmethod
    def attacked(self, batch: Batch) -> torch.Tensor:
        """The images (B, C, H, W) that the attacks make of the batch's."""

    @property
    def reverse_logits(self) -> bool | None:  # type: ignore[override]
        """As the objective that it is of."""
        return self.of.reverse_logits

    def require(self, classifier: Classifier) -> None:
        """Checks that the attacks apply to the classifier as well.

        Raises:
            ConfigurationError: the classifier cannot be trained on it.
            UnsupportedError: an attack does not apply to the classifier.
        """
        super().require(classifier)
        for attack in self.all_attacks:
            attack.require(classifier)

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of each sample, (B,); clean and attacked images pass the network separately."""
        if self.alpha == 1:
            return self.of.loss(batch)
        # before the clean pass, so that its graph need not be kept meanwhile
        images = self.attacked(batch)
        if self.alpha == 0:
            return self.of(batch.logits_of(images), batch.y)
        clean = self.of(batch.logits, batch.y)
        return self.alpha * clean + (1 - self.alpha) * self.of(batch.logits_of(images), batch.y)


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(_Adversarial):
    """alpha * L(x) + (1 - alpha) * L(x'), x' what an attack makes of x: preaut equation 6.

    Goodfellow et al. 2015; with PGD and alpha = 0 it is Madry et al. 2018; martin, section 9.1. At
    every step the attack works on the network as it is, in evaluation mode and without a trace on
    it (BatchNorm's statistics see the images x' in the training pass alone); the gradient to the
    weights does not flow through the attack. It adds up: a term that is added is taken of the clean
    images, one that is given within `of` of clean and attacked images.

    Deviations: the published trainings take the attack's last iterate; here it is the image of the
    largest objective that it has come by. And whatever `of` is, the attack maximises its own
    objective, by default the cross-entropy of the Classifier's answer, as those will do who attack
    the trained network.

    Attributes:
        attack: a bounded attack. Its `early_stop` and `leap` are turned off, as it is to maximise
            the loss of every sample and not to stop at the decision boundary. The gradients it
            follows are in its own `precision`, whatever that of the recipe.
        alpha: the share of the clean loss, in [0, 1]; 0.5 in preaut. At 1 nothing is attacked, and
            at 0 the clean images cost no pass.
        of: L, an objective of the logits.

    Raises:
        ConfigurationError: the attack is not bounded, alpha is outside [0, 1], or `of` is a term or
            takes more than logits.
    """

    paper: ClassVar[str] = "preaut eq. 6"
    fit_cost: ClassVar[str] = (
        "the attack's passes, F + B of its images and, unless alpha is 0, of x"
    )
    attack: Attack = LINF

    def __post_init__(self) -> None:
        super().__post_init__()
        # as it is used, so that the identity tells what was trained with
        object.__setattr__(self, "attack", for_training(self.attack))

    @classmethod
    def fast(
        cls,
        eps: float | str,
        alpha: float = 0.0,
        of: TrainingObjective = CROSS_ENTROPY,
    ) -> AdversarialTraining:
        """Wong et al. 2020: FGSM from a random start, with a step of 1.25 eps, in linf.

        A training step costs one more forward and backward pass than a plain one. Too long a
        training, or too large an eps, may end in a network that only FGSM does not fool
        ("catastrophic overfitting" in the paper): watch its accuracy under PGD.

        Args:
            eps: the ball's radius in [0,1] pixel units, > 0; a number or a string such as "8/255".
            alpha: the share of the clean loss, in [0, 1].
            of: the objective.

        Raises:
            ConfigurationError: as the class; or eps is not > 0.
        """
        radius = parse_size(eps, what="eps")
        if not radius > 0:
            raise ConfigurationError(f"eps has to be > 0 to train against it; got {eps!r}.")
        attack = FGSM(norm="linf", eps=radius, step_size=1.25 * radius, random_start=True)
        return cls(attack=attack, alpha=alpha, of=of)

    @property
    def all_attacks(self) -> tuple[Attack, ...]:
        """The one attack."""
        return (self.attack,)

    def attacked(self, batch: Batch) -> torch.Tensor:
        """What the attack makes of the batch's images, (B, C, H, W)."""
        seed = derived_seed(batch.seed, "adversarial")
        return self.attack.perturb(batch.classifier, in_box(batch), batch.y, seed=seed)


@dataclass(frozen=True, kw_only=True)
class MixedAdversarialTraining(_Adversarial):
    """Adversarial training against several attacks at once: preaut equations 7 and 8.

    Araujo et al. 2019. "rand" draws one of the attacks for each sample, each as likely as the
    others, at the cost of one attack a sample; "max" makes every attack on every sample and takes
    the image of the larger loss, which the network in evaluation mode decides. The rest is as in
    `AdversarialTraining`, its deviations too; the papers' mixture has no clean part (alpha = 0).

    Attributes:
        attacks: two or more bounded attacks; by default PGD in linf and in l2.
        mode: "rand" (equation 7) or "max" (equation 8).
        alpha: the share of the clean loss, in [0, 1].
        of: an objective of the logits.

    Raises:
        ConfigurationError: there are fewer than two attacks, the mode is not known, or as in
            `AdversarialTraining`.
    """

    paper: ClassVar[str] = "preaut eq. 7, 8"
    fit_cost: ClassVar[str] = "as AdversarialTraining; with max both attacks' passes and F of each"
    attacks: tuple[Attack, ...] = (LINF, L2)
    mode: Mode = "rand"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in get_args(Mode):
            raise ConfigurationError(f"mode is {' or '.join(get_args(Mode))}; got {self.mode!r}.")
        if not isinstance(self.attacks, tuple | list) or len(self.attacks) < 2:
            raise ConfigurationError(
                "attacks are two or more; for a single one take AdversarialTraining(attack=...)."
            )
        object.__setattr__(self, "attacks", tuple(for_training(one) for one in self.attacks))

    @property
    def all_attacks(self) -> tuple[Attack, ...]:
        """The attacks."""
        return self.attacks

    def attacked(self, batch: Batch) -> torch.Tensor:
        """What the attacks make of the batch's images, (B, C, H, W)."""
        return self._drawn(batch) if self.mode == "rand" else self._worst(batch)

    def _drawn(self, batch: Batch) -> torch.Tensor:
        x = in_box(batch)
        generator = torch.Generator().manual_seed(derived_seed(batch.seed, "which attack"))
        drawn = torch.randint(len(self.attacks), (len(x),), generator=generator).to(x.device)
        images = x.clone()
        for number, attack in enumerate(self.attacks):
            rows = (drawn == number).nonzero().flatten()
            if len(rows):
                seed = derived_seed(batch.seed, "adversarial", number)
                images[rows] = attack.perturb(batch.classifier, x[rows], batch.y[rows], seed=seed)
        return images

    def _worst(self, batch: Batch) -> torch.Tensor:
        x = in_box(batch)
        images = x
        largest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        for number, attack in enumerate(self.attacks):
            seed = derived_seed(batch.seed, "adversarial", number)
            candidates = attack.perturb(batch.classifier, x, batch.y, seed=seed)
            losses = self.of(as_deployed(batch.classifier, candidates), batch.y)
            images = torch.where((losses > largest).view(-1, 1, 1, 1), candidates, images)
            largest = torch.maximum(losses, largest)
        return images
