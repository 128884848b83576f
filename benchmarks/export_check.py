"""Checks an exported guard against the guard on a whole test set, and times both.

    python benchmarks/export_check.py GUARD --data ../shared/data/mnist

GUARD is a guard's folder. It is exported to a temporary folder, both are asked about the first
images of the test set, in batches of 256 and the first three one by one, and what came out is
written to results/export.json. The guard's own images and as many attacked ones (FGSM, whose images
lie close to the thresholds more often) are both asked about.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import describe, versions

import notsure as ns
from notsure import export
from notsure.core.storage import save_json
from notsure.export.checking import compared
from notsure.export.running import ExportedGuard

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Exports, compares, times, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guard", type=Path)
    parser.add_argument("--data", default="../shared/data/mnist")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "export.json")
    given = parser.parse_args()
    guard = ns.Guard.load(given.guard)
    test = ns.data.load(given.data).test.select(slice(0, given.count))
    x = test.x
    rows = []
    for kind in ("onnx", "torch"):
        rows.append(row(guard, kind, x, attacked(guard, x, test.labels, given.eps)))
        print(json.dumps(rows[-1], indent=2))  # noqa: T201
    content = {
        "guard": [type(part).__name__ for _, part in guard.named_detectors()],
        "classifier": type(guard.classifier.module).__name__,
        "images": len(x),
        "eps": given.eps,
        "rows": rows,
        "of_the_guard_itself": own_rounding(guard, x[:1000]),
        "machine": describe(torch.device("cpu")),
        "versions": versions(),
    }
    save_json(given.out, content)


def own_rounding(guard: ns.Guard, x: torch.Tensor) -> dict[str, Any]:
    """How far the guard's scores in single precision are from its scores in double precision."""
    double = copy.deepcopy(guard).double()
    own, exact = guard.judge(x), double.judge(x.double())
    largest = max(
        float((score.double() - exact.scores[name]).abs().max())
        for name, score in own.scores.items()
    )
    return {"images": len(x), "largest_difference_to_double_precision": largest}


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
