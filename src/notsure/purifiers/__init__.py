"""Purifiers: maps from images to cleaner ones, trained before they are used."""

from notsure.purifiers.autoencoder import Autoencoder
from notsure.purifiers.base import Purifier
from notsure.purifiers.defense_gan import DefenseGAN
from notsure.purifiers.denoiser import DenoisingAutoencoder
from notsure.purifiers.magnet import MagNet
from notsure.purifiers.puvae import PuVAE

__all__ = ["Autoencoder", "DefenseGAN", "DenoisingAutoencoder", "MagNet", "PuVAE", "Purifier"]
