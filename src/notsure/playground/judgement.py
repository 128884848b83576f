"""What a guard says of one image, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from notsure.core.checks import content_keys
from notsure.core.errors import InputError
from notsure.core.randomness import Streams, drawing_from
from notsure.core.state import undisturbed
from notsure.guard import Guard
from notsure.purifiers import Purifier, PuVAE

_SHOWING = 0x5057
"""Keeps what a stochastic purifier draws for show apart from whatever else an image draws."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A detector's score of an image beside its threshold.

    Attributes:
        detector: its name.
        score: higher = more adversarial; of a stochastic guard the median over its draws.
        threshold: frozen on clean images.
        excess: (score - threshold) / scale, where the scale is the distance from the median clean
            image to the threshold: 0 at the threshold, -1 at that image.
    """

    detector: str
    score: float
    threshold: float
    excess: float

    @property
    def flagged(self) -> bool:
        """Whether the score is above the threshold."""
        return self.excess > 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """What a PuVAE chooses among.

    Attributes:
        images: the image as each of the K classes, (K, C, H, W) in [0,1].
        errors: each one's root-mean-square error to the image, (K,).
        chosen: the class of the nearest one, which is handed on.
    """

    images: torch.Tensor
    errors: torch.Tensor
    chosen: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Purification:
    """What a purifier makes of an image.

    Attributes:
        purifier: the name of its class.
        detector: the detector that compares the image with it; None for the guard's own purifier,
            behind which the classifier looks.
        image: (C, H, W) in [0,1].
        stochastic: whether the purifier draws random numbers, so that this is one draw of several.
        candidates: what a PuVAE chose among; None for other purifiers.
    """

    purifier: str
    detector: str | None
    image: torch.Tensor
    stochastic: bool
    candidates: Candidates | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What a guard says of one image.

    Attributes:
        image: (C, H, W) in [0,1].
        label: its answer, NOT_SURE (-1) where it rejects.
        prediction: its answer before any rejection.
        bare: what the classifier says by itself.
        corrected: whether a corrector has answered in the classifier's place.
        readings: what each detector says.
        purifications: what each purifier makes of the image.
    """

    image: torch.Tensor
    label: int
    prediction: int
    bare: int
    corrected: bool
    readings: tuple[Reading, ...]
    purifications: tuple[Purification, ...]

    @property
    def flagging(self) -> tuple[str, ...]:
        """The names of the detectors whose scores are above their thresholds."""
        return tuple(one.detector for one in self.readings if one.flagged)


def judgement_of(guard: Guard, x: torch.Tensor, *, seed: int = 0) -> Judgement:
    """Asks a guard, its classifier by itself, its detectors and its purifiers about an image.

    Args:
        guard: fitted and calibrated.
        x: the image, (1, C, H, W) in [0,1], on the guard's device.
        seed: of what a stochastic guard draws.

    Returns:
        What each of them says.

    Raises:
        InputError: it is not one image, or not what the guard takes.
        NotFittedError: the guard was not fitted or not calibrated.
    """
    if x.ndim != 4 or len(x) != 1:
        raise InputError(f"One image at a time, (1, C, H, W); got shape {tuple(x.shape)}.")
    verdict = guard.judge(x, seed=seed)
    bare = Guard(guard.classifier).judge(x, seed=seed)
    return Judgement(
        image=x[0].detach(),
        label=int(verdict.label),
        prediction=int(verdict.prediction),
        bare=int(bare.prediction),
        corrected=bool(verdict.corrected),
        readings=tuple(_readings(guard, verdict.scores)),
        purifications=tuple(_purifications(guard, x, seed)),
    )


def _readings(guard: Guard, scores: Mapping[str, torch.Tensor]) -> Iterator[Reading]:
    known = guard.calibration
    if known is None:
        # then nothing has a score: a guard with detectors is not judged by without thresholds
        return
    for name, score in scores.items():
        threshold = known.thresholds[name]
        # in the scores' own precision, as the guard compares them
        excess = (score - threshold) / known.scales[name]
        yield Reading(detector=name, score=float(score), threshold=threshold, excess=float(excess))


def _purifications(guard: Guard, x: torch.Tensor, seed: int) -> Iterator[Purification]:
    if guard.purifier is not None:
        yield purified(guard.purifier, x, seed=seed)
    for name, detector in guard.named_detectors():
        own = getattr(detector, "of", None)
        if isinstance(own, Purifier):
            yield purified(own, x, seed=seed, detector=name)


def purified(
    purifier: Purifier, x: torch.Tensor, *, seed: int = 0, detector: str | None = None
) -> Purification:
    """What a purifier makes of an image (1, C, H, W) in [0,1], with a PuVAE's candidates.

    Raises:
        NotFittedError: the purifier was not trained.
        InputError: the image is of another shape than those it was trained on.
    """
    stochastic = any(getattr(part, "stochastic", False) is True for part in purifier.modules())
    streams = Streams.of(content_keys(x), seed).fork(_SHOWING)
    drawing = drawing_from(streams) if stochastic else nullcontext()
    with undisturbed(purifier, x.device), torch.inference_mode(), drawing:
        image = purifier(x)[0]
        candidates = _candidates(purifier, x) if isinstance(purifier, PuVAE) else None
    return Purification(
        purifier=type(purifier).__name__,
        detector=detector,
        image=image.clone(),
        stochastic=stochastic,
        candidates=candidates,
    )


def _candidates(purifier: PuVAE, x: torch.Tensor) -> Candidates:
    images = purifier.reconstructions(x)[0]
    errors = (images - x).square().flatten(1).mean(dim=1).sqrt()
    chosen, _ = purifier.closest(x)
    return Candidates(images=images.clone(), errors=errors.clone(), chosen=int(chosen))
