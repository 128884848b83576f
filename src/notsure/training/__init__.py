"""Training: objectives, recipes and the loop."""

from notsure.training.adversarial import AdversarialTraining, MixedAdversarialTraining
from notsure.training.embedding import LabelEmbedding
from notsure.training.loop import Epoch, History
from notsure.training.objectives import (
    CrossEntropy,
    LogitObjective,
    ReverseCrossEntropy,
    Sum,
    TrainingObjective,
)
from notsure.training.recipe import Augmentation, Recipe
from notsure.training.regularisers import (
    LabelSmoothing,
    LogitSqueezing,
    OutputVarianceMinimization,
)
from notsure.training.retrofit import retrofit
from notsure.training.trades import Trades
from notsure.training.trainer import train

__all__ = [
    "AdversarialTraining",
    "Augmentation",
    "CrossEntropy",
    "Epoch",
    "History",
    "LabelEmbedding",
    "LabelSmoothing",
    "LogitObjective",
    "LogitSqueezing",
    "MixedAdversarialTraining",
    "OutputVarianceMinimization",
    "Recipe",
    "ReverseCrossEntropy",
    "Sum",
    "Trades",
    "TrainingObjective",
    "retrofit",
    "train",
]
