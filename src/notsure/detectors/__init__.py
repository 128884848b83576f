"""Detectors: scores of an observation, higher where it looks more adversarial."""

from notsure.detectors.base import Detector
from notsure.detectors.confidence import Confidence
from notsure.detectors.kdensity import KDensity
from notsure.detectors.non_maximal_entropy import NonMaximalEntropy

__all__ = ["Confidence", "Detector", "KDensity", "NonMaximalEntropy"]
