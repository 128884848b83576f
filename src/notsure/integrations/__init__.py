"""Robust accuracy where models are trained and tested: metrics, callbacks, assertions.

`notsure.integrations.lightning` and `notsure.integrations.transformers` hold the callbacks; they
are imported by themselves, since they need those libraries. The assertion is
`notsure.testing.assert_robust`.
"""

from notsure.integrations.measuring import Counts, Robustness, measure
from notsure.integrations.metrics import DetectionAUROC, RobustAccuracy

__all__ = ["Counts", "DetectionAUROC", "RobustAccuracy", "Robustness", "measure"]
