"""The Metaflow scenarios from end to end, small: flows of both tools, on a MinIO of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

from perf.fixtures.metaflow import INCUMBENT, MetaflowWorld, metaflow
from perf.model import Place
from perf.report.results import OURS, read_documents
from perf.run.dataset import FileSpec
from perf.run.environments import python_of
from perf.run.process import measure
from perf.scenarios.metaflow import METAFLOW_SCENARIOS
from perf.scenarios.registry import SCENARIOS

ROOT = Path(__file__).parents[3]
FILES = (FileSpec("model.bin", 2_000_000), FileSpec("deep/config.json", 300, "text"))

pytestmark = [
    pytest.mark.metaflow,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.usefixtures("minio"),
]


def told(line: str) -> None:
    """Progress of no interest."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("world", "payloads"):
        (tmp_path / name).mkdir()
    return Place(tmp_path / "world", tmp_path / "payloads", 1.0, told)


@pytest.mark.parametrize("scenario", [scenario.name for scenario in METAFLOW_SCENARIOS])
def test_a_scaled_run_from_end_to_end(tmp_path: Path, scenario: str) -> None:
    """What is installed runs in turn, is right, tells its times, and leaves nothing behind."""
    tools = [OURS, *([INCUMBENT] if python_of("metaflow") else [])]
    done = subprocess.run(
        [sys.executable, "-m", "perf", "run", scenario, "--scale", "0.01", "--runs", "1"]
        + ["--json", str(tmp_path / "runs.json"), "--tool", *tools],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    (document,) = read_documents([tmp_path / "runs.json"])
    assert [run.tool for run in document.runs] == tools
    for run in document.runs:
        assert run.ok
        assert 0 < run.extra["transfer_s"] <= run.extra["step_s"] <= run.wall_s
    ours = document.of(OURS)[0]
    # From the Hub on a miss alone, and then no file twice.
    cold = scenario.startswith("mf-cold")
    assert (sum(ours.requests.values()) >= document.files) == cold
    assert [path.name for path in tmp_path.iterdir()] == ["runs.json"]


@pytest.mark.parametrize("mode", ["load", "checkpoint"])
def test_a_wrong_byte_is_a_problem(place: Place, mode: str) -> None:
    """What the flow left is compared with its source: in the folder, or in the datastore."""
    with metaflow(FILES, mode)(place) as world:  # type: ignore[arg-type]
        assert isinstance(world, MetaflowWorld)
        with world.job(OURS) as job:
            command = SCENARIOS["mf-cold"].tools[0].command(job)
            usage = measure(command, cwd=job.scratch, log=job.scratch / "log", timeout=200)
            assert usage.status == 0, (job.scratch / "log").read_text()
            assert world.problem(job) is None
            assert json.loads(job.facts.read_text())["step_s"] > 0

            if mode == "load":
                (Path(job.values["destination"]) / "deep" / "config.json").write_text("?" * 300)
            else:
                (Path(job.values["payload"]) / "deep" / "config.json").write_text("?" * 300)
            problem = world.problem(job)
            assert problem is not None
            assert "config.json" in problem


def test_a_failed_flow_keeps_its_status(place: Place) -> None:
    """The launcher's exit status is the flow's, and its output is there to be read."""
    with metaflow(FILES, "load")(place) as world, world.job(OURS) as job:
        command = SCENARIOS["mf-cold"].tools[0].command(job)
        broken = {
            **command.environ,
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HFTRANSFER_ATTEMPTS": "1",
        }
        log = job.scratch / "log"
        usage = measure(type(command)(command.argv, broken), cwd=job.scratch, log=log, timeout=200)

        assert usage.status != 0
        assert "127.0.0.1:9" in log.read_text()
