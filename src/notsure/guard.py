"""The Guard: a classifier with its right to answer NOT SURE."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from notsure.calibration import Calibration, calibrated
from notsure.classifier import Classifier
from notsure.core.checks import check_labels, content_keys
from notsure.core.errors import ConfigurationError, InputError, NotFittedError
from notsure.core.progress import progress_bar
from notsure.core.state import undisturbed
from notsure.core.target import NOT_SURE, Response
from notsure.data import Images
from notsure.data.stream import Stream
from notsure.detectors.base import Detector
from notsure.guard_files import Contents, load_contents, save_contents
from notsure.observation import Observation

OVERLAP_TOLERANCE = 0.01
"""Share of images that two sets may have in common before that is an error and not a remark."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a guard says of a batch.

    Attributes:
        label: int64 (B,), NOT_SURE (-1) where the image is rejected.
        accepted: bool (B,).
        scores: per detector (B,), higher = more adversarial.
        prediction: int64 (B,), the label before any rejection.
        rejection: (B,), how far the worst score is above its threshold (positive = rejected), in
            units of the distance from the clean median to the threshold.
        margin: (B,), the largest logit minus the second largest, as a share of the largest
            absolute logit: a decision by less than rounding shows here.
    """

    label: torch.Tensor
    accepted: torch.Tensor
    scores: Mapping[str, torch.Tensor]
    prediction: torch.Tensor
    rejection: torch.Tensor
    margin: torch.Tensor

    def __len__(self) -> int:
        return len(self.label)


class Guard(nn.Module):
    """A classifier and the detectors beside it, as one thing that answers or declines.

    A guard is a Target: an attack on it sees the detectors as well.

    Args:
        classifier: the classifier, or a bare module on images in [0,1].
        detectors: their scores; an image is rejected if any of them is above its threshold. A
            mapping names them, otherwise they are named after their classes.
    """

    def __init__(
        self,
        classifier: Classifier | nn.Module,
        detectors: Sequence[Detector] | Mapping[str, Detector] = (),
    ) -> None:
        super().__init__()
        self.classifier = (
            classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        )
        self.detectors = nn.ModuleDict(_named(detectors))
        self.calibration: Calibration | None = None
        self.seen: dict[str, torch.Tensor] = {}
        self._needs_features = any(d.needs_features for _, d in self.named_detectors())

    def named_detectors(self) -> list[tuple[str, Detector]]:
        """The detectors with their names."""
        return [(name, part) for name, part in self.detectors.items() if isinstance(part, Detector)]

    @property
    def rejects(self) -> bool:
        """Whether it has a detector."""
        return len(self.detectors) > 0

    @property
    def stochastic(self) -> bool:
        """Whether the same input may get different answers."""
        return self.classifier.stochastic

    @property
    def differentiable(self) -> bool:
        """Whether gradients reach the input."""
        return self.classifier.differentiable

    def observe(self, x: torch.Tensor) -> Observation:
        """One pass over images (B, C, H, W) in [0,1], as far as it is asked for."""
        return Observation(x, self.classifier, features=self._needs_features)

    def scores(self, observation: Observation) -> dict[str, torch.Tensor]:
        """Each detector's score, (B,)."""
        return {name: detector.score(observation) for name, detector in self.named_detectors()}

    def fit(
        self,
        x: torch.Tensor | Images,
        y: torch.Tensor | None = None,
        *,
        batch_size: int = 256,
        progress: bool = False,
    ) -> Guard:
        """Fits the detectors on training data, in one pass for all of them.

        Args:
            x: training images (N, C, H, W) in [0,1], or `Images` with their labels; the
                classifier's own training set will do.
            y: their labels (N,).
            batch_size: how many images are looked at at a time.
            progress: whether to show a progress bar.

        Returns:
            The guard itself; it has to be calibrated again.

        Raises:
            InputError: images or labels are not what they have to be, or a class is missing that
                a detector needs.
        """
        stream = Stream.of(x, y)
        self.classifier.check(stream.sample())
        if stream.labels is None:
            raise InputError("Fitting takes labels: guard.fit(x_train, y_train).")
        device = self.classifier.device
        labels = check_labels(stream.labels, count=len(stream)).to(device)
        learns = any(detector.needs_fit for _, detector in self.named_detectors())
        # one batch shows how many classes there are, which is all that the others need
        count = len(stream) if learns else min(batch_size, len(stream))
        start = num_classes = 0
        with (
            undisturbed(self, device),
            torch.inference_mode(),
            progress_bar("fitting the guard", count, shown=progress) as advance,
        ):
            for batch in stream.batches(batch_size, device):
                observation = self.observe(batch)
                if start == 0:
                    num_classes = observation.logits.shape[1]
                    check_labels(labels, count=len(stream), num_classes=num_classes)
                for _, detector in self.named_detectors():
                    detector.update(observation, labels[start : start + len(batch)])
                advance(len(batch), "")
                start += len(batch)
                if start >= count:
                    break
        with torch.inference_mode(False), torch.no_grad():
            for _, detector in self.named_detectors():
                detector.finish(num_classes)
        self.seen = {"fit": stream.content_keys().sort().values}
        self.calibration = None
        return self

    def calibrate(
        self, x: torch.Tensor | Images, fpr: float = 0.01, *, batch_size: int = 256
    ) -> Guard:
        """Freezes the thresholds on clean data that the guard was not fitted on.

        Every detector rejects the same number of clean images, as many as keeps the share that
        any of them rejects at `fpr` or below.

        Args:
            x: clean images (N, C, H, W) in [0,1], or `Images`, of all classes.
            fpr: the share of clean images that may be rejected, in (0, 1).
            batch_size: how many images are looked at at a time.

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
        for _, detector in self.named_detectors():
            detector.require_fitted()
        if len(stream) * fpr < 1:
            raise ConfigurationError(
                f"{len(stream)} calibration images cannot resolve a false-positive rate of "
                f"{fpr:g}: that takes at least {math.ceil(1 / fpr)}."
            )
        keys = stream.content_keys()
        self._refuse_seen(keys, "calibrating", parts=("fit",))
        gathered: dict[str, list[torch.Tensor]] = {name: [] for name, _ in self.named_detectors()}
        predictions = []
        with undisturbed(self, device), torch.inference_mode():
            for batch in stream.batches(batch_size, device):
                observation = self.observe(batch)
                predictions.append(observation.prediction)
                for name, score in self.scores(observation).items():
                    gathered[name].append(score)
        classes = torch.unique(torch.cat(predictions))
        if len(classes) < 2:
            raise InputError(
                f"All {len(stream)} calibration images are predicted as class {classes[0].item()}: "
                "thresholds of one class do not hold for the others. Give images of every class."
            )
        scores = {name: torch.cat(parts).double().cpu() for name, parts in gathered.items()}
        self.calibration = calibrated(scores, fpr, len(stream))
        self.seen["calibration"] = keys.sort().values
        return self

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
        for part in parts:
            if part not in self.seen:
                continue
            shared = int(torch.isin(keys, self.seen[part]).sum())
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

    def judge(self, x: torch.Tensor, *, batch_size: int = 256) -> Verdict:
        """Answers, or declines to.

        Args:
            x: images (B, C, H, W) in [0,1].
            batch_size: how many images are looked at at a time.

        Raises:
            InputError: the images are not what they have to be.
            NotFittedError: the guard was not fitted or not calibrated.
        """
        x = self.classifier.check(x)
        parts: list[dict[str, torch.Tensor]] = []
        with undisturbed(self, x.device), torch.inference_mode():
            for start in range(0, len(x), batch_size):
                observation = self.observe(x[start : start + batch_size])
                scores = self.scores(observation)
                top = observation.logits.topk(2, dim=1).values
                size = observation.logits.abs().amax(dim=1).clamp_min(1e-30)
                parts.append(
                    {
                        "prediction": observation.prediction,
                        "rejection": self._rejection(observation, scores),
                        "margin": (top[:, 0] - top[:, 1]) / size,
                        **{f"score.{name}": score for name, score in scores.items()},
                    }
                )
        whole = {key: torch.cat([part[key] for part in parts]).clone() for key in parts[0]}
        accepted = whole["rejection"] <= 0
        return Verdict(
            label=torch.where(accepted, whole["prediction"], NOT_SURE),
            accepted=accepted,
            scores={name: whole[f"score.{name}"] for name in self.detectors},
            prediction=whole["prediction"],
            rejection=whole["rejection"],
            margin=whole["margin"],
        )

    def respond(self, x: torch.Tensor) -> Response:
        """Logits and rejection of images (B, C, H, W) in [0,1], from one pass, with gradients."""
        observation = self.observe(x)
        if not self.rejects:
            return Response(observation.logits)
        return Response(observation.logits, self._rejection(observation, self.scores(observation)))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0,1]."""
        return self.classifier.logits(x)

    def rejection(self, x: torch.Tensor) -> torch.Tensor:
        """(B,), positive where the image is rejected; -inf without detectors."""
        observation = self.observe(x)
        return self._rejection(observation, self.scores(observation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), as the classifier gives them."""
        return self.logits(x)

    def _rejection(
        self, observation: Observation, scores: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        if not scores:
            return torch.full_like(observation.logits[:, 0], -torch.inf)
        if self.calibration is None:
            raise NotFittedError(
                "The guard has no thresholds yet: call guard.fit(x_train, y_train) and "
                ".calibrate(x_clean, fpr=0.01)."
            )
        calibration = self.calibration
        excess = [
            (score - calibration.thresholds[name]) / calibration.scales[name]
            for name, score in scores.items()
        ]
        return torch.stack(excess).amax(dim=0)

    def save(self, folder: str | Path) -> Path:
        """Writes the guard to a folder: safetensors and JSON, no pickle.

        The classifier's weights are written where its architecture is one of ours, so that it can
        be rebuilt; otherwise their hash is, and the classifier is handed to `load`.

        Raises:
            ConfigurationError: the folder cannot be written to.
            NotFittedError: the guard has detectors and was not calibrated.
        """
        contents = Contents(
            self.classifier, dict(self.named_detectors()), self.calibration, self.seen
        )
        return save_contents(contents, folder)

    @staticmethod
    def load(folder: str | Path, classifier: Classifier | None = None) -> Guard:
        """Reads a guard from a folder.

        Args:
            folder: where `save` wrote it.
            classifier: the classifier, for a guard around an architecture that is not ours.

        Raises:
            CheckpointError: the folder is no guard, or damaged, or the classifier's weights or
                preprocessing are not those that the guard was made for.
        """
        contents = load_contents(folder, classifier)
        guard = Guard(contents.classifier, contents.detectors).to(contents.classifier.device)
        guard.calibration, guard.seen = contents.calibration, contents.seen
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
