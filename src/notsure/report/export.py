"""The tables of a report as CSV: rates as shares, each with its interval and its n."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from notsure.evaluation.metrics import Area, Rate
from notsure.report.tables import DetectionLine, RobustnessLine


def robustness_csv(lines: Sequence[RobustnessLine]) -> str:
    """The robustness table as CSV, one row a threat, rates as shares with their intervals."""
    return _csv(
        [
            {
                **_csv_key(line, threat),
                **_csv_rate("clean_accuracy", row.clean_accuracy),
                **_csv_rate("clean_rejection", row.clean_rejection),
                **_csv_rate("lenient", row.lenient),
                **_csv_rate("strict", row.strict),
                **_csv_rate("success", row.success),
            }
            for line in lines
            for threat, row in line.by_threat.items()
        ]
    )


def detection_csv(lines: Sequence[DetectionLine]) -> str:
    """The detection table as CSV, one row a threat."""
    return _csv(
        [
            {
                **_csv_key(line, threat),
                "detector": line.detector,
                **_csv_area("auc_successful", row.successful),
                **_csv_area("auc_everything", row.everything),
                **_csv_rate("flagged", row.flagged),
            }
            for line in lines
            for threat, row in line.by_threat.items()
        ]
    )


def _csv_key(line: RobustnessLine | DetectionLine, threat: str) -> dict[str, Any]:
    return {
        "guard": line.guard,
        "threat": threat,
        "attack": line.attack,
        "norm": line.norm,
        "eps": line.eps,
    }


def _csv_rate(name: str, rate: Rate) -> dict[str, Any]:
    return {
        name: rate.value,
        f"{name}_low": rate.low,
        f"{name}_high": rate.high,
        f"{name}_n": rate.n,
    }


def _csv_area(name: str, area: Area) -> dict[str, Any]:
    return {
        name: area.value,
        f"{name}_low": area.low,
        f"{name}_high": area.high,
        f"{name}_n": area.positives,
    }


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
