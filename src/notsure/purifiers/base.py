"""What every purifier is: a map from images to cleaner images, trained before it is used."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch

from notsure.classifier import Classifier
from notsure.core.checks import check_images
from notsure.core.errors import CheckpointError, ConfigurationError, InputError, NotFittedError
from notsure.core.part import Part, rebuilt
from notsure.core.storage import load_tensors, save_tensors
from notsure.data import Images
from notsure.training.loop import History
from notsure.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

P = TypeVar("P", bound="Purifier")

_KIND = "purifier"

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


class Purifier(Part):
    """Maps images in [0,1] to cleaner ones of the same shape.

    It is trained once, by `fit`, on clean images, and may then stand before any classifier of such
    images: `Guard(classifier, detectors, purifier=purifier)`. A guard does not train it.

    Args:
        shape: channels, height and width of the images, where they are known already; otherwise
            `fit` reads them off the data.
    """

    needs_classifier: ClassVar[bool] = False
    """Whether its training takes a classifier that stays as it is."""

    trained: torch.Tensor

    def __init__(self, *, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape: Shape | None = None
        self.register_buffer("trained", torch.zeros((), dtype=torch.bool))
        if shape is not None:
            # a saved description holds a list
            self.build(_checked(tuple(shape)))

    @abstractmethod
    def make_networks(self, shape: Shape) -> None:
        """Makes its networks for images of this shape, as submodules."""

    @abstractmethod
    def purify(self, x: torch.Tensor) -> torch.Tensor:
        """The cleaner images, (B, C, H, W) in [0,1]; the shape was checked."""

    @abstractmethod
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
        """Trains it in place, resumably (see `notsure.training.train`), and leaves it ready.

        Args:
            data: clean training images, or tensors (N, C, H, W) in [0,1] and labels (N,).
            classifier: the classifier, for those that need one; it is left as it was.
            recipe: optimizer, schedule and so on; by default one that suits it.
            checkpoint: a safetensors file to write to and to resume from; None for none.
            accelerator: an `accelerate.Accelerator`, to train on several devices or hosts.
            progress: whether to show a progress bar.

        Returns:
            How the training went.

        Raises:
            ConfigurationError: a classifier is missing, or a setting does not fit the images.
        """

    @property
    def fitted(self) -> bool:
        """Whether it was trained."""
        return bool(self.trained)

    def build(self, shape: Shape) -> None:
        """Makes the networks for images of this shape, unless they are there.

        Raises:
            InputError: they are there for another shape.
        """
        if self.shape is None:
            self.make_networks(shape)
            self.shape = shape
        elif self.shape != shape:
            raise InputError(
                f"This {type(self).__name__} is made for images of shape {self.shape}; these have "
                f"{shape}: fit another one for them."
            )

    def require_fitted(self) -> None:
        """Raises NotFittedError unless it was trained."""
        if not self.fitted:
            raise NotFittedError(
                f"{type(self).__name__} was not trained: call purifier.fit(images) first."
            )

    def require(self, x: torch.Tensor) -> None:
        """Checks that it can purify these images (B, C, H, W).

        Raises:
            NotFittedError: it was not trained.
            InputError: the images are of another shape than those it was trained on.
        """
        self.require_fitted()
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(
                f"This {type(self).__name__} was trained on images of shape {self.shape}; these "
                f"have {tuple(x.shape[1:])}: fit another one for them."
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (B, C, H, W) in [0,1] to cleaner ones.

        Raises:
            NotFittedError: it was not trained.
            InputError: the images are of another shape than those it was trained on.
        """
        self.require(x)
        return self.purify(x)

    def save(self, path: str | Path) -> None:
        """Writes it to one safetensors file, atomically.

        Raises:
            NotFittedError: it was not trained.
        """
        if not self.fitted:
            raise NotFittedError(
                f"{type(self).__name__} was not trained: there is nothing to save."
            )
        save_tensors(path, self.state_dict(), note={"kind": _KIND, **self.description()})

    @classmethod
    def load(cls: type[P], path: str | Path) -> P:
        """Reads one that `save` wrote; it is on the CPU.

        Args:
            path: the file.

        Returns:
            The purifier.

        Raises:
            CheckpointError: the file is missing, damaged, or holds none of this kind.
        """
        tensors, note = load_tensors(path)
        if note.get("kind") != _KIND:
            raise CheckpointError(f"{str(path)!r} holds no purifier: give another path.")
        try:
            return rebuilt(note, cls, tensors)
        except (KeyError, TypeError, ConfigurationError) as error:
            raise CheckpointError(
                f"{str(path)!r} was changed or is of another version of notsure ({error}): save "
                "the purifier again."
            ) from error


def shape_of(data: Images | tuple[torch.Tensor, torch.Tensor]) -> Shape:
    """Channels, height and width of the images of a data set.

    Raises:
        InputError: they are no images in [0,1].
    """
    pixels = data.pixels[:1].float() / 255 if isinstance(data, Images) else data[0]
    check_images(pixels)
    return int(pixels.shape[1]), int(pixels.shape[2]), int(pixels.shape[3])


def _checked(shape: tuple[int, ...]) -> Shape:
    if len(shape) != 3 or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ConfigurationError(
            f"shape is channels, height and width of an image, such as (1, 28, 28); got {shape!r}."
        )
    return shape[0], shape[1], shape[2]
