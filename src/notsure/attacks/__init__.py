"""Attacks: searches for inputs that fool a target, and the goals and objectives they serve."""

from notsure.attacks.apgd import APGD
from notsure.attacks.autoattack import AutoAttack
from notsure.attacks.base import Attack, Budget
from notsure.attacks.bounded import BIM, FGSM, ILCM, MIM, PGD, BoundedAttack, RandomNoise
from notsure.attacks.carlini_wagner import CarliniWagner
from notsure.attacks.detector_aware import OrthogonalPGD, SelectivePGD
from notsure.attacks.evolution import NES
from notsure.attacks.fab import FAB
from notsure.attacks.generative import AdvGAN, FittedAdvGAN
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
from notsure.attacks.minimal import DDN, DeepFool, MinimumNormAttack
from notsure.attacks.newton import NewtonFool
from notsure.attacks.objectives import DLR, CrossEntropy, DetectorAware, Margin, Objective
from notsure.attacks.problem import Autograd, GradientSource
from notsure.attacks.query import HopSkipJump, Square
from notsure.attacks.sparse import JSMA
from notsure.attacks.transfer import Distilled, Transfer, distill

__all__ = [
    "APGD",
    "BIM",
    "BPDA",
    "DDN",
    "DLR",
    "EOT",
    "FAB",
    "FGSM",
    "ILCM",
    "JSMA",
    "L1",
    "L2",
    "MIM",
    "NES",
    "PGD",
    "AdvGAN",
    "Attack",
    "AutoAttack",
    "Autograd",
    "BoundedAttack",
    "Budget",
    "CarliniWagner",
    "CrossEntropy",
    "DeepFool",
    "DetectorAware",
    "Distilled",
    "FittedAdvGAN",
    "Goal",
    "GradientSource",
    "HopSkipJump",
    "LeastLikely",
    "Linf",
    "Margin",
    "MinimumNormAttack",
    "Misclassified",
    "NaturalEvolution",
    "NewtonFool",
    "NextLikely",
    "Norm",
    "Objective",
    "OrthogonalPGD",
    "RandomNoise",
    "SelectivePGD",
    "Square",
    "Targeted",
    "Transfer",
    "Undetected",
    "distill",
]
