"""Architectures: plain networks from images to logits that know nothing of attacks or guards."""

from notsure.models.convolutional import DigitsCNN, LeNet, MadryCNN, MartinCNN, WesterA, WesterB
from notsure.models.jump_relu import JumpReLU, with_jump_relu
from notsure.models.randomized import Randomized
from notsure.models.registry import Architecture, architecture_of, build, names, register
from notsure.models.resnet import ResNet

__all__ = [
    "Architecture",
    "DigitsCNN",
    "JumpReLU",
    "LeNet",
    "MadryCNN",
    "MartinCNN",
    "Randomized",
    "ResNet",
    "WesterA",
    "WesterB",
    "architecture_of",
    "build",
    "names",
    "register",
    "with_jump_relu",
]
