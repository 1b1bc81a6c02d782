"""Processes: what is measured, and that none outlives the harness."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perf.run.process import Command, clean_environ, measure, serving

ROOT = Path(__file__).parents[3]


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code))


def test_what_a_command_used_is_its_own(tmp_path: Path) -> None:
    """CPU time, memory and status are those of the child and of what it waited for."""
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
    # The machine did at least this; its clock ticks every 10 ms on every core.
    slack = 0.02 * (os.cpu_count() or 1)
    assert usage.user_s + usage.sys_s - slack < usage.machine_s


def test_memory_of_the_harness_does_not_count(tmp_path: Path) -> None:
    """The kernel counts memory before exec; a small launcher stands between."""
    ballast = bytearray(b"x") * 300_000_000

    usage = measure(Command(("/bin/true",)), cwd=tmp_path, log=tmp_path / "log", timeout=60)

    assert usage.peak_rss_kb * 1024 < 30_000_000
    del ballast


def test_who_takes_too_long_is_ended_with_all_children(tmp_path: Path) -> None:
    """A time-out ends the whole session of the command and says so."""
    command = Command(("/bin/sh", "-c", "sleep 600 & echo $!; wait"))

    usage = measure(command, cwd=tmp_path, log=tmp_path / "log", timeout=5)

    assert usage.timed_out
    assert ends(int((tmp_path / "log").read_text()))


def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    """It is no run of 0 seconds."""
    with pytest.raises(RuntimeError, match="/does/not/exist could not be started"):
        measure(Command(("/does/not/exist",)), cwd=tmp_path, log=tmp_path / "log", timeout=5)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe: reading it waits until the other side has written."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def sleeper(pipe: Path) -> str:
    """A program that tells its process id and then does nothing for long."""
    return f"import os, time; open({str(pipe)!r}, 'w').write(str(os.getpid())); time.sleep(600)"


def test_a_server_ends_with_its_block(tmp_path: Path, pipe: Path) -> None:
    """An exception in the block ends the server, too."""
    command = python(sleeper(pipe))

    with (
        pytest.raises(ZeroDivisionError),
        serving(command, cwd=tmp_path, log=tmp_path / "log"),
    ):
        pid = int(pipe.read_text())
        raise ZeroDivisionError

    assert ends(pid)


def test_nothing_survives_a_killed_harness(tmp_path: Path, pipe: Path) -> None:
    """Even SIGKILL of the harness ends what it started: its end of a pipe is gone."""
    code = f"""
import sys, time
from pathlib import Path
sys.path.append({str(ROOT)!r})
from perf.run.process import Command, serving
here = Path({str(tmp_path)!r})
with serving(Command((sys.executable, "-c", {sleeper(pipe)!r})), cwd=here, log=here / "log"):
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as harness:
        descriptor = os.pidfd_open(int(pipe.read_text()))
        harness.send_signal(signal.SIGKILL)

    assert select.select([descriptor], [], [], 30)[0], "the server outlived the harness"
    os.close(descriptor)


def test_settings_of_the_operator_reach_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, profiles and proxies stay out; options of hftransfer under test get through."""
    for name in ("HF_TOKEN", "AWS_PROFILE", "https_proxy", "PYTHONPATH", "HFTRANSFER_LOOPS"):
        monkeypatch.setenv(name, "operator's")

    environ = clean_environ({"HF_HOME": "/ours", "PATH": None})

    assert {"HF_TOKEN", "AWS_PROFILE", "https_proxy", "PYTHONPATH", "PATH"}.isdisjoint(environ)
    assert environ["HFTRANSFER_LOOPS"] == "operator's"
    assert environ["HF_HOME"] == "/ours"


def ends(pid: int) -> bool:
    """Whether the process is gone or, told to end already, goes within some seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return select.select([handle], [], [], 20)[0] != []
    finally:
        os.close(handle)
