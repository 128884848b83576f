"""How far an image is from its reconstruction, in pixels and in what the classifier says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)

from notsure.core.errors import ConfigurationError, UnsupportedError
from notsure.core.part import given_or_rebuilt
from notsure.detectors.base import Detector
from notsure.observation import Observation
from notsure.purifiers.base import Purifier


class _OfReconstruction(Detector):
    """A detector that compares an image with its reconstruction.

    Args:
        of: what reconstructs it; None for the purifier of the guard.
    """

    of: Purifier | None

    def __init__(self, *, of: Purifier | Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.of = None if of is None else given_or_rebuilt(of, Purifier, "of")

    @property
    def fitted(self) -> bool:
        """Whether the purifier that was given is trained; a guard looks after its own."""
        return self.of is None or self.of.fitted

    def require_fitted(self) -> None:
        """Raises NotFittedError unless the purifier that was given is trained."""
        if self.of is not None:
            self.of.require_fitted()

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"of": None if self.of is None else self.of.description()}

    def update(self, observation: Observation, y: torch.Tensor) -> None:
        """Learns nothing; a guard that cannot be scored is refused while it is fitted."""
        self.require_reconstruction(observation)

    def require_reconstruction(self, observation: Observation) -> None:
        """Checks that there is something to compare an image with.

        Raises:
            UnsupportedError: no purifier was given, and the guard has none.
            NotFittedError: the purifier that was given is not trained.
        """
        if self.of is None and not observation.purifies:
            raise UnsupportedError(
                f"{type(self).__name__} compares an image with what the guard's purifier makes of "
                f"it, and the guard has none: give the guard one, or a trained one to the detector "
                f"alone, {type(self).__name__}(of=purifier)."
            )
        self.require_fitted()

    def reconstruction(self, observation: Observation) -> torch.Tensor:
        """The reconstructed images (B, C, H, W)."""
        self.require_reconstruction(observation)
        if self.of is None:
            return observation.purified
        images: torch.Tensor = self.of(observation.x)
        return images


class ReconstructionError(_OfReconstruction):
    """The distance of an image from its reconstruction, a mean over its pixel values.

    Wester & Thisted 2020, section 4: the root-mean-square error of the best PuVAE reconstruction,
    which is what the guard's purifier hands on. Meng & Chen 2017 (MagNet): the distance to what an
    autoencoder makes of the image, which is given as `of`.

    Args:
        of: what reconstructs the image, a trained purifier; None for the purifier of the guard.
        p: 2 for the root-mean-square error, 1 for the mean absolute error.

    Raises:
        ConfigurationError: `of` is no purifier, or p is neither 1 nor 2.
    """

    paper = "wester 4; Meng & Chen 2017"
    query_cost = "a reconstruction, none where it is the guard's own purifier's"

    def __init__(self, *, of: Purifier | Mapping[str, Any] | None = None, p: int = 2) -> None:
        super().__init__(of=of)
        if p not in (1, 2):
            raise ConfigurationError(
                f"p is 2 (root-mean-square error) or 1 (mean absolute error); got {p!r}."
            )
        self.p = p

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().settings(), "p": self.p}

    def score(self, observation: Observation) -> torch.Tensor:
        """(B,), in [0,1] pixel units; its gradient is 0 where the error is.

        Raises:
            UnsupportedError: no purifier was given, and the guard has none.
            NotFittedError: the purifier that was given is not trained.
        """
        error = (observation.x - self.reconstruction(observation)).flatten(1)
        # unlike the square root of a mean, a norm has a gradient at 0
        size: torch.Tensor = torch.linalg.vector_norm(error, ord=self.p, dim=1)
        mean: torch.Tensor = size / error.shape[1] ** (1 / self.p)
        return mean


class ProbabilityDivergence(_OfReconstruction):
    """The Jensen-Shannon divergence between what is said of an image and of its reconstruction.

    Meng & Chen 2017 (MagNet), section 4.1.2. The probabilities are the softmax of the bare
    classifier's logits over a temperature.

    Args:
        of: what reconstructs the image, a trained purifier; None for the purifier of the guard.
        temperature: the logits are divided by it; the paper takes 10 and 40, since the softmax of
            a confident network is saturated at 1.

    Raises:
        ConfigurationError: `of` is no purifier, or the temperature is not positive.
    """

    paper = "Meng & Chen 2017"
    query_cost = "F and a reconstruction, none where it is the guard's own purifier's"

    def __init__(
        self, *, of: Purifier | Mapping[str, Any] | None = None, temperature: float = 10.0
    ) -> None:
        super().__init__(of=of)
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ConfigurationError(f"temperature has to be > 0 and finite; got {temperature!r}.")
        self.temperature = temperature

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().settings(), "temperature": self.temperature}

    def score(self, observation: Observation) -> torch.Tensor:
        """(B,), in nats: between 0 and log 2, up to rounding.

        Raises:
            UnsupportedError: no purifier was given, and the guard has none.
            NotFittedError: the purifier that was given is not trained.
        """
        images = self.reconstruction(observation)
        # what the guard's own purifier makes of an image has been looked at already
        logits = observation.logits if self.of is None else observation.classifier.logits(images)
        first = F.log_softmax(observation.bare_logits / self.temperature, dim=1)
        second = F.log_softmax(logits / self.temperature, dim=1)
        mean = torch.logaddexp(first, second) - math.log(2)
        halves = first.exp() * (first - mean) + second.exp() * (second - mean)
        return halves.sum(dim=1) / 2
