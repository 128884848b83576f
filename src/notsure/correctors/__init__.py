"""Correctors: who answers where the detectors flag an image."""

from notsure.correctors.base import Corrector
from notsure.correctors.logit_svm import LogitSVM

__all__ = ["Corrector", "LogitSVM"]
