"""Uses none of the decorators."""

from __future__ import annotations

from metaflow import FlowSpec, step


class PlainFlow(FlowSpec):
    """Two steps."""

    @step
    def start(self) -> None:
        """Nothing."""
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    PlainFlow()
