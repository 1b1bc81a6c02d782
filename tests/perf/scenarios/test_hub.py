"""The Hub scenarios from end to end, at a small scale: real servers, tools and processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.report.results import read_results
from support.perf import run_perf


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.timeout(240)
@pytest.mark.parametrize("scenario", ["hub-throttled", "hub-large-tls", "hub-shards", "hub-small"])
def test_a_scaled_run_from_end_to_end(tmp_path: Path, scenario: str) -> None:
    """hftransfer, huggingface_hub and the limit run in turn and succeed, and no file remains."""
    tools = ("hftransfer", "huggingface_hub", "limit")
    path = tmp_path / "runs.json"

    done = run_perf(
        "run", scenario, "--scale", "0.004", "--runs", "2", "--json", str(path), "--tool", *tools,
        cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (result,) = read_results([path])
    assert [run.tool for run in result.runs] == [*tools, *tools[1:], tools[0]]
    assert all(run.ok and run.wall_s > 0 and run.cpu_s > 0 for run in result.runs)
    assert all(sum(run.requests.values()) >= result.files for run in result.runs)
    assert result.good_runs("hftransfer")[0].timeline[-1][1] == result.bytes
    assert set(result.to_json()["ratio"]) == set(tools[1:])
    assert all(tool in done.stdout for tool in tools)
    assert list(tmp_path.iterdir()) == [path]
