"""Loads what a finished run, named on the command line, stored; as a notebook would."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from metaflow import Checkpoint, Run, load_model, namespace

namespace(None)
# Metaflow's client looks only in the default datastore, so the references are arguments.
references = json.loads(sys.argv[2])
sizes = []
for number, reference in enumerate(references):
    folder = Path(tempfile.mkdtemp(), str(number))
    load_model(reference, str(folder))
    sizes.append(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
task = Run(sys.argv[1])["start"].task
listed = sorted({found["name"] for found in Checkpoint().list(task=task)})
print("PROBE " + json.dumps({"sizes": sizes, "listed": listed}))  # noqa: T201 - read by the test
