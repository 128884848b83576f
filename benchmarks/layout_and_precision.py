"""ResNet-32 on 28x28 images: memory layout and bfloat16 against float32, interleaved.

python benchmarks/layout_and_precision.py

Prints the median images per second of a training step for each combination, and its ratio to
contiguous float32; and the seconds of one input gradient, as attacks take it, for both layouts.
"""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import nn

from notsure import models

ROUNDS, BATCH = 5, 128
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def network(layout: torch.memory_format) -> nn.Module:
    """A fresh ResNet-32 in a layout."""
    return models.build("resnet32", in_channels=1, size=28).to(memory_format=layout)


def training_step(module: nn.Module, x: torch.Tensor, y: torch.Tensor, *, bf16: bool) -> float:
    """Seconds of one forward and backward pass with weight gradients."""
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = module(x)
    module.zero_grad()
    F.cross_entropy(logits.float(), y).backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began


def input_gradient(module: nn.Module, x: torch.Tensor) -> float:
    """Seconds of one forward and backward pass to the input."""
    variable = x.clone().requires_grad_()
    began = time.perf_counter()
    torch.autograd.grad(module(variable).sum(), variable)
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    x, y = torch.rand(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    networks = {name: network(layout) for name, layout in LAYOUTS.items()}
    steps: dict[tuple[str, bool], list[float]] = {}
    gradients: dict[str, list[float]] = {}
    for _ in range(ROUNDS + 1):
        for name, module in networks.items():
            for bf16 in (False, True):
                seconds = training_step(module.train(), x, y, bf16=bf16)
                steps.setdefault((name, bf16), []).append(seconds)
            gradients.setdefault(name, []).append(input_gradient(module.eval(), x))
    base = statistics.median(steps["contiguous", False][1:])
    for (name, bf16), seconds_of in steps.items():
        median = statistics.median(seconds_of[1:])
        kind = "bfloat16" if bf16 else "float32"
        line = f"training, {name}, {kind}: {BATCH / median:.0f} images/s, {base / median:.2f}x"
        print(line)  # noqa: T201
    ratio = statistics.median(gradients["channels-last"][1:])
    ratio /= statistics.median(gradients["contiguous"][1:])
    print(f"input gradient: channels-last takes {ratio:.2f} of contiguous")  # noqa: T201


if __name__ == "__main__":
    main()
