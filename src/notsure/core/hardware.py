"""What the machine is good at."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


@cache
def _processor_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def gains_from_bf16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is done in hardware there.

    Without it a CPU emulates bfloat16: on an AVX2 processor a training step of ResNet-32 takes 12
    times as long as in float32 (benchmarks/layout_and_precision.py).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool({"avx512_bf16", "amx_bf16"} & _processor_flags())
    return False
