"""Training: objectives, recipes and the loop."""

from notsure.training.objectives import CrossEntropy, ReverseCrossEntropy, TrainingObjective
from notsure.training.recipe import Augmentation, Recipe
from notsure.training.trainer import Epoch, History, train

__all__ = [
    "Augmentation",
    "CrossEntropy",
    "Epoch",
    "History",
    "Recipe",
    "ReverseCrossEntropy",
    "TrainingObjective",
    "train",
]
