"""Defense-GAN's purification on a PuVAE's decoder: a search for the latent that comes nearest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from notsure.classifier import Classifier
from notsure.core.errors import ConfigurationError
from notsure.core.part import given_or_rebuilt
from notsure.core.randomness import own_streams
from notsure.core.state import derived_seed
from notsure.data import Images
from notsure.purifiers.base import Purifier, Shape
from notsure.purifiers.common import as_weights, check_whole
from notsure.purifiers.puvae import PuVAE
from notsure.training.loop import History
from notsure.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

CANDIDATES = 1 << 12
"""How many latents are decoded at a time."""


class DefenseGAN(Purifier):
    """The image that a decoder can make which is nearest to the given one, by search.

    Samangouei et al. 2018 (see wester, section 5.3): from several random latents, gradient descent
    on |decoder(z) - x|^2; the nearest image found is the purified one. Nothing of the image is left
    but what the decoder can say, and no encoder can be fooled.

    The search is not differentiated: it declares `differentiable = False`, and in the backward pass
    of `BPDA()` the identity stands for it.

    Deviations: the decoder is a PuVAE's, searched for every class at once, in place of a GAN's
    generator; the descent is Adam's, with a rate that falls to 0 as a cosine, whose steps do not
    depend on the size of the images; by default the starts are the same for all images, so that an
    image has one answer.

    Args:
        generator: the PuVAE whose decoder is searched; a trained one, or `fit` trains it.
        steps: of the descent; 200 in the paper.
        restarts: how many starts for each class; 10 in the paper, for all images.
        learning_rate: of Adam, in units of the latent's standard deviation.
        fresh: draw new starts for each image and each pass, which makes it stochastic.
        seed: of the starts, where they are not fresh.

    Raises:
        ConfigurationError: the generator is no PuVAE, steps or restarts is less than 1, or the
            learning rate is not positive.
    """

    differentiable: ClassVar[bool] = False
    needs_classifier = True
    paper = "Samangouei et al. 2018"
    fit_cost = "its generator's"
    query_cost = "F + B of the decoder a step, class and restart, 200 K by default"

    generator: PuVAE
    starts: torch.Tensor

    def __init__(
        self,
        *,
        generator: PuVAE | Mapping[str, Any],
        steps: int = 200,
        restarts: int = 1,
        learning_rate: float = 0.1,
        fresh: bool = False,
        seed: int = 0,
    ) -> None:
        check_whole(steps=steps, restarts=restarts)
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise ConfigurationError(f"learning_rate has to be > 0; got {learning_rate!r}.")
        super().__init__()
        self.generator = given_or_rebuilt(generator, PuVAE, "generator")
        self.shape = self.generator.shape
        self.steps, self.restarts, self.learning_rate = steps, restarts, learning_rate
        self.fresh, self.seed = fresh, seed
        chance = torch.Generator().manual_seed(derived_seed(seed, "starts"))
        self.register_buffer(
            "starts", torch.randn(restarts, self.generator.latent, generator=chance)
        )

    @property
    def stochastic(self) -> bool:
        """Whether its starts are drawn anew each time."""
        return self.fresh

    @property
    def fitted(self) -> bool:
        """Whether the generator was trained."""
        return self.generator.fitted

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, the generator by its description."""
        return {
            "generator": self.generator.description(),
            "steps": self.steps,
            "restarts": self.restarts,
            "learning_rate": self.learning_rate,
            "fresh": self.fresh,
            "seed": self.seed,
        }

    def make_networks(self, shape: Shape) -> None:
        """Makes the generator's network."""
        self.generator.build(shape)

    def require(self, x: torch.Tensor) -> None:
        """Checks that the generator was trained on images of this shape.

        Raises:
            NotFittedError: it was not trained.
            InputError: the images are of another shape than those it was trained on.
        """
        self.generator.require(x)

    def fit(
        self,
        data: Images | tuple[torch.Tensor, torch.Tensor],
        *,
        classifier: Classifier | None = None,
        recipe: Recipe | None = None,
        checkpoint: str | Path | None = None,
        accelerator: Accelerator | None = None,
        progress: bool = True,
    ) -> History:
        """Trains the generator; see `PuVAE.fit`. With a trained one there is no need to."""
        history = self.generator.fit(
            data,
            classifier=classifier,
            recipe=recipe,
            checkpoint=checkpoint,
            accelerator=accelerator,
            progress=progress,
        )
        self.shape = self.generator.shape
        self.to(self.generator.trained.device).eval()
        return history

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest image that was found, (B, C, H, W) in [0,1], without gradients."""
        # a caller in inference mode hands in tensors that no graph may hold: work on a copy
        with torch.inference_mode(False), torch.no_grad():
            images = as_weights(self.generator, x.detach().clone())
            starts = self._starts(images)
            several = max(1, CANDIDATES // (self.generator.classes * self.restarts))
            found = [
                self._nearest(some, start)
                for some, start in zip(
                    torch.split(images, several), torch.split(starts, several), strict=True
                )
            ]
            return torch.cat(found).to(x.dtype)

    def _starts(self, x: torch.Tensor) -> torch.Tensor:
        """Where the search of each image begins, (B, K, restarts, latent)."""
        own = (self.generator.classes, self.restarts, self.generator.latent)
        if not self.fresh:
            return self.starts.to(x.dtype).expand(len(x), *own)
        streams = own_streams(len(x))
        if streams is None:
            return torch.randn(len(x), *own, dtype=x.dtype, device=x.device)
        return streams.normal(own, dtype=x.dtype)

    def _nearest(self, x: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """The nearest image that each search ends at, (B, C, H, W)."""
        classes = torch.arange(self.generator.classes, device=x.device)
        y = classes.repeat_interleave(self.restarts).repeat(len(x))
        z = starts.reshape(len(y), -1).clone().requires_grad_()
        descent = torch.optim.Adam([z], lr=self.learning_rate)
        for step in range(self.steps):
            share = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            descent.param_groups[0]["lr"] = self.learning_rate * share
            with torch.enable_grad():
                _, errors = self._candidates(z, y, x)
                (z.grad,) = torch.autograd.grad(errors.sum(), z)
            descent.step()
        images, errors = self._candidates(z, y, x)
        return images[torch.arange(len(x), device=x.device), errors.argmin(dim=1)]

    def _candidates(
        self, z: torch.Tensor, y: torch.Tensor, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is decoded for each image, (B, N, C, H, W), and its squared errors, (B, N)."""
        decoded = torch.sigmoid(self.generator.network.decode(z, y))
        images = decoded.view(len(x), -1, *x.shape[1:])
        return images, (images - x[:, None]).square().flatten(2).sum(dim=2)
