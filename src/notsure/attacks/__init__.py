"""Attacks: searches for inputs that fool a target, and the goals and objectives they serve."""

from notsure.attacks.base import Attack, Budget
from notsure.attacks.bounded import BIM, FGSM, ILCM, MIM, PGD, BoundedAttack, RandomNoise
from notsure.attacks.geometry import L1, L2, Linf, Norm
from notsure.attacks.goals import (
    Goal,
    LeastLikely,
    Misclassified,
    NextLikely,
    Targeted,
    Undetected,
)
from notsure.attacks.objectives import CrossEntropy, DetectorAware, Margin, Objective

__all__ = [
    "BIM",
    "FGSM",
    "ILCM",
    "L1",
    "L2",
    "MIM",
    "PGD",
    "Attack",
    "BoundedAttack",
    "Budget",
    "CrossEntropy",
    "DetectorAware",
    "Goal",
    "LeastLikely",
    "Linf",
    "Margin",
    "Misclassified",
    "NextLikely",
    "Norm",
    "Objective",
    "RandomNoise",
    "Targeted",
    "Undetected",
]
