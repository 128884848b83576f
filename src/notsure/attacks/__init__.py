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
from notsure.attacks.gradients import BPDA, EOT, NaturalEvolution
from notsure.attacks.objectives import CrossEntropy, DetectorAware, Margin, Objective
from notsure.attacks.problem import Autograd, GradientSource

__all__ = [
    "BIM",
    "BPDA",
    "EOT",
    "FGSM",
    "ILCM",
    "L1",
    "L2",
    "MIM",
    "PGD",
    "Attack",
    "Autograd",
    "BoundedAttack",
    "Budget",
    "CrossEntropy",
    "DetectorAware",
    "Goal",
    "GradientSource",
    "LeastLikely",
    "Linf",
    "Margin",
    "Misclassified",
    "NaturalEvolution",
    "NextLikely",
    "Norm",
    "Objective",
    "RandomNoise",
    "Targeted",
    "Undetected",
]
