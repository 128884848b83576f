"""The step that fits an attack, and attacks as steps have them: as they are, or fitted first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from notsure.attacks import AdvGAN, Attack, FittedAdvGAN
from notsure.core.errors import ConfigurationError
from notsure.data import Images
from notsure.studies import estimates
from notsure.studies.datasets import DataSet, drawn
from notsure.studies.learning import CHECKPOINT, Network, device, within_time
from notsure.studies.parts import described
from notsure.studies.steps import Context, Step

ATTACK = "attack.safetensors"


@dataclass(frozen=True, kw_only=True)
class FitRecipe:
    """How an attack is fitted.

    Attributes:
        epochs: passes over the images, in place of the attack's own setting; None leaves that.
        batch_size: images a step, in the same way.
        learning_rate: of its optimizer, in the same way.
        images: how many of the training images it learns from, drawn in the proportions of the
            classes; None for all.
        seed: of its initial weights, of the order of the images and of the draw.

    Raises:
        ConfigurationError: images is below 1.
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise ConfigurationError(f"images has to be at least 1; got {self.images}.")

    def settings(self) -> dict[str, Any]:
        """Those of the attack's settings that are given here."""
        told = {name: getattr(self, name) for name in ("epochs", "batch_size", "learning_rate")}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class FitAttack(Step):
    """Fits an attack against a network, on its training images; the result is the attack.

    Attributes:
        attack: its settings.
        network: what it is fitted against.
        images: how many training images it learns from; None for all.
        seed: of its initial weights, of the order of the images and of their draw.
    """

    kind: ClassVar[str] = "fit attack"
    resumable: ClassVar[bool] = True

    attack: AdvGAN
    network: Network
    images: int | None = None
    seed: int = 0

    @property
    def needs(self) -> tuple[Step, ...]:
        """The network."""
        return (self.network,)

    @property
    def data(self) -> DataSet:
        """The network's."""
        return self.network.data

    def settings(self) -> dict[str, Any]:
        """Everything that the attack depends on besides the network."""
        return {
            "attack": described(self.attack),
            "images": self.images,
            "seed": self.seed,
            "train": self.data.content("train"),
        }

    def learnt_from(self) -> Images:
        """The images that it is fitted on."""
        what = f"The train part of {self.data.name!r}"
        return drawn(self.data.images("train"), self.images, self.seed, what=what)

    def run(self, context: Context) -> None:
        """Fits it, or goes on with it."""
        images, here = self.learnt_from(), device()
        checkpoint = context.folder / CHECKPOINT
        with within_time(context):
            fitted = self.attack.fit(
                self.network.classifier(context),
                images.x.to(here),
                images.y.to(here),
                seed=self.seed,
                checkpoint=checkpoint,
                progress=context.progress,
            )
        fitted.save(context.folder / ATTACK)
        checkpoint.unlink()

    def fitted(self, context: Context) -> FittedAdvGAN:
        """What was fitted, for a step that needs it."""
        fitted = FittedAdvGAN.load(context.folder_of(self) / ATTACK)
        fitted.generator.to(device())
        return fitted

    def estimate(self) -> float:
        """Seconds, roughly."""
        own = estimates.seconds_of_generator(self.attack.width, self.data.shape, device())
        step = estimates.BACKWARD * (self.network.seconds_of_pass() + own)
        return self.attack.epochs * (self.images or self.data.counts["train"]) * step


Attacker = Attack | FitAttack
"""An attack, or the step that fits it."""


def told_of(attack: Attacker) -> Any:
    """What the result of a step that makes this attack depends on, in JSON's own types."""
    if isinstance(attack, FitAttack):
        return {"fitted": attack.identity}
    return described(attack)


def ready(attack: Attacker, context: Context) -> Attack:
    """The attack as it can be called, for a step that needs it."""
    return attack.fitted(context) if isinstance(attack, FitAttack) else attack


def passes_of(attack: Attacker, network: Network) -> float:
    """How many forward passes over a network the attack takes for an image, roughly."""
    if isinstance(attack, FitAttack):
        return 2.0
    values = math.prod(network.data.shape)
    return estimates.passes_of_attack(attack, values, stochastic=network.stochastic)


def fitted_first(attacks: Iterable[Attacker]) -> tuple[FitAttack, ...]:
    """The steps among some attacks, each once."""
    steps = {one.identity: one for one in attacks if isinstance(one, FitAttack)}
    return tuple(steps.values())
