"""Saves a checkpoint and fails; the next attempt loads it."""

from __future__ import annotations

import json
from pathlib import Path

from metaflow import FlowSpec, checkpoint, current, huggingface_hub, retry, step


class AgainFlow(FlowSpec):
    """One step with another attempt, and the end."""

    @retry(times=1, minutes_between_retries=0)
    @checkpoint
    @huggingface_hub(load=[{"repo_id": "bert-base-uncased", "allow_patterns": "*.json"}])
    @step
    def start(self) -> None:
        """Save in the first attempt, load in the second."""
        if current.retry_count == 0:
            Path("weights").write_text("of the first attempt")
            current.checkpoint.save("weights")
            raise RuntimeError("the first attempt ends here")
        found = Path(current.checkpoint.directory, "weights").read_text()
        loaded = current.huggingface_hub.loaded["bert-base-uncased"]
        seen = {
            "loaded": current.checkpoint.is_loaded,
            "weights": found,
            "files": len(list(Path(loaded).iterdir())),
        }
        print("PROBE " + json.dumps(seen))  # noqa: T201 - read by the test
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    AgainFlow()
