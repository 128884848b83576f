"""Audits: what is left of a model from outside, for people and for pipelines."""

from __future__ import annotations

from notsure.audit.compare import Compared, compare_models
from notsure.audit.figures import Figures, figures_of
from notsure.audit.requirements import Requirement, requirements
from notsure.audit.run import Audit, run_audit
from notsure.audit.worst import Worst

__all__ = [
    "Audit",
    "Compared",
    "Figures",
    "Requirement",
    "Worst",
    "compare_models",
    "figures_of",
    "requirements",
    "run_audit",
]
