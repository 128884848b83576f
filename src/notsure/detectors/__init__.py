"""Detectors: scores of an observation, higher where it looks more adversarial."""

from notsure.detectors.base import Detector
from notsure.detectors.combination import LearnedCombination
from notsure.detectors.confidence import Confidence
from notsure.detectors.deep_knn import DeepKNN
from notsure.detectors.feature_squeezing import FeatureSqueezing
from notsure.detectors.kdensity import KDensity
from notsure.detectors.lid import LID
from notsure.detectors.log_odds import LogOdds
from notsure.detectors.mahalanobis import Mahalanobis
from notsure.detectors.non_maximal_entropy import NonMaximalEntropy
from notsure.detectors.reconstruction import ProbabilityDivergence, ReconstructionError

__all__ = [
    "LID",
    "Confidence",
    "DeepKNN",
    "Detector",
    "FeatureSqueezing",
    "KDensity",
    "LearnedCombination",
    "LogOdds",
    "Mahalanobis",
    "NonMaximalEntropy",
    "ProbabilityDivergence",
    "ReconstructionError",
]
