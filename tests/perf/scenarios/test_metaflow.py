"""The Metaflow scenarios from end to end, at a small scale: the flows of both tools, on MinIO."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

from perf.fixtures.metaflow import METAFLOW_CHECKPOINT
from perf.model import OURS
from perf.report.results import read_results
from perf.run.environments import python_of
from perf.scenarios.metaflow import METAFLOW_SCENARIOS
from support.perf import run_perf

pytestmark = [
    pytest.mark.metaflow,
    pytest.mark.slow,
    pytest.mark.extended,
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("minio"),
]


@pytest.mark.parametrize("scenario", [scenario.name for scenario in METAFLOW_SCENARIOS])
def test_a_scaled_run_from_end_to_end(tmp_path: Path, scenario: str) -> None:
    """The installed tools succeed and report the times of step and transfer; no file remains."""
    tools = [OURS, *([METAFLOW_CHECKPOINT] if python_of("metaflow") else [])]
    path = tmp_path / "runs.json"
    done = run_perf(
        "run", scenario, "--scale", "0.01", "--runs", "1", "--json", str(path), "--tool", *tools,
        cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (result,) = read_results([path])
    assert [run.tool for run in result.runs] == tools
    for run in result.runs:
        assert run.ok
        assert 0 < run.extra["transfer_s"] <= run.extra["step_s"] <= run.wall_s
    ours = result.good_runs(OURS)[0]
    # Only a miss downloads from the Hub.
    cold = scenario.startswith("mf-cold")
    assert (sum(ours.requests.values()) >= result.files) == cold
    assert list(tmp_path.iterdir()) == [path]
