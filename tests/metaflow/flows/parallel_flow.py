"""Two nodes of @parallel load a repository, and save one checkpoint each and one together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metaflow import FlowSpec, checkpoint, current, huggingface_hub, model, parallel, step


class ParallelFlow(FlowSpec):
    """A gang of two, and what it saved."""

    @step
    def start(self) -> None:
        """Two nodes."""
        self.next(self.train, num_parallel=2)

    @checkpoint
    @huggingface_hub(load=["bert-base-uncased"])
    @parallel  # applied first, so that the other decorators see the gang
    @step
    def train(self) -> None:
        """Load, and save."""
        node = current.parallel.node_index
        loaded = Path(current.huggingface_hub.loaded["bert-base-uncased"])
        self.files = sorted(file.name for file in loaded.rglob("*") if file.is_file())
        self.entry = current.huggingface_hub.loaded.info["bert-base-uncased"]["key"]
        Path(f"shard-{node}").mkdir(exist_ok=True)
        Path(f"shard-{node}", f"part-{node}").write_text(str(node))
        self.own = current.checkpoint.save(f"shard-{node}", name=f"own-{node}")
        self.together = current.checkpoint.save(f"shard-{node}", name="together")
        self.next(self.join)

    @model
    @step
    def join(self, inputs: Any) -> None:
        """Load what the nodes saved; the shards of one checkpoint are together."""
        nodes = list(inputs)

        def content(reference: Any) -> dict[str, str]:
            folder = Path(current.model.load(reference))
            return {file.name: file.read_text() for file in folder.rglob("*") if file.is_file()}

        seen = {
            "files": [node.files for node in nodes],
            "entries": [node.entry for node in nodes],
            "own": [content(node.own) for node in nodes],
            "together": [content(node.together) for node in nodes],
        }
        print("PROBE " + json.dumps(seen))  # noqa: T201 - read by the test
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    ParallelFlow()
