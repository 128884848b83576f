"""A defence put into a trained network without training it again."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from notsure.classifier import Classifier
from notsure.core.checks import check_labels, content_keys
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.randomness import Streams, drawing_from
from notsure.core.state import undisturbed
from notsure.data import Images
from notsure.data.stream import Stream
from notsure.models import with_jump_relu

TOLERANCE = 0.01
"""The bisection ends where kappa is known to this share of itself."""

_SMALLEST = 1e-6
"""... or to be less than this share of the largest activation."""

_SEED = 0


def retrofit(
    classifier: Classifier,
    data: Images | tuple[torch.Tensor, torch.Tensor],
    *,
    accuracy_loss: float = 0.01,
    spread: float = 0.0,
    batch_size: int = 256,
) -> Classifier:
    """The classifier with JumpReLU, its kappa as large as accuracy allows (see `with_jump_relu`).

    kappa is found by bisection between 0 and the largest activation of the network on these images,
    to within 1 % of itself. Accuracy need not fall steadily as kappa grows: the limit is kept at
    the kappa that is found, and broken within 1 % above it. With a spread, one draw an image is
    measured, the same for every kappa.

    Deviation: martin 9.4 chose kappa by trial and error, on what and for what loss is not said.

    Args:
        classifier: a trained classifier; it is left as it is.
        data: images with labels, or tensors (N, C, H, W) in [0,1] and (N,), which the network was
            not trained on.
        accuracy_loss: by what share of these images accuracy may fall, in [0, 1).
        spread: of the JumpReLU.
        batch_size: how many images are looked at at a time.

    Returns:
        A new classifier with the same weights and preprocessing.

    Raises:
        ConfigurationError: the network has no nn.ReLU, a setting is out of range, or no kappa costs
            more accuracy (or every one does).
        InputError: images or labels are not what they have to be.
    """
    if not 0 <= accuracy_loss < 1:
        raise ConfigurationError(
            f"accuracy_loss is a share of the images, in [0, 1); got {accuracy_loss!r}."
        )
    measure = _Accuracy(classifier, data, batch_size)
    allowed = measure(classifier) - accuracy_loss * measure.count - 1e-9

    def jumping(kappa: float) -> Classifier:
        changed = copy.deepcopy(classifier)
        changed.module = with_jump_relu(classifier.module, kappa, spread)
        return changed

    if measure(jumping(0.0)) < allowed:
        raise ConfigurationError(
            f"spread={spread:g} costs more accuracy than accuracy_loss={accuracy_loss:g} by "
            "itself, with kappa = 0: lower the spread, or allow a larger loss."
        )
    top = measure.largest_activation(classifier)
    low, high = 0.0, top
    if measure(jumping(high)) >= allowed:
        raise ConfigurationError(
            f"Even with every activation cut off (kappa = {high:.3g}) accuracy falls by no more "
            f"than accuracy_loss={accuracy_loss:g}: give images of every class, or allow less."
        )
    while high - low > TOLERANCE * high and high > _SMALLEST * top:
        middle = (low + high) / 2
        if measure(jumping(middle)) >= allowed:
            low = middle
        else:
            high = middle
    return jumping(low)


class _Accuracy:
    """How many images a classifier gets right, always measured on the same ones.

    Attributes:
        count: how many images there are.
    """

    def __init__(
        self,
        classifier: Classifier,
        data: Images | tuple[torch.Tensor, torch.Tensor],
        batch_size: int,
    ) -> None:
        self.stream = Stream.of(data) if isinstance(data, Images) else Stream.of(*data)
        self.batch_size, self.count = batch_size, len(self.stream)
        if self.stream.labels is None:
            raise InputError("Accuracy takes labels: give images with theirs, or (x, y).")
        classifier.check(self.stream.sample())
        self.labels = check_labels(self.stream.labels, count=self.count).to(classifier.device)

    def __call__(self, classifier: Classifier) -> int:
        """The number of images that it gets right."""
        right = start = 0
        with undisturbed(classifier, classifier.device), torch.inference_mode():
            for batch in self.stream.batches(self.batch_size, classifier.device):
                with self._draws(classifier, batch):
                    prediction = classifier.logits(batch).argmax(dim=1)
                right += int((prediction == self.labels[start : start + len(batch)]).sum())
                start += len(batch)
        return right

    def largest_activation(self, classifier: Classifier) -> float:
        """The largest value that enters a ReLU."""
        largest = [0.0]

        def look(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            largest[0] = max(largest[0], float(inputs[0].max()))

        units = [part for part in classifier.modules() if isinstance(part, nn.ReLU)]
        handles = [unit.register_forward_pre_hook(look) for unit in units]
        try:
            self(classifier)
        finally:
            for handle in handles:
                handle.remove()
        return largest[0]

    def _draws(self, classifier: Classifier, batch: torch.Tensor) -> AbstractContextManager[None]:
        if not classifier.stochastic:
            return nullcontext()
        return drawing_from(Streams.of(content_keys(batch), _SEED))
