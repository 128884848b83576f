"""The forms of the purifiers."""

from __future__ import annotations

import torch
from torch import nn

from notsure.core.errors import UnsupportedError
from notsure.export.forms import never, register_form
from notsure.purifiers.autoencoder import Autoencoder, Reconstructor
from notsure.purifiers.defense_gan import DefenseGAN
from notsure.purifiers.denoiser import DenoisingAutoencoder
from notsure.purifiers.magnet import MagNet
from notsure.purifiers.puvae import PuVAE

never(
    DefenseGAN,
    "it searches by gradient descent for every image, and a graph holds no search; the PuVAE whose "
    "decoder it searches can be exported in its place",
)


@register_form(Autoencoder)
@register_form(DenoisingAutoencoder)
@register_form(MagNet)
def _only_network(purifier: Reconstructor, _dtype: torch.dtype) -> nn.Module:
    return purifier.networks[0]


class _PuVAE(nn.Module):
    """Every class's reconstruction side by side, of which the nearest is kept."""

    entering: torch.Tensor
    leaving: torch.Tensor

    def __init__(self, purifier: PuVAE) -> None:
        super().__init__()
        network = purifier.network
        dtype = next(network.parameters()).dtype
        self.network, self.classes = network, purifier.classes
        every = torch.arange(self.classes, device=purifier.trained.device)
        with torch.no_grad():
            self.register_buffer("entering", network.enter.of_labels(every, dtype).clone())
            self.register_buffer("leaving", network.leave.of_labels(every, dtype).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        network = self.network
        looked = network.look(x.to(self.entering.dtype))
        mean = network.mean(network.hidden(looked[:, None] + self.entering[None]))
        entered = (network.leave.of_values(mean) + self.leaving[None]).flatten(0, 1)
        decoded = torch.sigmoid(network.deconvolutions(network.unfold(entered)))
        images = decoded.view(-1, self.classes, *x.shape[1:]).to(x.dtype)
        error = (images - x[:, None]).square().flatten(2).sum(dim=2)
        channels, rows, columns = x.shape[1:]
        chosen = error.argmin(dim=1)[:, None, None, None, None]
        return images.gather(1, chosen.expand(-1, 1, channels, rows, columns))[:, 0]


@register_form(PuVAE)
def _puvae(purifier: PuVAE, _dtype: torch.dtype) -> nn.Module:
    if not purifier.fitted:
        raise UnsupportedError("it was not trained: call purifier.fit(images) first")
    return _PuVAE(purifier)
