"""notsure: attack, harden and guard image classifiers, and measure honestly what is left.

The parts are loaded when they are first used, so that `import notsure` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from notsure.core.errors import NotSureError

if TYPE_CHECKING:
    from notsure import (
        adapters,
        attacks,
        audit,
        choosing,
        correctors,
        data,
        detectors,
        evaluation,
        integrations,
        models,
        purifiers,
        report,
        smoothing,
        testing,
        training,
    )
    from notsure.classifier import Classifier
    from notsure.core.target import NOT_SURE, Adversarial, Response, Target
    from notsure.evaluation import Records, evaluate
    from notsure.guard import Guard
    from notsure.verdict import Verdict
    from notsure.views import DecisionsOnly, ScoresOnly

__version__ = "0.1.0"

_HOMES = {
    "NOT_SURE": "notsure.core.target",
    "Adversarial": "notsure.core.target",
    "Classifier": "notsure.classifier",
    "DecisionsOnly": "notsure.views",
    "Guard": "notsure.guard",
    "Records": "notsure.evaluation",
    "Response": "notsure.core.target",
    "ScoresOnly": "notsure.views",
    "Target": "notsure.core.target",
    "Verdict": "notsure.verdict",
    "evaluate": "notsure.evaluation",
}
_PACKAGES = (
    "adapters",
    "attacks",
    "audit",
    "choosing",
    "correctors",
    "data",
    "detectors",
    "evaluation",
    "integrations",
    "models",
    "purifiers",
    "report",
    "smoothing",
    "testing",
    "training",
)

__all__ = [
    "NOT_SURE",
    "Adversarial",
    "Classifier",
    "DecisionsOnly",
    "Guard",
    "NotSureError",
    "Records",
    "Response",
    "ScoresOnly",
    "Target",
    "Verdict",
    "adapters",
    "attacks",
    "audit",
    "choosing",
    "correctors",
    "data",
    "detectors",
    "evaluate",
    "evaluation",
    "integrations",
    "models",
    "purifiers",
    "report",
    "smoothing",
    "testing",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"notsure.{name}")
    raise AttributeError(f"module 'notsure' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
