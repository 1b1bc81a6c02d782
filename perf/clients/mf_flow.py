"""A flow whose first step loads a repository, loads a model or saves a checkpoint.

``PERF_RUN_SPEC`` names the run's JSON file. The step records the seconds of the transfer in the
file of the metrics.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from metaflow import FlowSpec, checkpoint, current, huggingface_hub, model, step

with open(os.environ["PERF_RUN_SPEC"]) as file:
    SPEC: dict[str, Any] = json.load(file)

DECORATORS = {"model": model, "checkpoint": checkpoint}


class PerfFlow(FlowSpec):
    """The measured step, and the end."""

    @(
        DECORATORS[SPEC["mode"]]
        if SPEC["mode"] in DECORATORS
        else huggingface_hub(cache_scope="flow")
    )
    @step
    def start(self) -> None:
        """Transfer according to the mode."""
        metrics: dict[str, Any] = {}
        start = time.monotonic()
        if SPEC["mode"] == "fill":
            reference = current.huggingface_hub.snapshot_download(repo_id=SPEC["repo_id"])
            metrics["reference"] = reference
        elif SPEC["mode"] == "load":
            with current.huggingface_hub.load(repo_id=SPEC["repo_id"], path=SPEC["destination"]):
                pass
        elif SPEC["mode"] == "model":
            current.model.load(SPEC["reference"], path=SPEC["destination"])
        else:
            current.checkpoint.save(SPEC["dataset"])
        metrics["transfer_s"] = round(time.monotonic() - start, 3)
        Path(SPEC["metrics_path"]).write_text(json.dumps(metrics))
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    PerfFlow()
