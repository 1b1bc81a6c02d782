"""Results as the benchmark would measure them, and its command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perf.report.results import Run, ScenarioResult

__all__ = ("CHECKOUT", "make_result", "make_run", "run_perf")

CHECKOUT = Path(__file__).parents[2]
_MACHINE = {"cores": 2, "cpu": "a <b> & c", "memory_gb": 24.0, "kernel": "6.1", "python": "3.11"}


def make_run(tool: str, index: int, wall: float, **changes: object) -> Run:
    """Return a run in round `index` that took `wall` seconds, and three quarters of that in CPU."""
    from perf.report.results import Run

    values: dict[str, object] = {
        "version": "1.0",
        "user_s": wall / 2,
        "sys_s": wall / 4,
        "peak_rss_mb": 100.0 + wall,
        "ok": True,
        "requests": {"hub": 2, "cdn": 5},
        **changes,
    }
    return Run(tool=tool, round=index, wall_s=wall, **values)  # type: ignore[arg-type]


def make_result(name: str = "hub-large", **changes: object) -> ScenarioResult:
    """Return three rounds in which hftransfer takes half of curl's time, and aria2c fails."""
    from perf.report.results import ScenarioResult

    timeline = [(0.2 * i, 250_000_000 * i) for i in range(1, 9)]
    runs = [
        *(make_run("hftransfer", i, 1.0 + i, timeline=timeline) for i in range(3)),
        *(make_run("curl", i, 2.0 + 2 * i) for i in range(3)),
        *(make_run("limit", i, 0.5) for i in range(3)),
        make_run("aria2c", 0, 3.0, ok=False, error="exit status 1: no | pipes"),
    ]
    values: dict[str, object] = {"bytes": 2_000_000_000, "files": 1, "runs": runs, **changes}
    return ScenarioResult(scenario=name, machine=_MACHINE, summary="2 GB", **values)  # type: ignore[arg-type]


def run_perf(
    *arguments: str, cwd: Path, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m perf`` with `cwd` as its directory for temporary files."""
    return subprocess.run(
        [sys.executable, "-m", "perf", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
