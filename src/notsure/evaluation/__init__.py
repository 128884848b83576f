"""Evaluation: threats, records, and the metrics computed from records alone."""

from notsure.evaluation.conclusions import (
    Certified,
    Conclusion,
    conclusions,
    within_certificate,
)
from notsure.evaluation.costs import Cost, QueryCurve, QueryPoint, costs, success_against_queries
from notsure.evaluation.coverage import Coverage, CoveragePoint, coverage_accuracy
from notsure.evaluation.detection import Detection, Generalisation, detection, generalisation
from notsure.evaluation.distances import (
    DistancePoint,
    Distortion,
    accuracy_against_distance,
    minimal_distortions,
)
from notsure.evaluation.examiner import evaluate
from notsure.evaluation.grids import Grid, GridCell, grid
from notsure.evaluation.intervals import (
    Area,
    Rate,
    area_under_roc,
    false_positive_rate_at,
    wilson,
)
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import (
    WORST_CASE,
    RobustnessRow,
    Run,
    accuracy_against_eps,
    robustness,
)
from notsure.evaluation.sanity import Flag, flags
from notsure.evaluation.suites import suite_plan
from notsure.evaluation.threats import (
    THREATS,
    Oblivious,
    QueryDecisions,
    QueryScores,
    Threat,
    TransferFrom,
    WhiteBox,
)
from notsure.evaluation.transferability import TransferCell, transfer_matrix

__all__ = [
    "THREATS",
    "WORST_CASE",
    "Area",
    "Certified",
    "Conclusion",
    "Cost",
    "Coverage",
    "CoveragePoint",
    "Detection",
    "DistancePoint",
    "Distortion",
    "Flag",
    "Generalisation",
    "Grid",
    "GridCell",
    "Oblivious",
    "QueryCurve",
    "QueryDecisions",
    "QueryPoint",
    "QueryScores",
    "Rate",
    "Records",
    "RobustnessRow",
    "Run",
    "Threat",
    "TransferCell",
    "TransferFrom",
    "WhiteBox",
    "accuracy_against_distance",
    "accuracy_against_eps",
    "area_under_roc",
    "conclusions",
    "costs",
    "coverage_accuracy",
    "detection",
    "evaluate",
    "false_positive_rate_at",
    "flags",
    "generalisation",
    "grid",
    "minimal_distortions",
    "robustness",
    "success_against_queries",
    "suite_plan",
    "transfer_matrix",
    "wilson",
    "within_certificate",
]
