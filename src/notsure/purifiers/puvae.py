"""PuVAE: an image becomes the nearest of its reconstructions as each of the classes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from notsure.classifier import Classifier
from notsure.core.checks import check_labels
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.state import derived_seed, seeded, undisturbed, weights_hash
from notsure.data import Images
from notsure.purifiers.base import Purifier, Shape, shape_of
from notsure.purifiers.common import (
    as_weights,
    check_weights,
    check_whole,
    identity_of,
    laid_out,
)
from notsure.purifiers.conditional import (
    ArchitectureName,
    ConditionalAutoencoder,
    Terms,
    divergence_from_standard,
    pixel_cross_entropy,
)
from notsure.training.loop import History, Loop, Step
from notsure.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

PRINTED_RECIPES: dict[ArchitectureName, Recipe] = {
    "C": Recipe(epochs=350, batch_size=512, optimizer="adamw", learning_rate=1e-3, weight_decay=0),
    "D": Recipe(epochs=1024, batch_size=256, optimizer="adamw", learning_rate=1e-3, weight_decay=0),
}
"""Epochs and batches as wester's table 2 prints them; optimizer and rate are not printed."""


class PuVAE(Purifier):
    """Reconstructs an image as each of the K classes and passes on the one nearest to it.

    Hwang et al. 2019, as Wester & Thisted 2020 describe it (section 3.1, table 6): a conditional
    variational autoencoder, trained on clean images with their labels to minimise

        reconstruction_weight * (binary cross-entropy of the pixels, summed)
        + kl_weight * KL(q(z|x,y) || N(0, 1))
        + classifier_weight * (the classifier's cross-entropy on the reconstruction).

    The classifier stays as it is. At inference the image is reconstructed as every class at once,
    and the reconstruction of the least root-mean-square error to the image is the purified one.
    Gradients go through it, while the choice itself is constant almost everywhere: an attack by
    gradients alone may miss what changes the choice, so put oblivious and query attacks beside it.

    The report names a reconstruction error without its form: the cross-entropy of a pixel is minus
    the log-likelihood of equation 1 for pixels in [0,1], and unlike the squared error its gradient
    does not vanish where the decoder's sigmoid saturates. Nor does it print the weights. With 1 and
    1 the first two terms are the negative variational bound; a lower kl_weight lets z say more of
    the image, as it has to for the report's error of 0.04 on clean MNIST.

    Deviations: at inference the posterior's mean stands for a draw from it, so that an image has
    one answer; see also `ConditionalAutoencoder`.

    Args:
        latent: dimensions of z; 32 for MNIST, 128 for Fashion-MNIST, 1024 for CIFAR-10 in the
            report.
        architecture: "C" or "D" of table 6; None for C on grey images and D on others.
        width: filters of the convolutions, 32 in the table.
        dense: units of the dense layers that have 1024 in the table.
        reconstruction_weight: of the first term, at least 0.
        kl_weight: of the second.
        classifier_weight: of the third.
        num_classes: K; `fit` reads it off the classifier.
        seed: of the initial weights.
        shape: channels, height and width of the images; `fit` reads it off the data.

    Raises:
        ConfigurationError: a size is less than 1, a weight negative, all weights are 0, there is no
            such architecture, or a shape is given without num_classes.
    """

    needs_classifier = True
    paper = "Hwang et al. 2019; wester 3.1"
    fit_cost = "F + B of itself and of the classifier an image and epoch"
    query_cost = "F of its encoder twice, of its decoder K + 1 times"

    network: ConditionalAutoencoder

    def __init__(
        self,
        *,
        latent: int = 32,
        architecture: ArchitectureName | None = None,
        width: int = 32,
        dense: int = 1024,
        reconstruction_weight: float = 1.0,
        kl_weight: float = 0.1,
        classifier_weight: float = 10.0,
        num_classes: int | None = None,
        seed: int = 0,
        shape: Shape | None = None,
    ) -> None:
        check_whole(latent=latent, width=width, dense=dense)
        check_weights(
            reconstruction_weight=reconstruction_weight,
            kl_weight=kl_weight,
            classifier_weight=classifier_weight,
        )
        if reconstruction_weight == 0 and classifier_weight == 0:
            raise ConfigurationError(
                "Without reconstruction_weight and classifier_weight nothing is learnt of the "
                "images: give one of them."
            )
        if architecture is not None and architecture not in get_args(ArchitectureName):
            raise ConfigurationError(
                f"architecture is {' or '.join(get_args(ArchitectureName))}, or None for the one "
                f"that suits the images; got {architecture!r}."
            )
        if num_classes is not None and num_classes < 2:
            raise ConfigurationError(f"num_classes is at least 2; got {num_classes!r}.")
        # before nn.Module's own, which ends in building the network from them
        self.latent, self.architecture, self.width, self.dense = latent, architecture, width, dense
        self.reconstruction_weight, self.kl_weight = reconstruction_weight, kl_weight
        self.classifier_weight = classifier_weight
        self.num_classes, self.seed = num_classes, seed
        super().__init__(shape=shape)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "latent": self.latent,
            "architecture": self.architecture,
            "width": self.width,
            "dense": self.dense,
            "reconstruction_weight": self.reconstruction_weight,
            "kl_weight": self.kl_weight,
            "classifier_weight": self.classifier_weight,
            "num_classes": self.num_classes,
            "seed": self.seed,
            "shape": None if self.shape is None else list(self.shape),
        }

    @property
    def classes(self) -> int:
        """K.

        Raises:
            ConfigurationError: it is not known yet.
        """
        if self.num_classes is None:
            raise ConfigurationError(
                "How many classes there are is not known: give num_classes with a shape, or leave "
                "both out, and fit reads them off the classifier and the images."
            )
        return self.num_classes

    def make_networks(self, shape: Shape) -> None:
        """Makes the autoencoder.

        Raises:
            ConfigurationError: how many classes there are is not known.
        """
        with seeded(derived_seed(self.seed, "puvae")):
            network = ConditionalAutoencoder(
                shape,
                num_classes=self.classes,
                latent=self.latent,
                architecture=self._suitable(shape),
                width=self.width,
                dense=self.dense,
            )
        self.network = laid_out(network, self.trained.device)

    def _suitable(self, shape: Shape) -> ArchitectureName:
        return self.architecture or ("C" if shape[0] == 1 else "D")

    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The nearest reconstruction, (B, C, H, W) in [0,1]."""
        # all classes only to choose: a gradient needs the graph of the chosen one alone
        return self._as_class(x, self._nearest(x))

    def closest(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The class whose reconstruction is nearest to each image, and how far it is.

        Args:
            x: images (B, C, H, W) in [0,1].

        Returns:
            The class, int64 (B,), and the root-mean-square error over the pixels, (B,), with
            gradients to `x`.

        Raises:
            NotFittedError: it was not trained.
            InputError: the images are of another shape than those it was trained on.
        """
        self.require(x)
        nearest = self._nearest(x)
        error = (self._as_class(x, nearest) - x).flatten(1)
        # the norm's derivative at 0 is 0, a root's would not be finite
        return nearest, torch.linalg.vector_norm(error, dim=1) / math.sqrt(error.shape[1])

    def reconstructions(self, x: torch.Tensor) -> torch.Tensor:
        """The images as each class, (B, K, C, H, W) in [0,1].

        Raises:
            NotFittedError: it was not trained.
            InputError: the images are of another shape than those it was trained on.
        """
        self.require(x)
        return self._as_every_class(x)

    def _nearest(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            error = self._as_every_class(x) - x[:, None]
            return error.square().flatten(2).sum(dim=2).argmin(dim=1)

    def _as_class(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        network = self.network
        mean, _ = network.posterior(network.look(as_weights(network, x)), y)
        return torch.sigmoid(network.decode(mean, y)).to(x.dtype)

    def _as_every_class(self, x: torch.Tensor) -> torch.Tensor:
        network, count = self.network, self.classes
        looked = network.look(as_weights(network, x)).repeat_interleave(count, dim=0)
        y = torch.arange(count, device=x.device).repeat(len(x))
        mean, _ = network.posterior(looked, y)
        images = torch.sigmoid(network.decode(mean, y))
        return images.view(len(x), count, *x.shape[1:]).to(x.dtype)

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
        """Trains it in place, resumably.

        Args:
            data: clean training images, or tensors (N, C, H, W) in [0,1], and labels (N,).
            classifier: the trained classifier, on the same device; it is left as it was.
            recipe: optimizer, schedule and so on; by default `PRINTED_RECIPES`, which take long.
            checkpoint: a safetensors file to write to and to resume from; None for none.
            accelerator: an `accelerate.Accelerator`, to train on several devices or hosts.
            progress: whether to show a progress bar.

        Returns:
            The loss of each epoch, and as accuracy the share of the reconstructions that the
            classifier gets right.

        Raises:
            ConfigurationError: the classifier is missing, on another device, or has another number
                of classes than this purifier.
            InputError: images or labels are not what they have to be, or a class has no image.
            CheckpointError: the checkpoint is damaged, or belongs to another training.
            NotSureError: the loss is not finite any more.
        """
        if not isinstance(classifier, Classifier):
            raise ConfigurationError(
                f"{type(self).__name__} learns from what a trained classifier says of its "
                "reconstructions: purifier.fit(images, classifier=classifier), a "
                "notsure.Classifier."
            )
        shape = shape_of(data)
        self._learn_classes(classifier, data)
        self.build(shape)
        # it is not to be used again before the training is whole
        self.trained = torch.zeros_like(self.trained)

        def loss(step: Step) -> tuple[torch.Tensor, float]:
            terms = self.terms(step, classifier)
            return self.weighted(terms), float((terms.answers.argmax(dim=1) == step.y).sum())

        loop = Loop(
            self.network,
            self.network,
            data,
            channels=shape[0],
            loss=loss,
            name=type(self).__name__,
            recipe=recipe or PRINTED_RECIPES[self._suitable(shape)],
            identity={
                "purifier": identity_of(self),
                "classifier": weights_hash(classifier),
                "preprocessing": json.dumps(classifier.settings(), sort_keys=True),
            },
            checkpoint=checkpoint,
            accelerator=accelerator,
        )
        if not _same(loop.device, classifier.device):
            raise ConfigurationError(
                f"The purifier is trained on {loop.device} and the classifier is on "
                f"{classifier.device}: move one of them, such as purifier.to(classifier.device)."
            )
        self.to(loop.device)
        with undisturbed(classifier, loop.device):
            history = loop.run(shown=progress)
        self.trained = torch.ones_like(self.trained)
        self.eval()
        return history

    def _learn_classes(
        self, classifier: Classifier, data: Images | tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Reads K off the classifier and checks the labels against it."""
        pixels = data.pixels[:2].float() / 255 if isinstance(data, Images) else data[0][:2]
        sample = classifier.check(pixels.to(classifier.device))
        with undisturbed(classifier, sample.device), torch.inference_mode():
            count = classifier.logits(sample).shape[1]
        if self.num_classes not in (None, count):
            raise ConfigurationError(
                f"This {type(self).__name__} is made for {self.num_classes} classes, the "
                f"classifier has {count}: make another one for it."
            )
        y, number = (
            (data.labels, len(data)) if isinstance(data, Images) else (data[1], len(data[0]))
        )
        labels = check_labels(y, count=number, num_classes=count)
        missing = (torch.bincount(labels, minlength=count) == 0).nonzero().flatten().tolist()
        if missing:
            raise InputError(
                f"{type(self).__name__} reconstructs every image as each class, and class "
                f"{missing[0]} of {count} has no image to learn from: fit it on data in which each "
                "class occurs."
            )
        self.num_classes = count

    def terms(self, step: Step, classifier: Classifier) -> Terms:
        """What is minimised of a training step's images, before it is weighted.

        Args:
            step: the images and labels of a training step, and the network in training.
            classifier: whose answers are to be kept.
        """
        # a recipe may add noise, and a pixel's cross-entropy is that of a number in [0,1]
        x, y = step.x.clamp(0, 1), step.y
        noise = torch.randn(len(x), self.latent, dtype=x.dtype, device=x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=step.bf16):
            found = step.network(as_weights(self.network, x), y, as_weights(self.network, noise))
        mean, deviation, logits = (value.to(x.dtype) for value in found)
        return Terms(
            reconstruction=pixel_cross_entropy(logits, x),
            kl=divergence_from_standard(mean, deviation),
            answers=classifier.logits(torch.sigmoid(logits)),
            y=y,
        )

    def weighted(self, terms: Terms) -> torch.Tensor:
        """The weighted sum of the terms, (B,)."""
        return (
            self.reconstruction_weight * terms.reconstruction
            + self.kl_weight * terms.kl
            + self.classifier_weight * terms.classification
        )


def _same(device: torch.device, other: torch.device) -> bool:
    """Whether both are one device; a CPU may have a number or none."""
    return device.type == other.type and (device.type == "cpu" or device.index == other.index)
