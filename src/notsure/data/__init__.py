"""Labelled images: where they come from, and the split into train, calibration and test."""

from __future__ import annotations

from notsure.data.images import Images, from_arrays
from notsure.data.split import Split, SplitRecord, load, split

__all__ = ["Images", "Split", "SplitRecord", "from_arrays", "load", "split"]
