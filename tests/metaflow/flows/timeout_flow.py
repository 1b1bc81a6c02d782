"""Loads a repository under a time limit that includes the load."""

from __future__ import annotations

from metaflow import FlowSpec, huggingface_hub, step, timeout


class TimeoutFlow(FlowSpec):
    """One step with both decorators, and the end."""

    @huggingface_hub(load=["bert-base-uncased"])
    @timeout(minutes=2)
    @step
    def start(self) -> None:
        """Never reached: the test sends Metaflow's alarm signal during the load."""
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    TimeoutFlow()
