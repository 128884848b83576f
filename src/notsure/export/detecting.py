"""The forms of the detectors that read logits and images, and of the corrector."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure.core.errors import UnsupportedError
from notsure.correctors.logit_svm import LogitSVM, pairs
from notsure.detectors.base import Detector
from notsure.detectors.combination import LearnedCombination
from notsure.detectors.confidence import Confidence
from notsure.detectors.feature_squeezing import FeatureSqueezing
from notsure.detectors.log_odds import LogOdds
from notsure.detectors.non_maximal_entropy import NonMaximalEntropy
from notsure.detectors.reconstruction import ProbabilityDivergence, ReconstructionError
from notsure.export.forms import Form, constant, form_of, register_form
from notsure.observation import Observation


class _AsItIs(Form):
    """A detector whose score is computed by operations on tensors alone."""

    def __init__(self, detector: Confidence) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, observation: Observation) -> torch.Tensor:
        return self.detector.score(observation)


@register_form(Confidence)
def _confidence(detector: Confidence, _dtype: torch.dtype) -> Form:
    return _AsItIs(detector)


class _NonMaximalEntropy(Form):
    """With the largest logit masked, where the detector leaves it out."""

    def forward(self, observation: Observation) -> torch.Tensor:
        logits = observation.logits
        classes = torch.arange(logits.shape[1], device=logits.device)
        top = classes[None] == logits.argmax(dim=1, keepdim=True)
        rest = F.log_softmax(logits.masked_fill(top, -torch.inf), dim=1)
        terms = torch.where(top, 0.0, rest.exp() * rest.masked_fill(top, 0.0))
        return math.log(logits.shape[1] - 1) + terms.sum(dim=1)


@register_form(NonMaximalEntropy)
def _non_maximal_entropy(_detector: NonMaximalEntropy, _dtype: torch.dtype) -> Form:
    return _NonMaximalEntropy()


class _LogOdds(Form):
    """All draws of the noise in one batch, where the detector makes one pass each."""

    patterns: torch.Tensor
    means: torch.Tensor
    deviations: torch.Tensor

    def __init__(self, detector: LogOdds, dtype: torch.dtype) -> None:
        super().__init__()
        self.draws, self.tau = detector.draws, detector.tau
        self.register_buffer("patterns", constant(detector.patterns, dtype) * detector.sigma)
        self.register_buffer("means", constant(detector.means, dtype))
        self.register_buffer("deviations", constant(detector.deviations, dtype))

    def forward(self, observation: Observation) -> torch.Tensor:
        logits, label = observation.logits, observation.prediction
        noisy = (observation.x[:, None] + self.patterns[None]).flatten(0, 1)
        said = observation.logits_of(noisy).view(-1, self.draws, logits.shape[1])
        moved = said.sum(dim=1) / self.draws - logits
        changes = moved - moved.gather(1, label[:, None])
        standardised = (changes - self.means[label]) / self.deviations[label]
        classes = torch.arange(logits.shape[1], device=logits.device)
        others = standardised.masked_fill(classes[None] == label[:, None], -torch.inf)
        return others.amax(dim=1) - self.tau


@register_form(LogOdds)
def _log_odds(detector: LogOdds, dtype: torch.dtype) -> Form:
    return _LogOdds(detector, dtype)


class _FeatureSqueezing(Form):
    def __init__(self, detector: FeatureSqueezing) -> None:
        super().__init__()
        self.bits, self.median = detector.bits, detector.median

    def forward(self, observation: Observation) -> torch.Tensor:
        probabilities = observation.log_probabilities.exp()
        squeezed = []
        if self.bits is not None:
            steps = 2**self.bits - 1
            squeezed.append((observation.x * steps).round() / steps)
        if self.median is not None:
            squeezed.append(_median(observation.x, self.median))
        distances = [
            (probabilities - observation.logits_of(images).softmax(dim=1)).abs().sum(dim=1)
            for images in squeezed
        ]
        return torch.stack(distances).amax(dim=0)


def _median(x: torch.Tensor, width: int) -> torch.Tensor:
    """Median smoothing by sorting shifted images, as runtimes have no windows to select in."""
    before, after = width // 2, (width - 1) // 2
    padded = F.pad(x, (before, after, before, after), mode="replicate")
    rows, columns = x.shape[2:]
    shifted = [
        padded[:, :, down : down + rows, right : right + columns]
        for down in range(width)
        for right in range(width)
    ]
    return torch.stack(shifted, dim=-1).sort(dim=-1).values[..., width**2 // 2]


@register_form(FeatureSqueezing)
def _feature_squeezing(detector: FeatureSqueezing, _dtype: torch.dtype) -> Form:
    return _FeatureSqueezing(detector)


class _ReconstructionError(Form):
    def __init__(self, p: int, purifier: nn.Module | None) -> None:
        super().__init__()
        self.p, self.purifier = p, purifier

    def forward(self, observation: Observation) -> torch.Tensor:
        x = observation.x
        images = observation.purified if self.purifier is None else self.purifier(x)
        error = (x - images).flatten(1)
        size = error.abs().sum(dim=1) if self.p == 1 else error.square().sum(dim=1).sqrt()
        mean: torch.Tensor = size / error.shape[1] ** (1 / self.p)
        return mean


@register_form(ReconstructionError)
def _reconstruction_error(detector: ReconstructionError, dtype: torch.dtype) -> Form:
    purifier = None if detector.of is None else form_of(detector.of, dtype)
    return _ReconstructionError(detector.p, purifier)


class _ProbabilityDivergence(Form):
    def __init__(self, temperature: float, purifier: nn.Module | None) -> None:
        super().__init__()
        self.temperature, self.purifier = temperature, purifier

    def forward(self, observation: Observation) -> torch.Tensor:
        if self.purifier is None:
            logits = observation.logits
        else:
            logits = observation.classifier.logits(self.purifier(observation.x))
        first = F.log_softmax(observation.bare_logits / self.temperature, dim=1)
        second = F.log_softmax(logits / self.temperature, dim=1)
        # the sum of exponentials of log-probabilities cannot overflow
        mean = torch.log(first.exp() + second.exp()) - math.log(2)
        halves = first.exp() * (first - mean) + second.exp() * (second - mean)
        return halves.sum(dim=1) / 2


@register_form(ProbabilityDivergence)
def _probability_divergence(detector: ProbabilityDivergence, dtype: torch.dtype) -> Form:
    purifier = None if detector.of is None else form_of(detector.of, dtype)
    return _ProbabilityDivergence(detector.temperature, purifier)


class _LearnedCombination(Form):
    weights: torch.Tensor
    bias: torch.Tensor
    means: torch.Tensor
    deviations: torch.Tensor

    def __init__(self, detector: LearnedCombination, dtype: torch.dtype) -> None:
        super().__init__()
        self.detectors = nn.ModuleList(
            _named(name, part, dtype) for name, part in detector.named_detectors()
        )
        for name in ("weights", "bias", "means", "deviations"):
            self.register_buffer(name, constant(getattr(detector, name), dtype))

    def forward(self, observation: Observation) -> torch.Tensor:
        scores = torch.stack([part(observation) for part in self.detectors], dim=1)
        standardised = (scores - self.means) / self.deviations
        return (standardised * self.weights).sum(dim=1) + self.bias


def _named(name: str, part: Detector, dtype: torch.dtype) -> nn.Module:
    try:
        return form_of(part, dtype)
    except UnsupportedError as error:
        raise UnsupportedError(f"its detector {name!r}: {error}") from error


@register_form(LearnedCombination)
def _learned_combination(detector: LearnedCombination, dtype: torch.dtype) -> Form:
    return _LearnedCombination(detector, dtype)


class _LogitSVM(Form):
    """The corrector; who is for whom in each decision is a table made beforehand."""

    centre: torch.Tensor
    scale: torch.Tensor
    vectors: torch.Tensor
    weights: torch.Tensor
    offsets: torch.Tensor
    favour: torch.Tensor

    def __init__(self, corrector: LogitSVM, dtype: torch.dtype) -> None:
        super().__init__()
        for name in ("centre", "scale", "vectors", "weights", "offsets"):
            self.register_buffer(name, constant(getattr(corrector, name), dtype))
        classes = len(self.centre)
        self.gamma = None
        if corrector.kernel == "rbf":
            self.gamma = 1 / classes if corrector.gamma is None else corrector.gamma
        first, second = pairs(classes)
        favour = torch.zeros(len(first), classes, dtype=dtype)
        favour[torch.arange(len(first)), first] = 1
        favour[torch.arange(len(first)), second] = -1
        self.register_buffer("favour", favour)

    def forward(self, observation: Observation) -> torch.Tensor:
        z = (observation.logits - self.centre) / self.scale
        similarity = z @ self.vectors.T
        if self.gamma is not None:
            sizes = z.square().sum(dim=1)[:, None] + self.vectors.square().sum(dim=1)
            similarity = torch.exp(-self.gamma * (sizes - 2 * similarity).clamp_min(0))
        decisions = similarity @ self.weights + self.offsets
        total = decisions @ self.favour
        won = torch.where(decisions < 0, -1.0, 1.0).to(decisions.dtype)
        votes = (won @ self.favour + (self.favour.shape[1] - 1)) / 2
        return votes + total / (3 * (total.abs() + 1))


@register_form(LogitSVM)
def _logit_svm(corrector: LogitSVM, dtype: torch.dtype) -> Form:
    return _LogitSVM(corrector, dtype)
