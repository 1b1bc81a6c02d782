"""A repository that is known only when the flow runs, passed between steps by reference.

    python examples/dynamic_load_flow.py run --repo bert-base-uncased

The first step stores the repository in Metaflow's datastore, without a copy on the local
disk, and keeps a reference to it as an artifact. ``@model`` in the next step loads the
reference. Set ``HF_ENDPOINT`` to use another Hub.
"""

from __future__ import annotations

import os

from metaflow import FlowSpec, Parameter, current, huggingface_hub, model, step


class DynamicLoadFlow(FlowSpec):
    """Passes a repository from one step to the next."""

    repo = Parameter("repo", default="bert-base-uncased", help="repository id on the Hub")

    @huggingface_hub
    @step
    def start(self) -> None:
        """Store the repository's JSON files, and keep the reference."""
        self.reference = current.huggingface_hub.snapshot_download(
            repo_id=self.repo, allow_patterns=["*.json"]
        )
        print(f"{self.repo} is stored under {self.reference['key']}")
        self.next(self.end)

    @model(load="reference")
    @step
    def end(self) -> None:
        """Load the repository by its reference."""
        path = current.model.loaded["reference"]
        print(f"{self.repo} is in {path}")
        print(f"Its files: {', '.join(sorted(os.listdir(path)))}")


if __name__ == "__main__":
    DynamicLoadFlow()
