"""The Guard: a classifier with its right to answer NOT SURE."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from notsure.attacks.base import Attack
from notsure.attacks.problem import VOTES
from notsure.calibration import Calibration, Rule, calibrated
from notsure.classifier import Classifier
from notsure.core.checks import content_keys
from notsure.core.errors import ConfigurationError, InputError, NotFittedError
from notsure.core.part import Part
from notsure.core.randomness import Streams, drawing_from
from notsure.core.state import undisturbed
from notsure.core.target import Response
from notsure.correctors.base import Corrector
from notsure.data import Images
from notsure.data.stream import Stream
from notsure.detectors.base import Detector
from notsure.fitting import fit_parts, learners_of
from notsure.guard_files import Contents, load_contents, save_contents
from notsure.observation import Observation
from notsure.purifiers.base import Purifier
from notsure.verdict import Opinion, Verdict, joined, verdict_of

_JUDGING = 0x4A55
"""Keeps what a stochastic guard draws in judgement apart from whatever else a sample draws."""

OVERLAP_TOLERANCE = 0.01
"""Share of images that two sets may have in common before that is an error and not a remark."""


class Guard(nn.Module):
    """A classifier and what guards it, as one thing that answers or declines.

    A guard is a Target: an attack on it sees purifier, detectors and corrector as well.

    Args:
        classifier: the classifier, or a bare module on images in [0,1].
        detectors: their scores tell which images are flagged. A mapping names them, otherwise they
            are named after their classes.
        purifier: what cleans the images before the classifier sees them; it is trained beforehand.
        corrector: who answers where an image is flagged; without one the answer is NOT SURE.
        rule: "any" flags an image if any score is above its threshold, "all" only if all are. For
            a learned combination of scores see `notsure.detectors.LearnedCombination`.

    Raises:
        ConfigurationError: a part is none, there is no such rule, or a corrector has no detectors
            that would call it.
    """

    def __init__(
        self,
        classifier: Classifier | nn.Module,
        detectors: Sequence[Detector] | Mapping[str, Detector] = (),
        *,
        purifier: Purifier | None = None,
        corrector: Corrector | None = None,
        rule: Rule = "any",
    ) -> None:
        super().__init__()
        self.classifier = (
            classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        )
        _check_parts(purifier, corrector, rule)
        if corrector is not None and len(detectors) == 0:
            raise ConfigurationError(
                "A corrector answers where a detector flags an image, and there is none: give "
                "detectors as well."
            )
        self.purifier, self.corrector, self.rule = purifier, corrector, rule
        self.detectors = nn.ModuleDict(_named(detectors))
        self.calibration: Calibration | None = None
        self.seen: dict[str, torch.Tensor] = {}
        self.fitted_on: dict[str, Any] | None = None
        self._needs_features = any(d.needs_features for _, d in self.named_detectors())

    def named_detectors(self) -> list[tuple[str, Detector]]:
        """The detectors with their names."""
        return [(name, part) for name, part in self.detectors.items() if isinstance(part, Detector)]

    @property
    def rejects(self) -> bool:
        """Whether it may answer NOT SURE: with detectors and without a corrector."""
        return len(self.detectors) > 0 and self.corrector is None

    @property
    def stochastic(self) -> bool:
        """Whether the same input may get different answers."""
        return self.classifier.stochastic or any(
            getattr(part, "stochastic", False) is True for part in self._around()
        )

    @property
    def differentiable(self) -> bool:
        """Whether gradients reach the input."""
        return self.classifier.differentiable and all(
            getattr(part, "differentiable", True) is not False for part in self._around()
        )

    def _around(self) -> Iterator[nn.Module]:
        """Every module but the classifier's."""
        for part in (self.purifier, self.detectors, self.corrector):
            if part is not None:
                yield from part.modules()

    def observe(self, x: torch.Tensor) -> Observation:
        """One pass over images (B, C, H, W) in [0,1], as far as it is asked for."""
        return Observation(
            x, self.classifier, purifier=self.purifier, features=self._needs_features
        )

    def scores(self, observation: Observation) -> dict[str, torch.Tensor]:
        """Each detector's score, (B,)."""
        return {name: detector.score(observation) for name, detector in self.named_detectors()}

    def fit(
        self,
        x: torch.Tensor | Images,
        y: torch.Tensor | None = None,
        *,
        attack: Attack | None = None,
        examples: int = 2000,
        batch_size: int = 256,
        progress: bool = False,
    ) -> Guard:
        """Fits the detectors on training data, in one pass for all of them.

        Args:
            x: training images (N, C, H, W) in [0,1], or `Images` with their labels; the
                classifier's own training set will do.
            y: their labels (N,).
            attack: for parts that learn from adversarial examples: what makes them, against the
                bare classifier.
            examples: from how many of the images, spread evenly.
            batch_size: how many images are looked at at a time.
            progress: whether to show a progress bar.

        Returns:
            The guard itself; it has to be calibrated again.

        Raises:
            ConfigurationError: a part learns from adversarial examples, and no attack was given.
            InputError: images or labels are not what they have to be, or a class is missing that
                a detector needs.
            NotFittedError: the purifier was not trained.
        """
        stream = Stream.of(x, y)
        self.classifier.check(stream.sample())
        fit_parts(self, stream, attack, examples=examples, batch_size=batch_size, shown=progress)
        self.seen = {"fit": stream.content_keys().sort().values}
        learners = learners_of([part for _, part in self.named_detectors()], self.corrector)
        taught = attack if learners else None
        self.fitted_on = None if taught is None else {"name": taught.name, **taught.settings()}
        self.calibration = None
        return self

    def calibrate(
        self,
        x: torch.Tensor | Images,
        fpr: float = 0.01,
        *,
        batch_size: int = 256,
        votes: int = VOTES,
    ) -> Guard:
        """Freezes the thresholds on clean data that the guard was not fitted on.

        Every detector's threshold is exceeded by the same number of clean images, as many as keeps
        the share that is flagged at `fpr` or below.

        Args:
            x: clean images (N, C, H, W) in [0,1], or `Images`, of all classes.
            fpr: the share of clean images that may be flagged, in (0, 1).
            batch_size: how many images are looked at at a time.
            votes: over how many draws the scores of a stochastic guard are taken, as in `judge`.

        Returns:
            The guard itself.

        Raises:
            ConfigurationError: fpr is out of range, or N is too small to resolve it.
            InputError: the set holds one predicted class only, images of the fit, or scores that
                are not finite.
            NotFittedError: a detector was not fitted.
        """
        if not 0 < fpr < 1:
            raise ConfigurationError(f"fpr is a share of clean images, in (0, 1); got {fpr!r}.")
        if isinstance(x, torch.Tensor) and x.numel() == 0:
            raise InputError("The calibration set is empty: give clean images of every class.")
        stream = Stream.of(x)
        self.classifier.check(stream.sample())
        device = self.classifier.device
        for part in (self.purifier, *self.detectors.values(), self.corrector):
            if isinstance(part, Part):
                part.require_fitted()
        if len(stream) * fpr < 1:
            raise ConfigurationError(
                f"{len(stream)} calibration images cannot resolve a false-positive rate of "
                f"{fpr:g}: that takes at least {math.ceil(1 / fpr)}."
            )
        keys = stream.content_keys()
        self._refuse_seen(keys, "calibrating", parts=("fit",))
        parts = []
        with undisturbed(self, device), torch.inference_mode():
            for batch in stream.batches(batch_size, device):
                draws = [self._unjudged(batch) for _ in self._draws(batch, votes, seed=0)]
                parts.append(verdict_of(draws, corrects=False))
        clean = joined(parts)
        classes = torch.unique(clean.prediction)
        if len(classes) < 2:
            raise InputError(
                f"All {len(stream)} calibration images are predicted as class {classes[0].item()}: "
                "thresholds of one class do not hold for the others. Give images of every class."
            )
        scores = {name: score.double().cpu() for name, score in clean.scores.items()}
        self.calibration = calibrated(scores, fpr, len(stream), self.rule)
        self.seen["calibration"] = keys.sort().values
        return self

    def overlap(self, x: torch.Tensor) -> dict[str, int]:
        """How many of images (N, C, H, W) in [0,1] it was fitted and calibrated on."""
        return self._overlap(content_keys(x).cpu())

    def _overlap(self, keys: torch.Tensor) -> dict[str, int]:
        return {part: int(torch.isin(keys, seen).sum()) for part, seen in self.seen.items()}

    def refuse_seen(self, x: torch.Tensor, doing: str) -> None:
        """Refuses images that the guard was fitted or calibrated on; warns of a few strays.

        Args:
            x: images (N, C, H, W) in [0,1].
            doing: what was to be done with them, for the message, such as "testing".

        Raises:
            InputError: more than 1 % of the images were used before.
        """
        self._refuse_seen(content_keys(x).cpu(), doing, parts=("fit", "calibration"))

    def _refuse_seen(self, keys: torch.Tensor, doing: str, *, parts: tuple[str, ...]) -> None:
        for part, shared in self._overlap(keys).items():
            if part not in parts:
                continue
            if shared > OVERLAP_TOLERANCE * len(keys):
                raise InputError(
                    f"{shared} of {len(keys)} images were used in the guard's {part} already: "
                    f"{doing} on them would flatter it. Keep train, calibration and test apart "
                    "(notsure.data.load does)."
                )
            if shared:
                warnings.warn(
                    f"{shared} of {len(keys)} images were used in the guard's {part} already.",
                    stacklevel=4,
                )

    def judge(
        self, x: torch.Tensor, *, batch_size: int = 256, votes: int = VOTES, seed: int = 0
    ) -> Verdict:
        """Answers, or declines to.

        A stochastic guard answers by vote. The draws of an image are a function of the image and
        the seed, as far as the guard's layers draw from the images' own streams (notsure's do).

        Args:
            x: images (B, C, H, W) in [0,1].
            batch_size: how many images are looked at at a time.
            votes: how many draws of a stochastic guard are taken.
            seed: of these draws.

        Returns:
            Label, acceptance, scores and the label before rejection of each image.

        Raises:
            ConfigurationError: there are no votes.
            InputError: the images are not what they have to be.
            NotFittedError: the guard was not fitted or not calibrated.
        """
        if votes < 1:
            raise ConfigurationError(f"votes is a number of draws, at least 1; got {votes}.")
        x = self.classifier.check(x)
        parts = []
        with undisturbed(self, x.device), torch.inference_mode():
            for batch in torch.split(x, batch_size):
                draws = [self._opinion(batch) for _ in self._draws(batch, votes, seed)]
                parts.append(verdict_of(draws, corrects=self.corrector is not None))
        return joined(parts)

    def _draws(self, x: torch.Tensor, votes: int, seed: int) -> Iterator[int]:
        """The numbers of the draws, each under random streams of its own."""
        if not self.stochastic:
            yield 0
            return
        streams = Streams.of(content_keys(x), seed).fork(_JUDGING)
        for draw in range(votes):
            with drawing_from(streams.fork(draw)):
                yield draw

    def _opinion(self, x: torch.Tensor) -> Opinion:
        """Logits, flags and scores of images (B, C, H, W) in [0,1], with gradients."""
        observation = self.observe(x)
        scores = self.scores(observation)
        flagged = self._flagged(observation, scores)
        logits = observation.logits
        if self.corrector is not None:
            corrected = self.corrector.correct(observation)
            logits = torch.where(flagged[:, None] > 0, corrected, logits)
        return Opinion(logits, flagged, scores)

    def _unjudged(self, x: torch.Tensor) -> Opinion:
        """Logits and scores before there are thresholds."""
        observation = self.observe(x)
        nothing = torch.zeros_like(observation.logits[:, 0])
        return Opinion(observation.logits, nothing, self.scores(observation))

    def respond(self, x: torch.Tensor) -> Response:
        """Logits and rejection of images (B, C, H, W) in [0,1], from one pass, with gradients."""
        opinion = self._opinion(x)
        return Response(opinion.logits, opinion.flagged if self.rejects else None)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0,1]; a corrector's where it answers."""
        if self.corrector is not None:
            return self._opinion(x).logits
        return self.observe(x).logits

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        """(B,), positive where the image is rejected; -inf where the guard always answers."""
        if not self.rejects:
            return torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        observation = self.observe(x)
        return self._flagged(observation, self.scores(observation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), as `logits` gives them."""
        return self.logits(x)

    def _flagged(
        self, observation: Observation, scores: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        if not scores:
            return torch.full_like(observation.logits[:, 0], -torch.inf)
        if self.calibration is None:
            raise NotFittedError(
                "The guard has no thresholds yet: call guard.fit(x_train, y_train) and "
                ".calibrate(x_clean, fpr=0.01)."
            )
        return self.calibration.rejection(scores)

    def save(self, folder: str | Path) -> Path:
        """Writes the guard to a folder: safetensors and JSON, no pickle.

        The classifier's weights are written where its architecture is one of ours, so that it can
        be rebuilt; otherwise their hash is, and the classifier is handed to `load`.

        Args:
            folder: the folder to write to.

        Returns:
            The folder.

        Raises:
            ConfigurationError: the folder cannot be written to.
            NotFittedError: the guard has detectors and was not calibrated.
        """
        contents = Contents(
            classifier=self.classifier,
            detectors=dict(self.named_detectors()),
            purifier=self.purifier,
            corrector=self.corrector,
            rule=self.rule,
            calibration=self.calibration,
            seen=self.seen,
            fitted_on=self.fitted_on,
        )
        return save_contents(contents, folder)

    @staticmethod
    def load(folder: str | Path, classifier: Classifier | None = None) -> Guard:
        """Reads a guard from a folder.

        Args:
            folder: where `save` wrote it.
            classifier: the classifier, for a guard around an architecture that is not ours.

        Returns:
            The guard, in evaluation mode.

        Raises:
            CheckpointError: the folder is no guard, or damaged, or the classifier's weights or
                preprocessing are not those that the guard was made for.
        """
        contents = load_contents(folder, classifier)
        guard = Guard(
            contents.classifier,
            contents.detectors,
            purifier=contents.purifier,
            corrector=contents.corrector,
            rule=contents.rule,
        ).to(contents.classifier.device)
        guard.calibration, guard.seen = contents.calibration, contents.seen
        guard.fitted_on = contents.fitted_on
        return guard.eval()


def _named(detectors: Sequence[Detector] | Mapping[str, Detector]) -> dict[str, nn.Module]:
    if isinstance(detectors, Mapping):
        pairs = list(detectors.items())
    else:
        pairs = []
        for detector in detectors:
            name = type(detector).__name__
            same = sum(other.partition("-")[0] == name for other, _ in pairs)
            pairs.append((f"{name}-{same + 1}" if same else name, detector))
    for name, detector in pairs:
        if not isinstance(detector, Detector):
            raise ConfigurationError(
                f"{name!r} is a {type(detector).__name__}, not a Detector: give instances such as "
                "notsure.detectors.KDensity()."
            )
    return dict(pairs)


def _check_parts(purifier: object, corrector: object, rule: str) -> None:
    for part, kind in ((purifier, Purifier), (corrector, Corrector)):
        if part is not None and not isinstance(part, kind):
            raise ConfigurationError(
                f"{type(part).__name__} is no {kind.__name__}: give an instance of one."
            )
    if rule not in get_args(Rule):
        raise ConfigurationError(f"rule is {' or '.join(get_args(Rule))}; got {rule!r}.")
