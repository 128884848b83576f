"""What a benchmark ran on: enough to judge its figures, nothing that names the host."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import notsure

PACKAGES = (
    "notsure",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "foolbox",
    "torchattacks",
    "adversarial-robustness-toolbox",
    "adv-lib",
)


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, threads, load and device, as JSON-ready values."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # other work on the machine shows here: a load well above the threads spoils the figures
        "load_at_start": [round(value, 2) for value in os.getloadavg()],
        "device": device.type,
    }
    if device.type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict[str, str]:
    """The versions of Python and of every contestant that is installed."""
    installed = {name: _version(name) for name in PACKAGES}
    found = {name: version for name, version in installed.items() if version is not None}
    return {"python": platform.python_version(), **found}


def _version(package: str) -> str | None:
    # notsure may be run from its source folder, and knows its version itself
    if package == "notsure":
        return notsure.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
