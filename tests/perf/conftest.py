"""Makes `perf` importable, which the distribution does not contain, and provides a workspace."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# At the end, so that the tests use the installed hftransfer and not the one of the checkout.
sys.path.append(str(Path(__file__).parents[2]))

from perf.model import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace that logs nothing."""
    for name in ("testbed", "datasets"):
        (tmp_path / name).mkdir()
    return Workspace(tmp_path / "testbed", tmp_path / "datasets", 1.0, lambda line: None)
