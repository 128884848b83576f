"""MagNet's reformer with diversity: several autoencoders, one of them at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from notsure.core.randomness import own_streams
from notsure.purifiers.autoencoder import Autoencoder, Reconstructor, SigmoidAutoencoder
from notsure.purifiers.base import Shape


class MagNet(Reconstructor):
    """Several autoencoders, of which each image meets one, chosen at random at inference.

    Meng & Chen 2017 (see wester, section 3.2): the reformer moves images towards the manifold of
    clean ones, and the choice among autoencoders keeps an attacker from knowing which. The
    detectors that go with it read the reconstruction error of an `Autoencoder`.

    An image's choice is drawn from its own random stream where there is one (see
    `notsure.core.randomness.own_streams`): it does not depend on the batch. An attacker who knows
    the autoencoders averages over the choice, `PGD(gradient=EOT(n=20))`.

    Deviations: the autoencoders have one form, `Autoencoder`'s, and differ by their initial weights
    and the order of the images, where the paper also adds to the loss what makes them differ.

    Args:
        count: how many autoencoders; with 1 nothing is random.
        noise: standard deviation of the noise in training, in [0,1] pixel units; 0.1 in the paper
            for MNIST, 0.025 for CIFAR-10.
        width: channels of the hidden convolutions, 3 in the paper.
        seed: of the initial weights.
        shape: channels, height and width of the images, where they are known already.

    Raises:
        ConfigurationError: noise is negative, or count or width is less than 1.
    """

    paper = "Meng & Chen 2017; wester 3.2"
    recipe = Autoencoder.recipe

    def __init__(
        self,
        *,
        count: int = 8,
        noise: float = 0.1,
        width: int = 3,
        seed: int = 0,
        shape: Shape | None = None,
    ) -> None:
        super().__init__(count=count, noise=noise, width=width, seed=seed, shape=shape)

    @property
    def stochastic(self) -> bool:
        """Whether there is a choice."""
        return self.count > 1

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "count": self.count,
            "noise": self.noise,
            "width": self.width,
            "seed": self.seed,
            "shape": None if self.shape is None else list(self.shape),
        }

    def make_network(self, shape: Shape) -> nn.Module:
        """An autoencoder of the paper's form."""
        return SigmoidAutoencoder(shape, self.width)

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """What the autoencoder that was drawn for each image makes of it, (B, C, H, W) in [0,1]."""
        if self.count == 1:
            return super().purify(x)
        chosen = self._choice(x)
        rows = [(chosen == index).nonzero().flatten() for index in range(self.count)]
        parts = [
            network(x[mine])
            for network, mine in zip(self.networks, rows, strict=True)
            if len(mine) > 0
        ]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def _choice(self, x: torch.Tensor) -> torch.Tensor:
        """The number of the autoencoder that each image meets, int64 (B,)."""
        streams = own_streams(len(x))
        if streams is None:
            return torch.randint(self.count, (len(x),), device=x.device)
        # in float64 a number below 1 times the count stays below the count
        return (streams.uniform((1,), dtype=torch.float64)[:, 0] * self.count).long()
