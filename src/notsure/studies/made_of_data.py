"""Objectives that are made of the training images, when the training begins.

What a study declares of them, and what a step's identity rests on, are the settings and the images;
the numbers that come out may differ in their last digits from machine to machine.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from notsure.core.errors import ConfigurationError
from notsure.data import Images
from notsure.training import LabelEmbedding, LogitObjective, Sum, TrainingObjective


@dataclass(frozen=True, kw_only=True)
class EmbeddedLabels(LogitObjective):
    """`LabelEmbedding.from_class_means` of the training images.

    Attributes:
        temperature: in units of the cosine between two classes' mean images, > 0.

    Raises:
        ConfigurationError: the temperature is not > 0 and finite.
    """

    temperature: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigurationError(
                f"temperature has to be > 0 and finite; got {self.temperature}."
            )

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Refuses: there are no targets yet.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            "The targets are made of the training images first: with_data(objective, images)."
        )

    def made_of(self, images: Images) -> LabelEmbedding:
        """The objective with its targets."""
        return LabelEmbedding.from_class_means(images, temperature=self.temperature)


def with_data(objective: TrainingObjective, images: Images) -> TrainingObjective:
    """The objective with all that is made of the training images, also within other objectives.

    Raises:
        InputError: a class has no image.
        ConfigurationError: two classes cannot be told apart by what is made of them.
    """
    if isinstance(objective, EmbeddedLabels):
        return objective.made_of(images)
    if isinstance(objective, Sum):
        return Sum(parts=tuple(with_data(part, images) for part in objective.parts))
    inner = getattr(objective, "of", None)
    if not isinstance(inner, TrainingObjective):
        return objective
    made = with_data(inner, images)
    if made is inner:
        return objective
    # a copy, as what was derived from the settings is not to be derived twice
    changed = copy.copy(objective)
    object.__setattr__(changed, "of", made)
    return changed
