"""Repositories that are known when the flow is written, named in the decorator.

    python examples/static_load_flow.py run

The first run downloads bert-base-uncased once per step, and stores it in Metaflow's
datastore. Later runs load it from there. Set ``HF_ENDPOINT`` to use another Hub.
"""

from __future__ import annotations

import os

from metaflow import FlowSpec, current, huggingface_hub, step

REPO = "bert-base-uncased"


def show(path: str) -> None:
    """Print the path of a repository, and its files."""
    found = sorted(
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, names in os.walk(path)
        for name in names
    )
    print(f"{REPO} is in {path}")
    print(f"Its files: {', '.join(found)}")


class StaticLoadFlow(FlowSpec):
    """Loads one repository in three ways."""

    @huggingface_hub(load=[REPO])
    @step
    def start(self) -> None:
        """Load everything into a temporary folder, which is removed after the step."""
        show(current.huggingface_hub.loaded[REPO])
        self.next(self.to_folder)

    @huggingface_hub(load=[(REPO, "./model_directory")])
    @step
    def to_folder(self) -> None:
        """Load everything into a given folder, which stays."""
        show(current.huggingface_hub.loaded[REPO])
        self.next(self.end)

    @huggingface_hub(
        load=[{"repo_id": REPO, "repo_type": "model", "allow_patterns": ["*.json", "vocab.txt"]}]
    )
    @step
    def end(self) -> None:
        """Load some files only; any argument of snapshot_download can be given."""
        show(current.huggingface_hub.loaded[REPO])


if __name__ == "__main__":
    StaticLoadFlow()
