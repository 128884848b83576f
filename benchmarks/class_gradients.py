"""The gradients of several logits of a batch: one backward pass each, or all of them batched.

python benchmarks/class_gradients.py

Prints, for each network and number of logits, the median seconds of the three ways and their ratio
to the first: a backward pass a logit over one retained graph (what attacks do), `is_grads_batched`,
and the batch repeated once for each logit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from notsure import models

ROUNDS, BATCH = 7, 64
Way = Callable[[nn.Module, torch.Tensor, int], torch.Tensor]


def one_by_one(module: nn.Module, x: torch.Tensor, count: int) -> torch.Tensor:
    """A backward pass for each logit."""
    variable = x.clone().requires_grad_()
    logits = module(variable)
    parts = [
        torch.autograd.grad(logits[:, k].sum(), variable, retain_graph=k + 1 < count)[0]
        for k in range(count)
    ]
    return torch.stack(parts, dim=1)


def batched(module: nn.Module, x: torch.Tensor, count: int) -> torch.Tensor:
    """All backward passes as one, vectorised by torch."""
    variable = x.clone().requires_grad_()
    logits = module(variable)
    wanted = torch.zeros(count, *logits.shape)
    wanted[torch.arange(count), :, torch.arange(count)] = 1
    (gradient,) = torch.autograd.grad(logits, variable, wanted, is_grads_batched=True)
    return gradient.transpose(0, 1)


def repeated(module: nn.Module, x: torch.Tensor, count: int) -> torch.Tensor:
    """One pass over the batch repeated for each logit."""
    variable = x.repeat_interleave(count, dim=0).requires_grad_()
    logits = module(variable)
    wanted = torch.arange(count).repeat(len(x))
    chosen = logits.gather(1, wanted[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, variable)
    return gradient.view(len(x), count, *x.shape[1:])


WAYS: dict[str, Way] = {
    "one by one": one_by_one,
    "is_grads_batched": batched,
    "repeated batch": repeated,
}


def main() -> None:
    """Measures and prints."""
    x = torch.rand(BATCH, 1, 28, 28)
    for name in ("madry_cnn", "resnet32"):
        module = models.build(name, in_channels=1, size=28).eval()
        module.to(memory_format=torch.channels_last)
        for count in (2, 10):
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            expected = one_by_one(module, x, count)
            for _ in range(ROUNDS + 1):
                for way, gradients in WAYS.items():
                    began = time.perf_counter()
                    found = gradients(module, x, count)
                    seconds[way].append(time.perf_counter() - began)
                    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
            base = statistics.median(seconds["one by one"][1:])
            for way, measured in seconds.items():
                median = statistics.median(measured[1:])
                print(  # noqa: T201
                    f"{name}, {count} logits, batch {BATCH}: {way} {median:.3f} s, "
                    f"{median / base:.2f} of one by one"
                )


if __name__ == "__main__":
    main()
