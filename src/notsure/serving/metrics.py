"""What a service tells of itself, in the text format of Prometheus."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
EXCESS = (-4.0, -3.0, -2.0, -1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Bounds of a score's histogram: how far it is above its threshold, in units of the distance from
the clean median to the threshold."""

_Labels = tuple[tuple[str, str], ...]


def _text(labels: _Labels) -> str:
    """Labels as they are written, with what would end them escaped."""
    if not labels:
        return ""
    escaped = (
        f'{name}="{value}"'
        for name, value in (
            (name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
            for name, value in labels
        )
    )
    return "{" + ",".join(escaped) + "}"


class Counter:
    """A number that only grows, by labels."""

    kind = "counter"

    def __init__(self) -> None:
        self._values: dict[_Labels, float] = defaultdict(float)

    def add(self, amount: float = 1, **labels: str) -> None:
        """Adds to the number of these labels."""
        self._values[tuple(labels.items())] += amount

    def lines(self, name: str) -> list[str]:
        """As Prometheus reads it."""
        # every digit of it, since a rate is a small difference of large counts
        return [f"{name}{_text(labels)} {value:.17g}" for labels, value in self._values.items()]


class Gauge:
    """A number that is asked for when somebody looks."""

    kind = "gauge"

    def __init__(self, value: Callable[[], float]) -> None:
        self._value = value

    def lines(self, name: str) -> list[str]:
        """As Prometheus reads it."""
        return [f"{name} {self._value():.17g}"]


class Histogram:
    """How often a value fell below each bound, by labels."""

    kind = "histogram"

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts: dict[_Labels, list[int]] = {}
        self._sums: dict[_Labels, float] = defaultdict(float)

    def add(self, value: float, **labels: str) -> None:
        """Takes in a value; one that is not a number counts as above every bound.

        What is not finite is left out of the sum, which would never recover.
        """
        key = tuple(labels.items())
        counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
        # a value equal to a bound is within it; NaN compares as above everything
        place = bisect_left(self._bounds, value) if value == value else len(self._bounds)
        counts[place] += 1
        self._sums[key] += value if math.isfinite(value) else 0.0

    def lines(self, name: str) -> list[str]:
        """As Prometheus reads it."""
        found = []
        for labels, counts in self._counts.items():
            total = 0
            for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
                total += count
                found.append(f"{name}_bucket{_text((*labels, ('le', bound)))} {total}")
            found.append(f"{name}_sum{_text(labels)} {self._sums[labels]:.17g}")
            found.append(f"{name}_count{_text(labels)} {total}")
        return found


class Metrics:
    """All that is measured of a service; it is used by the event loop alone."""

    def __init__(self) -> None:
        self.requests = Counter()
        self.verdicts = Counter()
        self.request_seconds = Histogram(SECONDS)
        self.batch_images = Histogram(IMAGES)
        self.batch_seconds = Histogram(SECONDS)
        self.excess = Histogram(EXCESS)
        self._known: dict[str, tuple[str, Counter | Gauge | Histogram]] = {
            "requests_total": ("Requests by path and status.", self.requests),
            "verdicts_total": (
                "Images by what was said of them; label -1 is NOT SURE.",
                self.verdicts,
            ),
            "request_seconds": ("From the head of a request to its answer.", self.request_seconds),
            "batch_images": ("Images judged together.", self.batch_images),
            "batch_seconds": ("What judging a batch took.", self.batch_seconds),
            "score_excess": (
                "Score minus threshold, in units of the distance from the clean median to the "
                "threshold; above 0 is flagged.",
                self.excess,
            ),
            "resident_bytes": ("Memory of the process.", Gauge(resident_bytes)),
        }

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Adds a number that is asked for when somebody looks."""
        self._known[name] = (about, Gauge(value))

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        lines = []
        for name, (about, metric) in self._known.items():
            full = f"notsure_{name}"
            lines += [f"# HELP {full} {about}", f"# TYPE {full} {metric.kind}"]
            lines += metric.lines(full)
        return "\n".join(lines) + "\n"


def resident_bytes() -> float:
    """Memory of the process that is in RAM, in bytes; NaN where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    for line in lines:
        if line.startswith("VmRSS:"):
            return float(line.split()[1]) * 1024
    return float("nan")
