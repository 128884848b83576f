"""Whether a model gets its images as it was trained on them: clean accuracy, and likely causes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from notsure.adapters import Loaded
from notsure.classifier import Classifier
from notsure.core.errors import InputError
from notsure.core.state import undisturbed
from notsure.data import Images
from notsure.evaluation import Rate, wilson
from notsure.evaluation.sanity import CHANCE_MARGIN

FEWEST = 30
"""Images, fewer than which tell nothing of whether a model gets them as it wants them."""

_LOOKED_AT = 200
_PLAUSIBLE = 0.5
"""An explanation is told as likely if it takes half of the way from chance to perfect."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Another way of giving a model its images, and what came of it.

    Attributes:
        what: the way, in words.
        remedy: what to change if it is the right one.
        accuracy: with it, over the images looked at.
    """

    what: str
    remedy: str
    accuracy: Rate


def clean_accuracy(loaded: Loaded, images: Images, *, batch_size: int) -> Rate:
    """The share of clean images that the bare classifier gets right, rejected or not."""
    answers = _predictions(loaded.classifier, images, batch_size, lambda x: x)
    return _rate(answers, images.labels)


def near_chance(accuracy: Rate, num_classes: int) -> bool:
    """Whether a model cannot be told from guessing, by the rule of the flag of that name."""
    chance = 1 / num_classes
    return accuracy.low <= chance + CHANCE_MARGIN * (1 - chance)


def require_skill(loaded: Loaded, images: Images, accuracy: Rate, *, batch_size: int) -> None:
    """Stops where a model gets no more images right than by guessing, with the likely causes.

    Raises:
        InputError: it does.
    """
    if not near_chance(accuracy, loaded.num_classes):
        return
    broken = _without_numbers(loaded.classifier, images, batch_size)
    if broken:
        raise InputError(
            f"{loaded.name} answers {broken} of {accuracy.n} clean images with NaN or infinity: "
            "its weights are damaged, or a layer divides by zero or overflows."
        )
    tried = explanations(loaded, images, batch_size=batch_size)
    chance = 1 / loaded.num_classes
    likely = [one for one in tried if one.accuracy.value > chance + _PLAUSIBLE * (1 - chance)]
    figures = "; ".join(f"{one.what}: {100 * one.accuracy.value:.1f} %" for one in tried)
    told = (
        f"{loaded.name} gets {100 * accuracy.value:.1f} % of {accuracy.n} clean images right, "
        f"where guessing gets {100 * chance:.1f} %: nothing is attacked, since no figure would "
        f"mean anything. Tried in its place: {figures}. "
    )
    if likely:
        best = max(likely, key=lambda one: one.accuracy.value)
        raise InputError(f"{told}The likely cause: {best.remedy}")
    raise InputError(
        f"{told}None of these explains it. Check that the data are what the model was trained for, "
        "and that the size is its own (--size); "
        + (
            f"{accuracy.n} images are few to tell it from guessing."
            if accuracy.n < FEWEST
            else "or the model is not trained."
        )
    )


def doubt_about(loaded: Loaded, images: Images, *, batch_size: int) -> str:
    """A sentence where another way of giving a model its images is clearly better; else empty."""
    images = _some(images)
    own = clean_accuracy(loaded, images, batch_size=batch_size)
    tried = explanations(loaded, images, batch_size=batch_size)
    best = max(tried, key=lambda one: one.accuracy.value)
    if best.accuracy.low <= own.high:
        return ""
    return (
        f"It may be given its images wrongly: of {own.n} clean images it gets "
        f"{100 * own.value:.1f} % right, and {100 * best.accuracy.value:.1f} % with "
        f"{best.what}. If so, {best.remedy}"
    )


def _some(images: Images) -> Images:
    """Enough of the images to tell; they are in no order that depends on the model."""
    rows = torch.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).long()
    return images.select(rows)


def explanations(loaded: Loaded, images: Images, *, batch_size: int) -> list[Tried]:
    """What a model does with its images scaled, ordered or numbered in other ways."""
    images = _some(images)
    own, labels = loaded.classifier, images.labels
    rgb = images.in_channels == 3

    def with_statistics(
        mean: float | tuple[float, ...], std: float | tuple[float, ...]
    ) -> torch.Tensor:
        other = Classifier(
            own.module,
            mean=mean,
            std=std,
            reverse_logits=own.reverse_logits,
            features=own.features_name,
        )
        return _predictions(other, images, batch_size, lambda x: x)

    ways: list[tuple[str, str, Callable[[], torch.Tensor]]] = [
        (
            "range 0..255",
            "it wants pixels in 0..255: --mean 0 --std 0.00392156862745098 (1/255).",
            lambda: with_statistics(0.0, 1 / 255),
        ),
        (
            "range [0, 1], no mean and std",
            "it wants pixels in [0,1] as they are: --mean 0 --std 1.",
            lambda: with_statistics(0.0, 1.0),
        ),
        (
            "range [-1, 1]",
            "it wants pixels in [-1,1]: --mean 0.5 --std 0.5.",
            lambda: with_statistics(0.5, 0.5),
        ),
        (
            "range [-0.5, 0.5]",
            "it wants pixels in [-0.5,0.5]: --mean 0.5 --std 1.",
            lambda: with_statistics(0.5, 1.0),
        ),
        (
            "black and white exchanged",
            "it was trained on images with black and white exchanged: exchange them in the data.",
            lambda: _predictions(own, images, batch_size, lambda x: 1 - x),
        ),
    ]
    if rgb:
        ways += [
            (
                "ImageNet's mean and std",
                "it wants ImageNet's statistics: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225.",
                lambda: with_statistics(*_IMAGENET),
            ),
            (
                "channels as blue, green, red",
                "it was trained on images whose channels are blue, green, red (as OpenCV reads "
                "them): exchange them in the data, or in a file path.py:build_model.",
                lambda: _predictions(own, images, batch_size, lambda x: x.flip(1)),
            ),
        ]
    tried = [
        Tried(what=what, remedy=remedy, accuracy=_rate(way(), labels)) for what, remedy, way in ways
    ]
    if loaded.num_classes == 2 and (halved := _above_half(own, images, batch_size)) is not None:
        tried.append(
            Tried(
                what="its answer as the probability of class 1",
                remedy="it yields the probability of class 1 where a logit is due: return "
                "torch.logit of it, in a file path.py:build_model.",
                accuracy=_rate(halved, labels),
            )
        )
    answers = _predictions(own, images, batch_size, lambda x: x)
    tried.append(
        Tried(
            what="classes in another order",
            remedy="the classes of model and data are in different orders: name them alike, or "
            "give the model's with class_names.",
            accuracy=_best_order(answers, labels),
        )
    )
    return tried


def _logits(classifier: Classifier, images: Images, batch_size: int) -> torch.Tensor:
    device = classifier.device
    with undisturbed(classifier, device), torch.inference_mode():
        return torch.cat(
            [classifier.logits(x.to(device)).cpu() for x, _ in images.batches(batch_size)]
        )


def _without_numbers(classifier: Classifier, images: Images, batch_size: int) -> int:
    """How many images are answered with NaN or infinity."""
    answers = _logits(classifier, images, batch_size)
    return int((~answers.isfinite()).any(dim=1).sum())


def _above_half(classifier: Classifier, images: Images, batch_size: int) -> torch.Tensor | None:
    """Where a single answer is above one half; None where answers are no probabilities."""
    logits = _logits(classifier, images, batch_size)
    # of a single logit the Classifier makes the two 0 and z
    single = logits[:, 1] - logits[:, 0]
    if not bool(((single >= 0) & (single <= 1)).all()):
        return None
    return (single > 0.5).long()


def _predictions(
    classifier: Classifier,
    images: Images,
    batch_size: int,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    device = classifier.device
    with undisturbed(classifier, device), torch.inference_mode():
        return torch.cat(
            [
                classifier.logits(change(x.to(device))).argmax(dim=1).cpu()
                for x, _ in images.batches(batch_size)
            ]
        )


def _rate(answers: torch.Tensor, labels: torch.Tensor) -> Rate:
    return wilson(int((answers == labels).sum()), len(labels))


def _best_order(answers: torch.Tensor, labels: torch.Tensor) -> Rate:
    """The accuracy if the classes were renumbered, chosen on one half and counted on the other."""
    from scipy.optimize import linear_sum_assignment

    classes = int(torch.cat([answers, labels]).max()) + 1
    counted = np.zeros((classes, classes), np.int64)
    chosen, rest = slice(0, None, 2), slice(1, None, 2)
    np.add.at(counted, (labels[chosen].numpy(), answers[chosen].numpy()), 1)
    own, model = linear_sum_assignment(-counted)
    to_model = np.empty(classes, np.int64)
    to_model[own] = model
    return _rate(answers[rest], torch.from_numpy(to_model)[labels[rest]])
