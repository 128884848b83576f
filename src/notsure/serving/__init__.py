"""A guard behind HTTP: judged in batches, measured, and what it rejects kept for a person."""

from notsure.serving.limits import Limits

__all__ = ["Limits"]
