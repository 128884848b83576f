"""Models and data from outside, brought to what notsure examines."""

from __future__ import annotations

from notsure.adapters.classes import matched
from notsure.adapters.images import LoadedImages, LoadedSplit, load_images, load_split
from notsure.adapters.loaded import Loaded
from notsure.adapters.models import load_model
from notsure.adapters.resizing import Resizing

__all__ = [
    "Loaded",
    "LoadedImages",
    "LoadedSplit",
    "Resizing",
    "load_images",
    "load_model",
    "load_split",
    "matched",
]
