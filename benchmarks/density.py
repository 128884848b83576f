"""K-density against scikit-learn's KernelDensity: the same scores, timed in turns.

The points are what enters ResNet-32's last layer, 64 features of each of MNIST's 60,000 training
images; the queries are those of the first 1,000 test images. `kdensity` scores a query among its
predicted class's points, as the detector does; `kdensity-all` takes all 60,000 for one class.

Both are checked against the formula written out in float64. scikit-learn's own tree walk loses its
digits where the bandwidth is small beside the distances, whatever `rtol` says (its issues 25799
and 27186); with a leaf that holds all points it computes the sum directly, which is right and
faster, so that it takes part both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interleaved
from networks import network
from sklearn.neighbors import KernelDensity  # type: ignore[import-untyped, unused-ignore]
from torch import nn

from notsure import Classifier, data
from notsure.core.storage import load_tensors, save_tensors
from notsure.detectors import KDensity
from notsure.observation import Observation

ROWS = ("kdensity", "kdensity-all")
REQUIRED = 20.0
AGREEMENT = 1e-4
"""How far a score may be from the formula's, as a share of the larger of 1 and the score."""

QUERIES, DIMENSIONS = 1000, 64


@dataclass(frozen=True, eq=False)
class Features:
    """What the two rows are measured on.

    Attributes:
        points: (N, D), the training points.
        labels: int64 (N,).
        queries: (Q, D).
        head: features to logits, which tells the predicted class of a query.
    """

    points: torch.Tensor
    labels: torch.Tensor
    queries: torch.Tensor
    head: nn.Linear


def measured(row: str, source: str, folder: Path, *, rounds: int, smoke: bool) -> dict[str, Any]:
    """Measures one of the rows; returns its record."""
    features = _invented() if smoke else _of_resnet(source, folder)
    one_class = row == "kdensity-all"
    if one_class:
        labels = torch.zeros_like(features.labels)
        head = nn.Linear(features.points.shape[1], 2)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([2.0, 0.0]))
        features = Features(features.points, labels, features.queries, head)
    ours, detector, prediction = _ours(features)
    sigma = float(detector.sigma)
    runs = {
        "notsure": ours,
        "scikit-learn": _theirs(features, prediction, sigma, leaf=40),
        "scikit-learn (one leaf)": _theirs(features, prediction, sigma, leaf=len(features.points)),
    }
    calls = {
        "notsure": "notsure.detectors.KDensity().score(observation)",
        "scikit-learn": "KernelDensity(bandwidth=sigma / sqrt(2)).score_samples(queries)",
        "scikit-learn (one leaf)": "the same with leaf_size=len(points)",
    }
    for run in runs.values():
        run()
    timings = interleaved(runs, rounds)
    reference = _formula(features, prediction, sigma)
    contestants = []
    for name, timing in timings.items():
        deviation = None
        if timing.first is not None:
            size = np.maximum(np.abs(reference), 1.0)
            deviation = float((np.abs(timing.first - reference) / size).max())
        contestants.append(
            {
                "name": name,
                "call": calls[name],
                "required_ratio": None if name == "notsure" else REQUIRED,
                "images": len(features.queries),
                "seconds": timing.seconds,
                "deviation": deviation,
                "skipped": timing.failure,
            }
        )
    among = "all points" if one_class else "the points of the predicted class"
    return {
        "kind": "density",
        "title": f"K-density, {len(features.queries)} queries among {among}, "
        f"{len(features.points)} x {features.points.shape[1]}",
        "network": "resnet32",
        "images": len(features.queries),
        "agreement": AGREEMENT,
        "bandwidth": float(detector.sigma),
        "note": "Strength is the largest difference to the formula in float64, as a share of the "
        f"score; {AGREEMENT:g} is allowed. scikit-learn works in float64 on one thread. Its tree "
        "walk is inexact where the bandwidth is small (scikit-learn issues 25799 and 27186); with "
        "one leaf it is exact. Fitting is not timed.",
        "contestants": contestants,
    }


def _ours(features: Features) -> tuple[Callable[[], Any], KDensity, torch.Tensor]:
    # the features pose as images of D channels and one pixel, which the last layer reads
    classifier = Classifier(nn.Sequential(nn.Flatten(), features.head)).eval()
    detector = KDensity()
    with torch.inference_mode():
        points = Observation(features.points[:, :, None, None], classifier)
        detector.update(points, features.labels)
        detector.finish(int(features.labels.max()) + 1)
        queries = features.queries[:, :, None, None]
        prediction = Observation(queries, classifier).prediction

    def run() -> Any:
        with torch.inference_mode():
            return detector.score(Observation(queries, classifier)).double().numpy()

    return run, detector, prediction


def _formula(features: Features, prediction: torch.Tensor, sigma: float) -> Any:
    """-log of the mean of exp(-|z - z_i|^2 / sigma^2) over the predicted class, in float64."""
    points, queries = features.points.double(), features.queries.double()
    score = torch.empty(len(queries), dtype=torch.float64)
    for row, (query, number) in enumerate(zip(queries, prediction.tolist(), strict=True)):
        mine = points[features.labels == number]
        squared = (mine - query).square().sum(dim=1)
        score[row] = math.log(len(mine)) - torch.logsumexp(-squared / sigma**2, dim=0)
    return score.numpy()


def _theirs(
    features: Features, prediction: torch.Tensor, sigma: float, *, leaf: int
) -> Callable[[], Any]:
    """One KernelDensity a class, with the bandwidth that ours found.

    Its Gaussian has exp(-d^2 / (2 h^2)) and integrates to one, where pang's kernel has
    exp(-d^2 / sigma^2) and a peak of one.
    """
    width = sigma / math.sqrt(2)
    offset = 0.5 * features.points.shape[1] * math.log(2 * math.pi * width**2)
    labels, classes = features.labels, torch.unique(features.labels).tolist()
    points, queries = features.points.double(), features.queries.double()
    estimators = {
        number: KernelDensity(bandwidth=width, leaf_size=leaf).fit(points[labels == number].numpy())
        for number in classes
    }
    rows = {number: (prediction == number).nonzero().flatten().numpy() for number in classes}

    def run() -> Any:
        score = np.empty(len(queries))
        for number, mine in rows.items():
            if len(mine):
                score[mine] = -estimators[number].score_samples(queries[mine].numpy()) - offset
        return score

    return run


def _of_resnet(source: str, folder: Path) -> Features:
    """The features of the trained ResNet-32, computed once and kept."""
    classifier = network("resnet32", source, folder)
    head = [part for part in classifier.modules() if isinstance(part, nn.Linear)][-1]
    path = folder / "features.safetensors"
    if not path.exists():
        images = data.load(source)
        with torch.inference_mode():
            points = [
                classifier.logits_and_features(images.train.x[start : start + 500])[1]
                for start in range(0, len(images.train.x), 500)
            ]
            queries = classifier.logits_and_features(images.test.x[:QUERIES])[1]
        found = {"points": torch.cat(points), "labels": images.train.y, "queries": queries}
        save_tensors(path, found)
    kept = load_tensors(path)[0]
    return Features(kept["points"], kept["labels"], kept["queries"], head)


def _invented() -> Features:
    """Ten heaps of random points, few of them."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 10
    centres = torch.randn(10, DIMENSIONS, generator=generator) * 3
    points = centres[labels] + torch.randn(2000, DIMENSIONS, generator=generator)
    queries = centres[labels[:20]] + torch.randn(20, DIMENSIONS, generator=generator)
    head = nn.Linear(DIMENSIONS, 10)
    with torch.no_grad():
        head.weight.copy_(centres)
        head.bias.copy_(-centres.square().sum(dim=1) / 2)
    return Features(points, labels, queries, head)
