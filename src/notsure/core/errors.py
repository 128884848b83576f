"""The errors: each message names the cause and the remedy."""

from __future__ import annotations


class NotSureError(Exception):
    """Base of every error that notsure raises on purpose."""


class ConfigurationError(NotSureError, ValueError):
    """A setting that is out of range, unknown, or does not go with another."""


class InputError(NotSureError, ValueError):
    """Images or labels that are not what they have to be."""


class DataError(NotSureError, ValueError):
    """A data set that cannot be found, read or split."""


class NotFittedError(NotSureError, RuntimeError):
    """A detector or guard that is asked before it was fitted or calibrated."""


class UnsupportedError(NotSureError, TypeError):
    """A part that does not apply to what it was given."""


class CheckpointError(NotSureError, RuntimeError):
    """A saved file or folder that is damaged, foreign, or of another network."""


class VerificationError(NotSureError, RuntimeError):
    """A result that did not hold when it was checked again."""


class DeadlineError(NotSureError, RuntimeError):
    """Work that stopped at a checkpoint because its time was over."""


class RunningError(NotSureError, RuntimeError):
    """Work that another process is at."""


class FailedError(NotSureError, RuntimeError):
    """Work of which a part failed; the rest is done and kept."""


class FullDiskError(NotSureError, OSError):
    """A result that could not be written for lack of space."""


class ClusterError(NotSureError, RuntimeError):
    """A cluster that cannot be reached or used, or that lost the same work again and again."""
