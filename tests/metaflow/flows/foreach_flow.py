"""Tasks of a foreach load the same repository; the join loads a reference of each."""

from __future__ import annotations

import json
from pathlib import Path

from metaflow import FlowSpec, current, huggingface_hub, model, step


class ForeachFlow(FlowSpec):
    """Three siblings, and a step that reads what they refer to."""

    @step
    def start(self) -> None:
        """Begin."""
        self.numbers = [0, 1, 2]
        self.next(self.load, foreach="numbers")

    @huggingface_hub(load=["bert-base-uncased"])
    @step
    def load(self) -> None:
        """Load, and make a reference."""
        hub = current.huggingface_hub
        self.info = dict(hub.loaded.info["bert-base-uncased"])
        self.config = Path(hub.loaded["bert-base-uncased"], "config.json").read_text()
        self.reference = hub.snapshot_download(repo_id="bert-base-uncased")
        self.next(self.join)

    @step
    def join(self, inputs: list[ForeachFlow]) -> None:
        """Keep the reference of every sibling."""
        self.first, self.second, self.third = (each.reference for each in inputs)
        seen = {
            "keys": [each.info["key"] for each in inputs],
            "hits": [each.info["cache_hit"] for each in inputs],
            "configs": [each.config for each in inputs],
        }
        print("PROBE " + json.dumps(seen))  # noqa: T201 - read by the test
        self.next(self.end)

    @model(load=["first", "second", "third"])
    @step
    def end(self) -> None:
        """Each reference leads to the files."""
        for name in ("first", "second", "third"):
            path = Path(current.model.loaded[name], "config.json")
            assert json.loads(path.read_text()) == {"revision": "main"}


if __name__ == "__main__":
    ForeachFlow()
