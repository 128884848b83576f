"""The report: one self-contained HTML page, papers' tables and figures, and console tables."""

from notsure.report.html import write_report
from notsure.report.paper import write_paper
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
    "write_paper",
    "write_report",
]
