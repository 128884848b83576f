"""The manifest of a run: what it was made with, where, and how long it took; no names of people."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import notsure
from notsure.core.storage import save_json, writable_folder
from notsure.studies.results import versions
from notsure.studies.run import Outcome
from notsure.studies.steps import Step
from notsure.studies.store import Store

MANIFEST = "manifest.json"

_PACKAGES = ("numpy", "scikit-learn", "pyarrow", "safetensors", "timm", "ray")
_GIB = 1 << 30


def write_manifest(
    folder: str | Path,
    plan: Sequence[Step],
    store: Store,
    outcome: Outcome,
    *,
    study: str = "",
    scale: str = "",
    entries: Mapping[tuple[str, str], Step] | None = None,
) -> Path:
    """Writes `manifest.json` beside a run's results, in place of that of an earlier call.

    It holds no user name, no host name and no absolute path, as long as no step's name does.

    Args:
        folder: where to.
        plan: the steps of the run.
        store: where their results are.
        outcome: what the run did.
        study: the study's name.
        scale: the scale that it was run at.
        entries: the study's steps by section and name, which steps' names alone do not tell.

    Returns:
        The file's path.

    Raises:
        ConfigurationError: the folder cannot be written to.
    """
    path, entries = writable_folder(folder) / MANIFEST, entries or {}
    content = {
        "study": study,
        "scale": scale,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "finished": outcome.finished,
        "wall_seconds": round(outcome.wall, 3),
        "step_seconds": round(sum(_taken(step, store) or 0.0 for step in plan), 3),
        "versions": all_versions(),
        "commit": commit(),
        "machine": machine(),
        "steps": [_told(step, store, outcome) for step in plan],
        "entries": {
            section: {
                name: step.identity for (own, name), step in entries.items() if own == section
            }
            for section in dict.fromkeys(own for own, _ in entries)
        },
    }
    save_json(path, content)
    return path


def all_versions() -> dict[str, str]:
    """notsure, torch, Python, and what else is installed that figures may depend on."""
    found = versions()
    for name in _PACKAGES:
        version = _version(name)
        if version is not None:
            found[name] = version
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit() -> dict[str, Any] | None:
    """The commit of notsure's own sources, and whether they were changed since.

    None where it is not run from a checkout: the commit of a repository that it is merely
    installed inside of would say nothing.
    """
    package = Path(notsure.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "src" / "notsure" != package:
        return None
    head = _git(package, "rev-parse", "HEAD")
    if head is None:
        return None
    return {"commit": head, "changed": bool(_git(package, "status", "--porcelain", "--", "."))}


def _git(folder: Path, *words: str) -> str | None:
    try:
        told = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *words],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def machine() -> dict[str, Any]:
    """What did the work: processor, cores, memory, GPUs, system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "gpus": [
            torch.cuda.get_device_name(index)
            for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        ],
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)
    except (AttributeError, OSError, ValueError):
        return None


def seeds(step: Step) -> dict[str, int]:
    """Every seed in a step's settings, by where it stands, as "recipe.seed"."""
    return dict(_seeds(step.settings(), ()))


def _seeds(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _seeds(entry, (*path, key))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _seeds(entry, (*path, str(index)))
    elif path and (path[-1] == "seed" or path[-1].endswith("_seed")) and isinstance(value, int):
        yield ".".join(path), value


def _told(step: Step, store: Store, outcome: Outcome) -> dict[str, Any]:
    result = store.result(step)
    told: dict[str, Any] = {
        "name": step.name,
        "kind": step.kind,
        "identity": step.identity,
        "needs": [need.identity for need in step.needs],
        "seeds": seeds(step),
        "done": result is not None,
        "now": step.identity in outcome.seconds,
    }
    if result is not None:
        told |= {"seconds": result.seconds, "bytes": result.size}
        apart = result.differences()
        if apart:
            told["made_with"] = {name: there for name, (there, _) in apart.items()}
    if step.identity in outcome.why:
        told["why"] = outcome.why[step.identity]
    return told


def _taken(step: Step, store: Store) -> float | None:
    result = store.result(step)
    return None if result is None else result.seconds
