"""The command line: bad input, the list, the report, and Ctrl-C."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perf.cli import main
from support.perf import CHECKOUT, make_result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "hub-lagre"], "there is no scenario 'hub-lagre'; there are hub-throttled"),
        (["run", "hub-large", "--tool", "wget"], "hub-large has no tool 'wget'; it has hftransfer"),
        (["run", "hub-large", "--scale", "0"], "a scale must be positive, not 0"),
        (["run", "hub-large", "--scale", "99999"], "GB are needed"),
        (["run", "hub-large", "--json", "/does/not/exist"], "/does/not/exist"),
        (
            ["run", "s3-get-small", "--endpoint-url", "http://127.0.0.1:9"],
            "--endpoint-url needs --bucket",
        ),
        (["report", "/does/not/exist"], "/does/not/exist"),
        (["install", "gs"], "no environment 'gs'"),
    ],
)
def test_bad_input_is_rejected_before_anything_runs(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit code 2 and one line that says what is wrong."""
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.extended
def test_the_list_names_scenarios_and_tools(capsys: pytest.CaptureFixture[str]) -> None:
    """It has every scenario and every tool, installed or not."""
    assert main(["list"]) == 0

    out = capsys.readouterr().out
    for name in ("hub-throttled", "hub-xet", "fixed-cost", "hf_transfer", "limit"):
        assert name in out


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.extended
def test_a_short_soak_finds_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every transfer of two lanes succeeds, and its result is removed after it was compared."""
    code = main(["soak", "--minutes", "0.2", "--lanes", "2", "--work-dir", str(tmp_path)])

    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert code == 0
    assert found["transfers"] >= 2
    assert list((tmp_path / "results").iterdir()) == []


# --- report


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(make_result().to_json()))
    return path


def test_a_report_replaces_its_block_in_both_files(tmp_path: Path, results: Path) -> None:
    """Each file gets its table and its charts, with addresses relative to the file."""
    docs, readme = tmp_path / "docs" / "performance.md", tmp_path / "README.md"
    docs.parent.mkdir()
    docs.write_text("# A\n<!-- perf:begin -->old<!-- perf:end -->\n# B\n")
    readme.write_text("# C\n<!-- perf-summary:begin -->old<!-- perf-summary:end -->\n# D\n")
    svg = tmp_path / "charts"

    code = main(
        ["report", str(results), "--svg", str(svg), "--docs", str(docs), "--readme", str(readme)]
    )

    full, short = docs.read_text(), readme.read_text()
    assert code == 0
    assert full.startswith("# A\n<!-- perf:begin -->\nMeasured on ")
    assert full.endswith("\n<!-- perf:end -->\n# B\n")
    assert "| curl | 4.00 s | 0.50 | 0.50 |" in full
    assert "(../charts/hub-times.svg)" in full
    assert short.startswith("# C\n<!-- perf-summary:begin -->\n![")
    assert short.endswith("\n<!-- perf-summary:end -->\n# D\n")
    assert "(charts/summary.svg)" in short
    assert "**hub-large**" in short
    assert "old" not in full + short
    assert {path.name for path in svg.iterdir()} == {
        "hub-times.svg",
        "hub-throughput.svg",
        "summary.svg",
    }


def test_a_report_without_its_markers_writes_nothing(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If one file lacks the markers, the other one is not changed either."""
    docs, readme = tmp_path / "performance.md", tmp_path / "README.md"
    docs.write_text("<!-- perf:begin --><!-- perf:end -->")
    readme.write_text("nothing")
    svg = tmp_path / "charts"

    code = main(
        ["report", str(results), "--svg", str(svg), "--docs", str(docs), "--readme", str(readme)]
    )

    assert code == 2
    assert f"{readme} must contain <!-- perf-summary:begin -->" in capsys.readouterr().err
    assert docs.read_text() == "<!-- perf:begin --><!-- perf:end -->"
    assert not svg.exists()


def test_a_report_can_be_printed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --print it goes to standard output, and no file is written."""
    assert main(["report", str(results), "--print"]) == 0
    assert "| curl | 4.00 s | 0.50 | 0.50 |" in capsys.readouterr().out
    assert list(results.parent.iterdir()) == [results]


# --- interruption


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.timeout(120)
def test_ctrl_c_ends_servers_and_tools(tmp_path: Path) -> None:
    """Interrupted during a run, the benchmark ends all its processes and deletes its files."""
    arguments = ["run", "hub-throttled", "--tool", "huggingface_hub", "--scale", "0.1"]
    with subprocess.Popen(
        [sys.executable, "-m", "perf", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as benchmark:
        assert benchmark.stderr is not None
        pidfds = wait_for_measured_process(benchmark)
        benchmark.send_signal(signal.SIGINT)
        errors = benchmark.stderr.read()

    assert benchmark.returncode == 130, errors
    assert pidfds
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 20)[0], "a process outlived the benchmark"
        os.close(pidfd)
    assert list(tmp_path.iterdir()) == []


def wait_for_measured_process(benchmark: subprocess.Popen[str]) -> list[int]:
    """Return pidfds of all descendants of the benchmark, once huggingface_hub is running."""
    while benchmark.poll() is None:
        below = descendants(benchmark.pid)
        if any("hub_snapshot.py" in command for command in below.values()):
            return [os.pidfd_open(pid) for pid in below]
    pytest.fail("the benchmark exited before the signal")


def descendants(root: int) -> dict[int, str]:
    """Return the command lines of all descendants of a process, by process id."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                commands[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: commands[pid] for pid in found - {root}}
