"""Runs the flow of the Metaflow scenarios in this interpreter's environment.

What it prints passes through, and tells how long the measured step took, its process's start
and end included: ``step_s``, beside what the flow itself leaves as facts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

FLOW = Path(__file__).with_name("mf_flow.py")
JOB = Path(sys.argv[1])

started = ended = 0.0
with subprocess.Popen(
    [sys.executable, str(FLOW), "run"],
    env={**os.environ, "MF_JOB": str(JOB)},
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
    facts = Path(json.loads(JOB.read_text())["facts"])
    measured = {**json.loads(facts.read_text()), "step_s": round(ended - started, 3)}
    facts.write_text(json.dumps(measured))
sys.exit(flow.returncode)
