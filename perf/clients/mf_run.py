"""Runs the flow of the Metaflow scenarios in this interpreter's environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

flow = Path(__file__).with_name("mf_flow.py")
environ = {**os.environ, "MF_JOB": sys.argv[1]}
os.execve(sys.executable, [sys.executable, str(flow), "run"], environ)  # noqa: S606 - no shell is wanted
