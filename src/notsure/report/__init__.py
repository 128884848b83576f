"""The report: one self-contained HTML page, and tables for the console."""

from notsure.report.html import write_report
from notsure.report.tables import (
    DetectionLine,
    RobustnessLine,
    console_table,
    detection_table,
    robustness_table,
)

__all__ = [
    "DetectionLine",
    "RobustnessLine",
    "console_table",
    "detection_table",
    "robustness_table",
    "write_report",
]
