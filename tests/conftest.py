"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; without it a test is skipped, and fails in CI."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("NOTSURE_DATA", default))
    if not folder.is_dir():
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain(f"there is no {folder}: set NOTSURE_DATA to the folder of data sets")
    return folder
