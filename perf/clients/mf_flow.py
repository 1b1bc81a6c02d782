"""One step that moves a repository, a model or a checkpoint, and tells how long that took."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from metaflow import FlowSpec, checkpoint, current, huggingface_hub, model, step

with open(os.environ["MF_JOB"]) as file:
    JOB: dict[str, Any] = json.load(file)

DECORATORS = {"model": model, "checkpoint": checkpoint}


class PerfFlow(FlowSpec):
    """The measured step, and the end."""

    @(DECORATORS[JOB["mode"]] if JOB["mode"] in DECORATORS else huggingface_hub(cache_scope="flow"))
    @step
    def start(self) -> None:
        """Do what the job says."""
        facts: dict[str, Any] = {}
        began = time.monotonic()
        if JOB["mode"] == "fill":
            reference = current.huggingface_hub.snapshot_download(repo_id=JOB["repo_id"])
            facts["reference"] = reference
        elif JOB["mode"] == "load":
            with current.huggingface_hub.load(repo_id=JOB["repo_id"], path=JOB["destination"]):
                pass
        elif JOB["mode"] == "model":
            current.model.load(JOB["reference"], path=JOB["destination"])
        else:
            current.checkpoint.save(JOB["payload"])
        facts["transfer_s"] = round(time.monotonic() - began, 3)
        Path(JOB["facts"]).write_text(json.dumps(facts))
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    PerfFlow()
