"""Architectures: plain networks from images to logits that know nothing of attacks or guards."""

from notsure.models.convolutional import DigitsCNN, LeNet, MadryCNN, MartinCNN, WesterA, WesterB
from notsure.models.jump_relu import JumpReLU, with_jump_relu
from notsure.models.randomized import Randomized
from notsure.models.registry import (
    Architecture,
    architecture_of,
    build,
    factory_of,
    names,
    register,
)
from notsure.models.resnet import ResNet
from notsure.models.transformers_network import transformers_network
from notsure.models.zoo import TimmNetwork

__all__ = [
    "Architecture",
    "DigitsCNN",
    "JumpReLU",
    "LeNet",
    "MadryCNN",
    "MartinCNN",
    "Randomized",
    "ResNet",
    "TimmNetwork",
    "WesterA",
    "WesterB",
    "architecture_of",
    "build",
    "factory_of",
    "names",
    "register",
    "transformers_network",
    "with_jump_relu",
]
