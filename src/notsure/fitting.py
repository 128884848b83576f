"""How a guard's parts come to know the training data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from notsure.attacks.base import Attack
from notsure.core.checks import check_labels
from notsure.core.errors import ConfigurationError, InputError
from notsure.core.progress import progress_bar
from notsure.core.state import undisturbed
from notsure.correctors.base import Corrector
from notsure.data.stream import Stream
from notsure.detectors.base import Detector

if TYPE_CHECKING:
    from notsure.guard import Guard


def fit_parts(
    guard: Guard,
    stream: Stream,
    attack: Attack | None,
    *,
    examples: int,
    batch_size: int,
    shown: bool,
) -> None:
    """Fits detectors and corrector; see `Guard.fit`.

    The clean images come in one pass for all detectors; a second one, over some of the images and
    what the attack makes of them, is for those that learn from adversarial examples.
    """
    detectors = [detector for _, detector in guard.named_detectors()]
    learners = learners_of(detectors, guard.corrector)
    if learners and attack is None:
        names = ", ".join(type(part).__name__ for part in learners)
        raise ConfigurationError(
            f"{names} learns from adversarial examples: say which attack makes them, such as "
            "guard.fit(x_train, y_train, attack=notsure.attacks.FGSM(eps=0.3))."
        )
    if guard.purifier is not None:
        guard.purifier.require_fitted()
    if stream.labels is None:
        raise InputError("Fitting takes labels: guard.fit(x_train, y_train).")
    device = guard.classifier.device
    labels = check_labels(stream.labels, count=len(stream)).to(device)
    learns = any(detector.needs_fit for detector in detectors)
    # one batch shows how many classes there are, which is all that the others need
    count = len(stream) if learns else min(batch_size, len(stream))
    start = num_classes = 0
    for part in (*detectors, *learners):
        part.begin()
    with (
        undisturbed(guard, device),
        torch.inference_mode(),
        progress_bar("fitting the guard", count, shown=shown) as advance,
    ):
        for batch in stream.batches(batch_size, device):
            observation = guard.observe(batch)
            if start == 0:
                num_classes = observation.logits.shape[1]
                check_labels(labels, count=len(stream), num_classes=num_classes)
            for detector in detectors:
                detector.update(observation, labels[start : start + len(batch)])
            advance(len(batch), "")
            start += len(batch)
            if start >= count:
                break
    with torch.inference_mode(False), torch.no_grad():
        for detector in detectors:
            detector.finish(num_classes)
    if learners and attack is not None:
        every = max(1, len(stream) // examples)
        _learn(guard, learners, stream, labels, attack, every, batch_size)
        with torch.inference_mode(False), torch.no_grad():
            for part in learners:
                part.finish_learning(num_classes)


def learners_of(
    detectors: list[Detector], corrector: Corrector | None
) -> list[Detector | Corrector]:
    """The parts that learn from adversarial examples."""
    parts: list[Detector | Corrector] = [*detectors]
    if corrector is not None:
        parts.append(corrector)
    return [part for part in parts if part.needs_adversarial]


def _learn(
    guard: Guard,
    learners: list[Detector | Corrector],
    stream: Stream,
    labels: torch.Tensor,
    attack: Attack,
    every: int,
    batch_size: int,
) -> None:
    """Shows the learners what the attack makes of every so many training images."""
    start = 0
    for batch in stream.batches(batch_size, guard.classifier.device):
        own = torch.arange(len(batch), device=batch.device)[-start % every :: every]
        x, y = batch[own], labels[start : start + len(batch)][own]
        start += len(batch)
        if len(own) == 0:
            continue
        found = attack(guard.classifier, x, y)
        with undisturbed(guard, x.device), torch.inference_mode():
            clean, attacked = guard.observe(x), guard.observe(found.x)
            for part in learners:
                part.learn(clean, attacked, y, found.success)
