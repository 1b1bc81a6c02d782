"""Uses credentials wherever a flow can, and dumps all environments and command lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from metaflow import (
    FlowSpec,
    card,
    checkpoint,
    current,
    huggingface_hub,
    model,
    step,
    with_artifact_store,
)

# The secrets come from a file: any in the environment or on a command line are leaks.
SECRETS: dict[str, Any] = json.loads(Path(os.environ["SECRETS_FILE"]).read_text())
CHILD = """
import json, sys
from metaflow import Checkpoint
Checkpoint().save(sys.argv[1], name="child")
"""


def dump(name: str) -> None:
    """Write down the environment and the command line of every process of this run."""
    found = [json.dumps(dict(os.environ)).encode()]
    for process in Path("/proc").iterdir():
        try:
            if os.getsid(int(process.name)) == os.getsid(0):
                found += [(process / kind).read_bytes() for kind in ("environ", "cmdline")]
        except (OSError, ValueError):
            pass  # not a process, or one that has ended
    found.append(subprocess.run(["env"], stdout=subprocess.PIPE, check=True).stdout)
    Path(os.environ["DUMPS"], name).write_bytes(b"\n".join(found))


@with_artifact_store(
    type="s3", config=SECRETS["store"] if SECRETS["as_dict"] else lambda: SECRETS["store"]
)
class SecretsFlow(FlowSpec):
    """A private repository, a checkpoint of a child process, a model, an artifact store."""

    @card
    @checkpoint
    @huggingface_hub(load=[{"repo_id": "acme/private", "token": SECRETS["token"]}])
    @step
    def start(self) -> None:
        """Save here and in a process of its own."""
        dump("start")
        Path("weights").write_text("weights")
        self.saved = current.checkpoint.save("weights", name="own")
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, "weights"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        dump("child")
        output, _ = child.communicate()
        assert child.returncode == 0, output
        self.names = sorted(found["name"] for found in current.checkpoint.list())
        self.next(self.end)

    @model(load=["saved"])
    @step
    def end(self) -> None:
        """Load the checkpoint from the artifact store."""
        dump("end")
        assert Path(current.model.loaded["saved"], "weights").read_text() == "weights"
        print("PROBE " + json.dumps({"names": self.names}))  # noqa: T201 - read by the test


if __name__ == "__main__":
    SecretsFlow()
