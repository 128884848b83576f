"""What a detector adds to the classifier's own forward pass.

python benchmarks/detectors.py [--images 10000] [--rounds 5] [--smoke]

The classifier is ResNet-32 for 28x28 images with random weights, which take as long as trained
ones. Detectors that go by features and logits score features that are there already, of as many
images, against 60,000 training points of 64 features; those that ask the classifier again do so
for one image in twenty. Prints the median seconds for all images, and their ratio to the forward
pass.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable

import torch
from measure import interleaved
from torch import nn

from notsure import Classifier, models
from notsure.core.state import seeded
from notsure.detectors import (
    LID,
    Confidence,
    DeepKNN,
    Detector,
    FeatureSqueezing,
    KDensity,
    LogOdds,
    Mahalanobis,
    NonMaximalEntropy,
)
from notsure.observation import Observation

POINTS, DIMENSIONS, CLASSES = 60_000, 64, 10
BATCH, EVERY = 256, 20


def heaps(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features in ten heaps, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % CLASSES
    return centres[labels] + torch.randn(count, DIMENSIONS, generator=generator), labels


def head() -> Classifier:
    """The features pose as images of D channels and one pixel, which the last layer reads."""
    with seeded(0):
        layer = nn.Linear(DIMENSIONS, CLASSES)
    centres = 3 * torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.weight.copy_(centres)
        layer.bias.copy_(-centres.square().sum(dim=1) / 2)
    return Classifier(nn.Sequential(nn.Flatten(), layer)).eval()


def on_features(detector: Detector, points: int, images: int) -> Callable[[], torch.Tensor]:
    """Scoring features, after a fit on others."""
    classifier = head()
    with torch.inference_mode():
        training, labels = heaps(points, 1)
        for start in range(0, points, BATCH):
            part = training[start : start + BATCH, :, None, None]
            detector.update(Observation(part, classifier), labels[start : start + BATCH])
        detector.finish(CLASSES)
        queries = heaps(images, 2)[0][:, :, None, None]
        seen = [Observation(part, classifier) for part in torch.split(queries, BATCH)]
        for observation in seen:
            # features, logits and prediction are not what is timed
            _ = observation.prediction, observation.log_probabilities

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([detector.score(observation) for observation in seen])

    return run


def on_images(
    detector: Detector | None, classifier: Classifier, x: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """A detector's own passes over images, or the classifier's without one."""
    with torch.inference_mode():
        seen = [Observation(part, classifier) for part in torch.split(x, BATCH)]
        if detector is not None:
            for observation in seen:
                detector.update(observation, observation.prediction)
            detector.finish(CLASSES)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            if detector is None:
                return torch.cat([classifier.logits(part) for part in torch.split(x, BATCH)])
            return torch.cat([detector.score(observation) for observation in seen])

    return run


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="few images, once")
    arguments = parser.parse_args()
    images, rounds, points = arguments.images, arguments.rounds, POINTS
    if arguments.smoke:
        images, rounds, points = 200, 1, 1000
    with seeded(0):
        module = models.build("resnet32", in_channels=1, size=28)
    classifier = Classifier(module.to(memory_format=torch.channels_last)).eval()
    x = torch.rand(images, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    few = x[::EVERY]
    # of which class they are taken for changes nothing in the time
    warnings.filterwarnings("ignore", message="LogOdds")
    runs = {"the classifier's forward pass": on_images(None, classifier, x)}
    by_features: dict[str, Detector] = {
        "Confidence": Confidence(),
        "NonMaximalEntropy": NonMaximalEntropy(),
        "Mahalanobis": Mahalanobis(),
        "Mahalanobis (relative)": Mahalanobis(relative=True),
        "KDensity": KDensity(),
        "LID": LID(),
        "DeepKNN": DeepKNN(),
    }
    by_passes: dict[str, Detector] = {
        "FeatureSqueezing": FeatureSqueezing(),
        "LogOdds (32 draws)": LogOdds(max_points=2),
    }
    runs |= {name: on_features(one, points, images) for name, one in by_features.items()}
    runs |= {name: on_images(one, classifier, few) for name, one in by_passes.items()}
    for run in runs.values():
        run()
    timings = interleaved(runs, rounds)
    base = statistics.median(timings["the classifier's forward pass"].seconds)
    for name, timing in timings.items():
        seconds = statistics.median(timing.seconds)
        if name in by_passes:
            seconds *= images / len(few)
        sys.stdout.write(f"{name:32} {seconds:9.3f} s {seconds / base:9.4f} of a pass\n")


if __name__ == "__main__":
    main()
