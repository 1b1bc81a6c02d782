"""Loads a repository under a time limit that includes the load."""

from __future__ import annotations

import os
from typing import Any

from metaflow import FlowSpec, huggingface_hub, step, timeout


def limited(function: Any) -> Any:
    """Add both decorators in the order that the variable ORDER says."""
    decorators = [huggingface_hub(load=["bert-base-uncased"]), timeout(minutes=2)]
    if os.environ["ORDER"] == "timeout above":
        decorators.reverse()
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


class TimeoutFlow(FlowSpec):
    """One step with both decorators, and the end."""

    @limited
    @step
    def start(self) -> None:
        """Never reached: the test sends Metaflow's alarm signal during the load."""
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    TimeoutFlow()
