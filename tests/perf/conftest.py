"""Makes `perf` importable: it is no part of the package that is installed for the tests."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end, so that hftransfer stays the installed one.
sys.path.append(str(Path(__file__).parents[2]))
