"""Architectures: plain networks from images to logits that know nothing of attacks or guards."""

from notsure.models.convolutional import DigitsCNN, LeNet, MadryCNN, MartinCNN, WesterA, WesterB
from notsure.models.registry import Architecture, architecture_of, build, names, register
from notsure.models.resnet import ResNet

__all__ = [
    "Architecture",
    "DigitsCNN",
    "LeNet",
    "MadryCNN",
    "MartinCNN",
    "ResNet",
    "WesterA",
    "WesterB",
    "architecture_of",
    "build",
    "names",
    "register",
]
