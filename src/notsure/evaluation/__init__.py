"""Evaluation: threats, records, and the metrics computed from records alone."""

from notsure.evaluation.examiner import evaluate
from notsure.evaluation.metrics import (
    Detection,
    Rate,
    RobustnessRow,
    accuracy_against_eps,
    detection,
    robustness,
    wilson,
)
from notsure.evaluation.records import Records
from notsure.evaluation.threats import Oblivious, Threat, WhiteBox

__all__ = [
    "Detection",
    "Oblivious",
    "Rate",
    "Records",
    "RobustnessRow",
    "Threat",
    "WhiteBox",
    "accuracy_against_eps",
    "detection",
    "evaluate",
    "robustness",
    "wilson",
]
