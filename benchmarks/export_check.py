"""Checks an exported guard against the guard on a whole test set, and times both.

    python benchmarks/export_check.py GUARD --data ../shared/data/mnist

GUARD is a guard's folder. It is exported to a temporary folder, both are asked about the first
images of the test set, in batches of 256 and the first three one by one, and what came out is
written to results/export.json. The guard's own images and as many attacked ones (FGSM, whose images
lie close to the thresholds more often) are both asked about.

For a guard with K-density alone it is also told where the differences come from: its formula is
computed in double precision of the features that torch and onnxruntime compute in single precision,
and of those that torch computes in double precision (the part `rounding`; the other parts are the
formats, each of which is written as it is done).
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import describe, versions
from torch import nn

import notsure as ns
from notsure import export
from notsure.core.storage import load_json, save_json
from notsure.detectors import KDensity
from notsure.detectors.kdensity import log_kernel_density
from notsure.export.checking import compared
from notsure.export.graph import TracedClassifier
from notsure.export.running import ExportedGuard, onnxruntime

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Exports, compares, times, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guard", type=Path)
    parser.add_argument("--data", default="../shared/data/mnist")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--rounded", type=int, default=2000, help="images of the part rounding")
    parser.add_argument("--parts", default="rounding,onnx,torch")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "export.json")
    given = parser.parse_args()
    guard = ns.Guard.load(given.guard)
    test = ns.data.load(given.data).test.select(slice(0, given.count))
    content = load_json(given.out) if given.out.is_file() else {}
    about = {
        "guard": [type(part).__name__ for _, part in guard.named_detectors()],
        "classifier": type(guard.classifier.module).__name__,
        "machine": describe(torch.device("cpu")),
        "versions": versions(),
    }
    for part in given.parts.split(","):
        if part == "rounding":
            found = rounding(guard, test.x[: given.rounded], given.rounded // 4)
        else:
            hostile = attacked(guard, test.x, test.labels, given.eps)
            found = {"eps": given.eps, **row(guard, part, test.x, hostile)}
        print(json.dumps(found, indent=2), flush=True)  # noqa: T201
        content[part] = {**found, **about}
        save_json(given.out, content)


def rounding(guard: ns.Guard, x: torch.Tensor, doubled: int) -> dict[str, Any]:
    """Where differences between K-density's scores come from, the largest of each kind.

    Args:
        guard: with K-density alone.
        x: images.
        doubled: the network is computed in double precision for so many of them.
    """
    ((name, detector),) = guard.named_detectors()
    if not isinstance(detector, KDensity):
        raise TypeError(f"{type(detector).__name__} is not K-density.")
    verdict = guard.judge(x)
    scores, prediction = verdict.scores[name], verdict.prediction
    single, other = _features(guard.classifier, x), _features_of_onnxruntime(guard.classifier, x)
    exact = _formula(detector, single, prediction)
    few = slice(0, doubled)
    double = _features(copy.deepcopy(guard.classifier).double(), x[few].double())
    truth = _formula(detector, double, prediction[few])
    alone = torch.cat([guard.judge(one[None]).scores[name] for one in x[few]])
    size = single.norm(dim=1)
    return {
        "images": len(x),
        "images_in_double_precision": doubled,
        "bandwidth": float(detector.sigma),
        "scores_from_to": [float(exact.min()), float(exact.max())],
        "features_of_onnxruntime_to_torch_relative": _largest((other - single).norm(dim=1) / size),
        "features_of_torch_to_double_precision_relative": _largest(
            (single[few] - double).norm(dim=1) / size[few]
        ),
        "largest_difference_of_a_score": {
            "guard, to the exact formula of its own features": _largest(scores - exact),
            "exact formula, features of onnxruntime to those of torch": _largest(
                _formula(detector, other, prediction) - exact
            ),
            "exact formula, features of torch to those in double precision": _largest(
                exact[few] - truth
            ),
            "guard, one image at a time to batches of 256": _largest(alone - scores[few]),
        },
    }


def _largest(difference: torch.Tensor) -> float:
    return float(difference.double().abs().max())


def _features(classifier: ns.Classifier, x: torch.Tensor) -> torch.Tensor:
    """Features (B, D) of images, float64, as the classifier computes them."""
    with torch.inference_mode():
        parts = [classifier.logits_and_features(some)[1] for some in torch.split(x, 256)]
    return torch.cat(parts).double()


class _ToFeatures(nn.Module):
    def __init__(self, classifier: ns.Classifier, sample: torch.Tensor) -> None:
        super().__init__()
        self.classifier = TracedClassifier(copy.deepcopy(classifier), sample, features=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier.logits_and_features(image)[1]


def _features_of_onnxruntime(classifier: ns.Classifier, x: torch.Tensor) -> torch.Tensor:
    """Features (B, D) of images, float64, as onnxruntime computes them in single precision."""
    module = _ToFeatures(classifier, x[:4]).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.onnx"
        sizes = {"image": {0: torch.export.Dim("batch")}}
        program: Any = torch.onnx.export(
            module, (x[:4],), input_names=["image"], dynamo=True, dynamic_shapes=sizes,
            external_data=False, verbose=False,
        )  # fmt: skip
        program.save(str(path), external_data=False)
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(path), options)
    parts = [session.run(None, {"image": some.numpy()})[0] for some in torch.split(x, 256)]
    return torch.cat([torch.from_numpy(part) for part in parts]).double()


def _formula(detector: KDensity, features: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """K-density's score of features (B, D), computed in double precision."""
    score = torch.empty(len(features), dtype=torch.float64)
    for number, (start, end) in enumerate(pairwise(detector.offsets.tolist())):
        mine = prediction == number
        points = detector.points[start:end].double()
        if bool(mine.any()):
            score[mine] = -log_kernel_density(features[mine], points, float(detector.sigma))
    return score


def attacked(guard: ns.Guard, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """The images after one step against the bare classifier, fooled or not."""
    attack = ns.attacks.FGSM(eps=eps)
    parts = [
        attack.perturb(guard.classifier, some, labels)
        for some, labels in zip(torch.split(x, 500), torch.split(y, 500), strict=True)
    ]
    return torch.cat(parts)


def row(guard: ns.Guard, kind: str, x: torch.Tensor, hostile: torch.Tensor) -> dict[str, Any]:
    """What one format makes of both sets."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"guard.{kind}"
        write = export.to_onnx if kind == "onnx" else export.to_program
        seconds, _ = timed(lambda: write(guard, path, images=x[:64]))
        exported: ExportedGuard = (
            export.OnnxGuard(path) if kind == "onnx" else export.ProgramGuard(path)
        )
        megabytes = path.stat().st_size / 1e6
    clean, hard = compared(guard, exported, x), compared(guard, exported, hostile)
    sample = x[:2560]
    own, _ = timed(lambda: guard.judge(sample))
    other, _ = timed(lambda: exported.judge(sample))
    return {
        "format": kind,
        "clean": asdict(clean),
        "attacked": asdict(hard),
        "holds": clean.holds and hard.holds,
        "export_seconds": round(seconds, 1),
        "megabytes": round(megabytes, 1),
        "milliseconds_per_image": round(1000 * other / len(sample), 3),
        "milliseconds_per_image_of_the_guard": round(1000 * own / len(sample), 3),
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that it took, and what came out."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


if __name__ == "__main__":
    main()
