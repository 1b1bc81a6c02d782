"""Saves checkpoints and models in both formats and loads what is named in the variable LOAD."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from metaflow import FlowSpec, checkpoint, current, model, step

LOAD: list[dict[str, Any]] = json.loads(os.environ.get("LOAD", "[]"))


def listing(path: str) -> dict[str, int]:
    """Return the size of every file below `path`."""
    files = [file for file in Path(path).rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.stat().st_size for file in files}


class CheckpointFlow(FlowSpec):
    """One step with both decorators, and one that loads by artifact."""

    @checkpoint
    @model
    @step
    def start(self) -> None:
        """Save in both formats; load what another run saved."""
        Path("saved/deep").mkdir(parents=True, exist_ok=True)
        Path("saved/weights.bin").write_bytes(b"w" * 9_000_000)
        Path("saved/deep/config.json").write_text("{}")
        self.saved = [
            current.checkpoint.save("saved", name=form, storage_format=form)
            for form in ("files", "tar")
        ]
        self.saved += [
            current.model.save("saved", label=form, storage_format=form)
            for form in ("files", "tar")
        ]
        self.files, self.tar = self.saved[0], self.saved[3]
        found = [listing(current.model.load(reference)) for reference in [*self.saved, *LOAD]]
        seen = {"saved": self.saved, "found": found}
        print("PROBE " + json.dumps(seen, default=str))  # noqa: T201 - read by the test
        self.next(self.end)

    @model(load=["files", ("tar", "./unpacked")])
    @step
    def end(self) -> None:
        """Load both by the names of the artifacts."""
        for path in (current.model.loaded["files"], "./unpacked"):
            assert listing(path) == {"weights.bin": 9_000_000, "deep/config.json": 2}


if __name__ == "__main__":
    CheckpointFlow()
