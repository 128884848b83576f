"""A page to attack a guard on, one image at a time, and to look at what it says."""

from notsure.playground.attempt import Attempt, attempt
from notsure.playground.judgement import Judgement, judgement_of

__all__ = ["Attempt", "Judgement", "attempt", "judgement_of"]
