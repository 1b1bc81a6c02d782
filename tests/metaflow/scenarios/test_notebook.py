"""A flow that is defined in a cell of a notebook, and run by Metaflow's `NBRunner`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("IPython")

if TYPE_CHECKING:
    from support.metaflow_flows import FlowRunner

pytestmark = [pytest.mark.metaflow, pytest.mark.extended, pytest.mark.timeout(180)]

CELL = """
import os
from metaflow import FlowSpec, NBRunner, current, huggingface_hub, step

class CellFlow(FlowSpec):
    @huggingface_hub(load=["bert-base-uncased"])
    @step
    def start(self):
        self.files = sorted(os.listdir(current.huggingface_hub.loaded["bert-base-uncased"]))
        self.next(self.end)

    @step
    def end(self):
        pass

run = NBRunner(CellFlow).nbrun()
print("FILES", run["start"].task["files"].data)
"""
NOTEBOOK = f"""
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance().run_cell({CELL!r}, store_history=True).raise_error()
"""


def test_a_flow_in_a_notebook_loads_repositories(runner: FlowRunner) -> None:
    """The decorator works in a flow file that Metaflow makes of the cell."""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        cwd=runner.work,
        env=runner.environ,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "[@huggingface_hub] Downloaded bert-base-uncased at commit " in done.stdout + done.stderr
    assert "FILES ['.gitattributes', 'README.md', 'config.json', " in done.stdout
