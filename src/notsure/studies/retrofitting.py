"""The step that changes a trained network: JumpReLU in the place of ReLU."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from notsure import training
from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.guard import Guard
from notsure.models import with_jump_relu
from notsure.studies.learning import Network, Train, device
from notsure.studies.steps import Context, Step


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrofit(Network):
    """Puts JumpReLU into a trained network; the result is as that of `Train`, without a history.

    Attributes:
        network: the training of the network, whose data these are too.
        kappa: the threshold; None where it is looked for.
        accuracy_loss: by how much the accuracy on the calibration images may fall, where kappa is
            looked for; see `notsure.training.retrofit`.
        spread: how far kappa may be off.

    Raises:
        ConfigurationError: there are both kappa and accuracy_loss, or neither.
    """

    kind: ClassVar[str] = "retrofit"

    network: Train
    kappa: float | None = None
    accuracy_loss: float | None = None
    spread: float = 0.0

    def __post_init__(self) -> None:
        if (self.kappa is None) == (self.accuracy_loss is None):
            raise ConfigurationError("A retrofit takes kappa or accuracy_loss: give one of them.")

    @property
    def needs(self) -> tuple[Step, ...]:
        """The training."""
        return (self.network,)

    def settings(self) -> dict[str, Any]:
        """Everything that the network depends on besides its training."""
        told: dict[str, Any] = {"kappa": self.kappa, "spread": self.spread}
        if self.accuracy_loss is not None:
            told |= {
                "accuracy_loss": self.accuracy_loss,
                "calibration": self.data.content("calibration"),
            }
        return told

    def run(self, context: Context) -> None:
        """Changes the network and saves it."""
        classifier = self.network.classifier(context)
        if self.kappa is not None:
            changed = self._changed(classifier, self.kappa)
        else:
            changed = training.retrofit(
                classifier,
                self.data.images("calibration"),
                accuracy_loss=float(self.accuracy_loss or 0.0),
                spread=self.spread,
            )
        Guard(changed).save(context.folder)

    def classifier(self, context: Context) -> Classifier:
        """What was made, for a step that needs it."""
        return Guard.load(context.folder_of(self)).classifier.to(device())

    def seconds_of_pass(self) -> float:
        """As long as through the network without it, roughly."""
        return self.network.seconds_of_pass()

    @property
    def stochastic(self) -> bool:
        """Whether the same image may get different answers: with a spread."""
        return self.spread > 0 or self.network.stochastic

    def estimate(self) -> float:
        """Seconds, roughly."""
        # a bisection to 1 % takes a dozen passes or two
        looks = 0 if self.accuracy_loss is None else 20
        return 0.1 + looks * self.data.counts["calibration"] * self.seconds_of_pass()

    def _changed(self, classifier: Classifier, kappa: float) -> Classifier:
        changed = copy.deepcopy(classifier)
        changed.module = with_jump_relu(classifier.module, kappa, self.spread)
        return changed
