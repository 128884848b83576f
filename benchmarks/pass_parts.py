"""What a step of PGD costs, part by part, beside the bare pass that it is made of.

python benchmarks/pass_parts.py --data ../shared/data/mnist [--network robust] [--batch 256]

Interleaves a bare forward and backward pass, the same through the framework (counts, who has
reached the goal, zero and non-finite gradients), the step and projection, the best-so-far tracker,
and a forward pass alone; prints medians, and minima, which a busy machine moves less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from attacks import correct_images
from networks import network

from notsure.attacks import PGD
from notsure.attacks.goals import Misclassified
from notsure.attacks.objectives import CrossEntropy
from notsure.attacks.problem import Best, Problem
from notsure.core.checks import content_keys
from notsure.core.randomness import Streams


def parts(source: str, name: str, folder: Path, batch: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    classifier = network(name, source, folder)
    x, y = correct_images(classifier, source, batch, torch.device("cpu"))
    rows = torch.arange(len(x))
    streams = Streams.of(content_keys(x), 0)
    problem = Problem(classifier, x, y, Misclassified(), streams)
    best, attack, objective = Best(problem), PGD(eps=0.3, steps=40), CrossEntropy()
    delta, low, high = torch.full_like(x, 0.01), -x, 1 - x

    def bare() -> torch.Tensor:
        moved = x.clone().requires_grad_()
        loss = F.cross_entropy(classifier.module(moved), y, reduction="sum")
        return torch.autograd.grad(loss, moved)[0]

    slope = bare()

    def step() -> torch.Tensor:
        norm = attack.geometry
        moved = norm.steepest_step(slope, attack.step_length, low - delta, high - delta)
        return x + norm.project(delta + moved, attack.radius, low, high)

    return {
        "bare forward and backward": bare,
        "the same through the framework": lambda: problem.ascend(x, rows, objective),
        "step and projection": step,
        "best so far": lambda: best.offer(x, rows, rows < 0, torch.rand(len(x))),
        "forward alone": lambda: problem.draw(x, rows),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="where MNIST is")
    parser.add_argument("--networks", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--network", default="robust")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    timed = parts(arguments.data, arguments.network, arguments.networks, arguments.batch)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(arguments.rounds + 1):
        for name, run in timed.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        # the first round warms up
        told = 1e3 * statistics.median(values[1:]), 1e3 * min(values[1:])
        print(f"{name}: {told[0]:.2f} ms, at least {told[1]:.2f} ms")  # noqa: T201


if __name__ == "__main__":
    main()
