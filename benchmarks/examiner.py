"""What the examiner adds to the attacks that it runs, and how long the quick suite takes.

python benchmarks/examiner.py --data ../shared/data/mnist [--count 10000]

Evaluates three guards around one network with four attacks under the oblivious and the white-box
threat, and prints the wall time beside the time spent inside the attacks themselves; then runs the
quick suite on 500 images of a guard with K-density.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from networks import network

from notsure import Guard, data, evaluate
from notsure.attacks import BIM, FGSM, MIM, PGD, Attack
from notsure.detectors import Confidence, KDensity, NonMaximalEntropy

EPS, FPR = 0.2, 0.01


@contextmanager
def clocked() -> Iterator[list[float]]:
    """Collects the seconds that attacks take."""
    original: Any = Attack.__call__
    seconds: list[float] = []

    def call(self: Attack, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(self, *arguments, **named)
        finally:
            seconds.append(time.perf_counter() - began)

    Attack.__call__ = call  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        Attack.__call__ = original  # type: ignore[method-assign]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="where MNIST is")
    parser.add_argument("--networks", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args()
    split = data.load(arguments.data)
    classifier = network("madry", arguments.data, arguments.networks)
    kinds = (KDensity, Confidence, NonMaximalEntropy)
    guards = {
        kind.__name__: Guard(classifier, [kind()])
        .fit(split.train)
        .calibrate(split.calibration, fpr=FPR)
        for kind in kinds
    }
    test = split.test.select(slice(0, arguments.count))
    attacks = [FGSM(eps=EPS), BIM(eps=EPS), MIM(eps=EPS), PGD(eps=EPS, steps=40)]
    with clocked() as seconds:
        began = time.perf_counter()
        evaluate(guards, test.x, test.y, attacks=attacks, data="MNIST", progress=True)
        wall = time.perf_counter() - began
    inside = sum(seconds)
    print(  # noqa: T201
        f"{len(test)} images, 3 guards, 4 attacks, 2 threats: {wall:.0f} s, {inside:.0f} s of it "
        f"in attacks, {wall / inside:.2f} times",
        flush=True,
    )
    few = split.test.select(slice(0, 500))
    began = time.perf_counter()
    quick = guards["KDensity"]
    evaluate(quick, few.x, few.y, suite="quick", eps=[0.1, 0.2, 0.3], data="MNIST")
    print(f"quick suite, 500 images, 3 eps: {time.perf_counter() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
