"""Loads a repository; the test kills the first attempt during the load."""

from __future__ import annotations

import json
from pathlib import Path

from metaflow import FlowSpec, current, huggingface_hub, retry, step


class RetryFlow(FlowSpec):
    """One step with another attempt, and the end."""

    @retry(times=1, minutes_between_retries=0)
    @huggingface_hub(load=["acme/chunks"])
    @step
    def start(self) -> None:
        """Print what was loaded."""
        path = Path(current.huggingface_hub.loaded["acme/chunks"])
        files = {f.name: f.stat().st_size for f in path.rglob("*") if f.is_file()}
        seen = {"attempt": current.retry_count, "files": files}
        print("PROBE " + json.dumps(seen))  # noqa: T201 - read by the test
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    RetryFlow()
