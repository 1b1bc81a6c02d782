"""Runs the flow of the Metaflow scenarios with this interpreter.

Passes on the flow's output, and takes from it how long the measured step lasted, start and exit
of its process included. Adds that as ``step_s`` to the metrics that the flow recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

FLOW = Path(__file__).with_name("mf_flow.py")
SPEC = Path(sys.argv[1])

started = ended = 0.0
with subprocess.Popen(
    [sys.executable, str(FLOW), "run"],
    env={**os.environ, "PERF_RUN_SPEC": str(SPEC)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
) as flow:
    assert flow.stdout is not None
    for line in flow.stdout:
        sys.stdout.buffer.write(line)
        if b"/start/" in line and b"Task is starting." in line:
            started = time.monotonic()
        elif b"/start/" in line and b"Task finished successfully." in line:
            ended = time.monotonic()
if flow.returncode == 0:
    metrics = Path(json.loads(SPEC.read_text())["metrics_path"])
    measured = {**json.loads(metrics.read_text()), "step_s": round(ended - started, 3)}
    metrics.write_text(json.dumps(measured))
sys.exit(flow.returncode)
