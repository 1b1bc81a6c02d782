"""Loads what the variable PROBE says, and prints what the step gets as one line of JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from metaflow.cards import Markdown

from metaflow import FlowSpec, current, huggingface_hub, kubernetes, step

PROBE: dict[str, Any] = json.loads(os.environ.get("PROBE", "{}"))


def listing(path: str) -> dict[str, str]:
    """Return the beginning of every file below `path`."""
    files = [file for file in Path(path).rglob("*") if file.is_file()]
    assert not any(file.is_symlink() for file in files) or not current.ours
    return {str(f.relative_to(path)): f.read_bytes()[:20].decode(errors="replace") for f in files}


def remotely(function: Any) -> Any:
    """Run a step in a pod, if there is an image for it."""
    wanted = "METAFLOW_KUBERNETES_CONTAINER_IMAGE" in os.environ
    return kubernetes(function) if wanted else function


class ProbeFlow(FlowSpec):
    """One step with the decorator, and the end."""

    @remotely
    @huggingface_hub(
        load=PROBE.get("load"),
        cache_scope=PROBE.get("cache_scope", "checkpoint"),
        temp_dir_root=PROBE.get("temp_dir_root"),
    )
    @step
    def start(self) -> None:
        """Print what was loaded and what the calls return."""
        hub = current.huggingface_hub
        module = huggingface_hub.args[0].__module__
        current._update_env({"ours": module.startswith("metaflow_extensions.hftransfer.")})
        if PROBE.get("fail"):
            raise RuntimeError("the user's own error")
        references = [hub.snapshot_download(**call) for call in PROBE.get("calls", [])]
        blocks = {}
        for call in PROBE.get("blocks", []):
            with hub.load(**call) as path:
                blocks[path] = listing(path)
        if note := PROBE.get("card"):
            card = current.card["huggingface_hub_models"]
            card.append(Markdown(note))
            card.refresh()
        seen = {
            "decorator": module,
            "loaded": {repo: hub.loaded[repo] for repo in hub.loaded.info},
            "files": {repo: listing(hub.loaded[repo]) for repo in hub.loaded.info},
            "info": hub.loaded.info,
            "missing": "no/such" in hub.loaded,
            "references": references,
            "blocks": blocks,
            "left": [path for path in blocks if os.path.exists(path)],
        }
        print("PROBE " + json.dumps(seen, default=str))  # noqa: T201 - read by the test
        self.next(self.end)

    @step
    def end(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    ProbeFlow()
