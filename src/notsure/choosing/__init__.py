"""Choosing a guard for a model: candidates, cross-validation, the folder and its model card."""

from notsure.choosing.candidates import BARE, Candidate, candidates
from notsure.choosing.card import write_card
from notsure.choosing.cross_validation import cross_validated
from notsure.choosing.fitting import Fitted, fit_guard
from notsure.choosing.inputs import load_guard
from notsure.choosing.results import Result, Settings

__all__ = [
    "BARE",
    "Candidate",
    "Fitted",
    "Result",
    "Settings",
    "candidates",
    "cross_validated",
    "fit_guard",
    "load_guard",
    "write_card",
]
