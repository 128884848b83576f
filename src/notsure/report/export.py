"""Tables and figures as CSV: rates as shares, each with its interval and its n."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from notsure.evaluation.costs import Cost
from notsure.evaluation.distances import Distortion
from notsure.evaluation.intervals import Area, Rate
from notsure.report.tables import DetectionLine, RobustnessLine


def robustness_csv(lines: Sequence[RobustnessLine]) -> str:
    """The robustness table as CSV, one row a threat, rates as shares with their intervals."""
    names = ("clean_accuracy", "clean_rejection", "lenient", "strict", "success")
    return csv_text(
        {
            **_key(line, threat),
            **{name: getattr(row, name) for name in (*names, "right", "wrong", "flagged")},
        }
        for line in lines
        for threat, row in line.by_threat.items()
    )


def detection_csv(lines: Sequence[DetectionLine]) -> str:
    """The detection table as CSV, one row a threat."""
    return csv_text(
        {
            **_key(line, threat),
            "detector": line.detector,
            "control": line.control,
            "noise": line.noise,
            "held_out": line.held_out,
            "auc_successful": row.successful,
            "auc_everything": row.everything,
            "flagged": row.flagged,
            "flagged_everything": row.flagged_everything,
            "false_positives_at_95": row.false_positives,
            "false_positives_at_95_everything": row.false_positives_everything,
            "evaded": row.evaded,
        }
        for line in lines
        for threat, row in line.by_threat.items()
    )


def rows_csv(rows: Sequence[Distortion] | Sequence[Cost]) -> str:
    """Rows of figures as CSV, a column for each of their fields."""
    return csv_text({field.name: getattr(row, field.name) for field in fields(row)} for row in rows)


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV.

    A rate or an area becomes four columns: its value, the ends of its interval (`_low`, `_high`)
    and what it is over (`_n`). What is missing is empty.
    """
    flat = [_flat(row) for row in rows]
    if not flat:
        return ""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(text, fieldnames=names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Rate | Area):
            flat[name] = _cell(value.value)
            flat[f"{name}_low"] = _cell(value.low)
            flat[f"{name}_high"] = _cell(value.high)
            flat[f"{name}_n"] = value.n if isinstance(value, Rate) else value.positives
        else:
            flat[name] = _cell(value)
    return flat


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else float(f"{value:.8g}")
    return value


def _key(line: RobustnessLine | DetectionLine, threat: str) -> dict[str, Any]:
    return {
        "guard": line.guard,
        "threat": threat,
        "attack": line.attack,
        "norm": line.norm,
        "eps": line.eps,
    }
