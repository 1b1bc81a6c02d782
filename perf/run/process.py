"""Starts processes through `launcher`: measured commands, and servers that end with us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perf.model import Command

__all__ = ("Usage", "clean_environ", "measure", "run_server", "tail")

_LAUNCHER = Path(__file__).with_name("launcher.py")
_REMOVED_PREFIXES = ("AWS_", "HF_", "HUGGING_FACE_", "METAFLOW_", "PYTHON")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True)
class Usage:
    """Resource usage of a finished command and the children it waited for, from wait4(2).

    `machine_s` is the time in core seconds that the whole machine was busy during the run.
    """

    status: int
    timed_out: bool
    wall_s: float
    user_s: float
    sys_s: float
    machine_s: float
    peak_rss_kb: int
    minflt: int
    majflt: int


def clean_environ(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return the environment for a measured process.

    It is this process's environment without tokens, profiles, proxies and Python's settings,
    all of which could make tools differ. ``HFTRANSFER_*`` variables are kept.

    Args:
        changes: variables to set; None removes one.
    """
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_REMOVED_PREFIXES) and name.lower() not in _PROXIES
    }
    for name, value in changes.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    return environ


def measure(command: Command, *, cwd: Path, log: Path, timeout: float) -> Usage:
    """Run a command until it exits and return its resource usage.

    Args:
        command: what to run.
        cwd: its working directory.
        log: file to which its output is appended.
        timeout: seconds after which the command and its children are ended.

    Raises:
        RuntimeError: it could not be started.
    """
    with _launch(command, cwd=cwd, log=log, timeout=timeout) as process:
        assert process.stdout is not None
        usage = process.stdout.read()
    if not usage:
        raise RuntimeError(f"{command.argv[0]} could not be started: {tail(log)}")
    return Usage(**json.loads(usage))


@contextmanager
def run_server(
    command: Command, *, cwd: Path, log: Path, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the duration of the context; yields its launcher's process.

    Args:
        command: the server, which must stay in the foreground.
        cwd: its working directory.
        log: file to which its output is appended.
        pass_fds: file descriptors that it inherits.
    """
    with _launch(command, cwd=cwd, log=log, timeout=None, pass_fds=pass_fds) as process:
        yield process


@contextmanager
def _launch(
    command: Command,
    *,
    cwd: Path,
    log: Path,
    timeout: float | None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    request = {
        "argv": command.argv,
        "environ": clean_environ(command.environ),
        "cwd": str(cwd),
        "log": str(log),
        "timeout": timeout,
    }
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCHER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C must reach this process only
            pass_fds=pass_fds,
        )
    with process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            yield process
        finally:
            process.stdin.close()  # the launcher ends the command if it is still running
            process.wait()


def tail(log: Path, lines: int = 3) -> str:
    """Return the last non-empty lines of a log file, joined into one line."""
    if not log.exists():
        return ""
    kept = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(kept[-lines:])
