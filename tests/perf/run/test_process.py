"""Processes: resource usage, and that none outlives the benchmark."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perf.model import Command
from perf.run.process import clean_environ, measure, run_server
from support.perf import CHECKOUT


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def test_the_usage_is_that_of_the_command_and_its_children(tmp_path: Path) -> None:
    """CPU time, memory and status include the child that the command waited for."""
    code = "import subprocess, sys; b = bytearray(b'x') * 90_000_000; "
    code += (
        "subprocess.run([sys.executable, '-c', 'sum(range(3_000_000))'], check=True); sys.exit(3)"
    )

    usage = measure(python(code), cwd=tmp_path, log=tmp_path / "log", timeout=60)

    assert usage.status == 3
    assert not usage.timed_out
    assert 90_000_000 < usage.peak_rss_kb * 1024 < 200_000_000
    assert usage.minflt > 90_000_000 // 4096 // 512
    assert 0 < usage.user_s + usage.sys_s < 2 * usage.wall_s + 1
    # The machine was busy for at least that long; its clock ticks every 10 ms on every core.
    slack = 0.02 * (os.cpu_count() or 1)
    assert usage.user_s + usage.sys_s - slack < usage.machine_s


def test_the_memory_of_the_benchmark_is_not_counted(tmp_path: Path) -> None:
    """The kernel counts memory from before exec, so a small launcher starts the command."""
    ballast = bytearray(b"x") * 300_000_000

    usage = measure(Command(("/bin/true",)), cwd=tmp_path, log=tmp_path / "log", timeout=60)

    assert usage.peak_rss_kb * 1024 < 30_000_000
    del ballast


def test_a_timeout_ends_the_command_and_its_children(tmp_path: Path) -> None:
    """The whole session of the command is ended, and the usage says so."""
    command = Command(("/bin/sh", "-c", "sleep 600 & echo $!; wait"))

    usage = measure(command, cwd=tmp_path, log=tmp_path / "log", timeout=5)

    assert usage.timed_out
    assert exits(int((tmp_path / "log").read_text()))


def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    """It is not reported as a run of 0 seconds."""
    with pytest.raises(RuntimeError, match="/does/not/exist could not be started"):
        measure(Command(("/does/not/exist",)), cwd=tmp_path, log=tmp_path / "log", timeout=5)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe: reading from it waits until a writer has closed it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def sleeper(pipe: Path) -> str:
    """A program that writes its process id to the pipe and then sleeps for 10 minutes."""
    return f"import os, time; open({str(pipe)!r}, 'w').write(str(os.getpid())); time.sleep(600)"


def test_a_server_ends_with_its_context(tmp_path: Path, pipe: Path) -> None:
    """An exception inside the context ends the server, too."""
    command = python(sleeper(pipe))

    with (
        pytest.raises(ZeroDivisionError),
        run_server(command, cwd=tmp_path, log=tmp_path / "log"),
    ):
        pid = int(pipe.read_text())
        raise ZeroDivisionError

    assert exits(pid)


def test_no_process_outlives_a_killed_benchmark(tmp_path: Path, pipe: Path) -> None:
    """SIGKILL closes the benchmark's end of the pipe, upon which the launcher ends the server."""
    code = f"""
import sys, time
from pathlib import Path
sys.path.append({str(CHECKOUT)!r})
from perf.model import Command
from perf.run.process import run_server
here = Path({str(tmp_path)!r})
with run_server(Command((sys.executable, "-c", {sleeper(pipe)!r})), cwd=here, log=here / "log"):
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as benchmark:
        pidfd = os.pidfd_open(int(pipe.read_text()))
        benchmark.send_signal(signal.SIGKILL)

    assert select.select([pidfd], [], [], 30)[0], "the server outlived the benchmark"
    os.close(pidfd)


def test_the_user_settings_reach_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, profiles and proxies are removed; options of hftransfer are kept."""
    for name in ("HF_TOKEN", "AWS_PROFILE", "https_proxy", "PYTHONPATH", "HFTRANSFER_LOOPS"):
        monkeypatch.setenv(name, "of the user")

    environ = clean_environ({"HF_HOME": "/ours", "PATH": None})

    assert {"HF_TOKEN", "AWS_PROFILE", "https_proxy", "PYTHONPATH", "PATH"}.isdisjoint(environ)
    assert environ["HFTRANSFER_LOOPS"] == "of the user"
    assert environ["HF_HOME"] == "/ours"


def exits(pid: int) -> bool:
    """Whether the process has exited or exits within 20 seconds."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return select.select([pidfd], [], [], 20)[0] != []
    finally:
        os.close(pidfd)
