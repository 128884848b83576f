"""How much of an attack's time is spent inside the network, which no attack can do without.

python benchmarks/passes.py --data ../shared/data/mnist [--attacks pgd,jsma] [--count 64]

Prints for each attack the forward and backward passes an image has cost, the seconds in all, and
the share of these in the target's own passes, forward and backward: what is left is all that a
faster implementation of the same search could save.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attacks import correct_images
from networks import network

from notsure.attacks import (
    APGD,
    FAB,
    JSMA,
    PGD,
    Attack,
    AutoAttack,
    CarliniWagner,
    DeepFool,
    NewtonFool,
    Square,
)
from notsure.attacks.problem import Problem

ATTACKS: dict[str, tuple[str, Attack]] = {
    "pgd": ("robust", PGD(eps=0.3, steps=40, early_stop=False)),
    "pgd-resnet32": ("resnet32", PGD(eps=0.3, steps=40, early_stop=False)),
    "apgd": ("robust", APGD(eps=0.3)),
    "square": ("robust", Square(eps=0.3, queries=1000)),
    "fab": ("robust", FAB(eps=0.3, targets=9)),
    "autoattack": ("robust", AutoAttack(eps=0.3)),
    "jsma": ("madry", JSMA(gamma=0.1)),
    "cw": ("madry", CarliniWagner()),
    "deepfool": ("madry", DeepFool()),
    "newtonfool": ("madry", NewtonFool()),
}


@contextmanager
def clocked(times: dict[str, float]) -> Iterator[None]:
    """Adds up the seconds that the target's passes take inside."""
    originals: dict[str, Any] = {"differentiate": Problem.differentiate, "draw": Problem.draw}

    def wrapped(name: str) -> Any:
        def call(self: Problem, *arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return originals[name](self, *arguments, **named)
            finally:
                times[name] += time.perf_counter() - began

        return call

    for name in originals:
        setattr(Problem, name, wrapped(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Problem, name, original)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="where MNIST is")
    parser.add_argument("--networks", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--attacks", help=f"some of {','.join(ATTACKS)}; default all")
    parser.add_argument("--count", type=int, default=32, help="how many images")
    arguments = parser.parse_args()
    for name in arguments.attacks.split(",") if arguments.attacks else ATTACKS:
        source, attack = ATTACKS[name]
        classifier = network(source, arguments.data, arguments.networks)
        x, y = correct_images(classifier, arguments.data, arguments.count, torch.device("cpu"))
        attack(classifier, x[:2], y[:2])
        times = dict.fromkeys(("differentiate", "draw"), 0.0)
        with clocked(times):
            began = time.perf_counter()
            found = attack(classifier, x, y)
            spent = time.perf_counter() - began
        inside = sum(times.values())
        print(  # noqa: T201
            f"{name} on {source}, {len(x)} images: {float(found.queries.double().mean()):.0f} F "
            f"and {float(found.gradients.double().mean()):.0f} B an image, "
            f"{spent / len(x):.4f} s an image, {inside / spent:.0%} of it in passes",
            flush=True,
        )


if __name__ == "__main__":
    main()
