"""The runner: what it reports about each run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perf.fixtures.hub import HubTestbed, hub
from perf.model import RunSpec, Scenario, Testbed, Workspace
from perf.report.results import ScenarioResult
from perf.run.dataset import FileSpec
from perf.run.runner import run_scenario, select_tools
from perf.tools.base import client


def run_one(scenario: Scenario, workspace: Workspace) -> ScenarioResult:
    return run_scenario(scenario, select_tools(scenario, (), workspace.log), workspace, runs=1)


def test_a_wrong_byte_is_a_failed_run(workspace: Workspace) -> None:
    """The output is compared byte for byte; the run stays in the result, marked as failed."""
    open_hub = hub((FileSpec("a.json", 5000, "text"), FileSpec("b.json", 5000, "text")))

    @contextmanager
    def open_corrupting(workspace: Workspace) -> Iterator[Testbed]:
        with open_hub(workspace) as testbed:
            assert isinstance(testbed, HubTestbed)
            find_error = testbed.find_error

            def corrupt(spec: RunSpec) -> str | None:
                copy = Path(spec.parameters["destination"]) / "b.json"
                data = bytearray(copy.read_bytes())
                data[4321] ^= 1
                copy.write_bytes(data)
                return find_error(spec)

            testbed.find_error = corrupt  # type: ignore[method-assign]
            yield testbed

    tool = client("huggingface_hub", "hub_snapshot", distribution="huggingface_hub")
    result = run_one(Scenario("x", "", open_corrupting, (tool,)), workspace)

    assert [(run.ok, run.error) for run in result.runs] == [
        (False, "b.json differs within the MiB at byte 0")
    ]


def test_a_failed_tool_is_reported_with_the_end_of_its_output(workspace: Workspace) -> None:
    """The error is the exit status and the last lines that the tool printed."""
    tool = client("broken", "no_such_client", distribution="hftransfer")
    files = (FileSpec("a.json", 9, "text"),)
    result = run_one(Scenario("x", "", hub(files), (tool,)), workspace)

    (run,) = result.runs
    assert not run.ok
    assert run.error is not None
    assert run.error.startswith("exit status 2: ")
    assert "no_such_client" in run.error
