"""Durations as people write them, and how long a step will take."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable

from notsure.core.errors import ConfigurationError
from notsure.studies.steps import Step
from notsure.studies.store import Result

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])\s*")


def parse_duration(text: str | float) -> float:
    """Seconds of "9m", "2h30m", "45s", "1.5h" or a number of seconds.

    Raises:
        ConfigurationError: it is none of these, or not above 0.
    """
    if isinstance(text, str):
        pieces = _PIECE.findall(text.strip().lower())
        units = [unit for _, unit in pieces]
        whole = _PIECE.sub("", text.strip().lower()) == "" and bool(pieces)
        # each unit once, from large to small
        ordered = units == [unit for unit in _UNITS if unit in units]
        seconds = sum(float(count) * _UNITS[unit] for count, unit in pieces)
        valid = whole and ordered
    else:
        seconds, valid = float(text), True
    if not (valid and math.isfinite(seconds) and seconds > 0):
        raise ConfigurationError(
            f"A duration is written like '9m', '2h30m' or '45s', or as seconds above 0; got "
            f"{text!r}."
        )
    return seconds


def duration_text(seconds: float) -> str:
    """Seconds as "2 h 30 min", "9 min 5 s", "45 s" or "0.3 s"; "unknown" where NaN."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, 60, "min", 1, "s")
    # of hours the seconds do not matter
    minutes = round(whole / 60) * 60
    return _two(minutes, 3600, "h", 60, "min")


def _two(seconds: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = seconds % large // small
    return f"{seconds // large} {large_name}" + (f" {rest} {small_name}" if rest else "")


class Estimates:
    """How long steps will take, learnt from those that were finished.

    What steps of a kind took in comparison with their own estimates (the median of the ratios)
    corrects the next one's; where a step has no idea, the median of its kind stands in.

    Args:
        results: of finished steps.
    """

    def __init__(self, results: Iterable[Result] = ()) -> None:
        self._ratios: dict[str, list[float]] = {}
        self._seconds: dict[str, list[float]] = {}
        for result in results:
            self.learn(result)

    def learn(self, result: Result) -> None:
        """Takes what a step took into account."""
        kind, told = result.done["kind"], result.done["estimate"]
        self._seconds.setdefault(kind, []).append(result.seconds)
        if told is not None and told > 0:
            self._ratios.setdefault(kind, []).append(result.seconds / told)

    def of(self, step: Step) -> float:
        """Seconds for that step; NaN if nobody knows."""
        own = step.estimate()
        if math.isfinite(own) and step.kind in self._ratios:
            return own * statistics.median(self._ratios[step.kind])
        if math.isfinite(own) or step.kind not in self._seconds:
            return own
        return statistics.median(self._seconds[step.kind])
