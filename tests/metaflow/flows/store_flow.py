"""Stores repositories in an artifact store, with parameters that the flow gives."""

from __future__ import annotations

import json
import os
from pathlib import Path

from metaflow import (
    FlowSpec,
    current,
    huggingface_hub,
    model,
    step,
    with_artifact_store,
)


@with_artifact_store(type="s3", config=lambda: json.loads(os.environ["ARTIFACT_STORE"]))
class StoreFlow(FlowSpec):
    """Two repositories and a model: more than metaflow-checkpoint can load from such a store."""

    @huggingface_hub(
        load=[
            {"repo_id": "bert-base-uncased", "allow_patterns": "*.json"},
            {"repo_id": "bert-base-uncased", "allow_patterns": "*.json", "revision": "v2"},
        ]
    )
    @step
    def start(self) -> None:
        """Both revisions are loaded, each under its own name."""
        loaded = current.huggingface_hub.loaded
        for name, revision in (
            ("bert-base-uncased@main", "main"),
            ("bert-base-uncased@v2", "v2"),
            ("bert-base-uncased", "v2"),
        ):
            assert json.loads(Path(loaded[name], "config.json").read_text())["revision"] == revision
        assert set(loaded) == set(loaded.info)
        assert len(loaded) == 3
        self.reference = current.huggingface_hub.snapshot_download(
            repo_id="bert-base-uncased", allow_patterns="*.json", revision="v2"
        )
        self.next(self.end)

    @model(load="reference")
    @step
    def end(self) -> None:
        """The model is the one of the second revision."""
        path = Path(current.model.loaded["reference"], "config.json")
        assert json.loads(path.read_text())["revision"] == "v2"
        arguments = [
            Path("/proc", pid, "cmdline").read_bytes()
            for pid in os.listdir("/proc")
            if pid.isdigit()
        ]
        secret = json.loads(os.environ["ARTIFACT_STORE"])["client_params"]["aws_secret_access_key"]
        assert not [line for line in arguments if secret.encode() in line]


if __name__ == "__main__":
    StoreFlow()
