"""Starts commands through `launcher`: measured ones, and servers that must not outlive us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ("Command", "Usage", "clean_environ", "measure", "serving", "tail")

_LAUNCHER = Path(__file__).with_name("launcher.py")
_FOREIGN = ("AWS_", "HF_", "HUGGING_FACE_", "METAFLOW_", "PYTHON")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True)
class Command:
    """What to start: `argv[0]` is the full path of a program, `environ` adds to the environment.

    A variable whose value is None is removed.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """What a finished command used, as wait4 reports it: itself and the children it waited for.

    `machine_s` are the core seconds that the whole machine was at work meanwhile.
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
    """Return this process's environment without what would make tools differ, and `changes`."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name.lower() not in _PROXIES
    }
    for name, value in changes.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    return environ


def measure(command: Command, *, cwd: Path, log: Path, timeout: float) -> Usage:
    """Run a command to its end and return what it used.

    Args:
        cwd: its working directory.
        log: gets its output.
        timeout: seconds after which it is ended.

    Raises:
        RuntimeError: it could not be started.
    """
    with _tethered(command, cwd=cwd, log=log, timeout=timeout) as process:
        assert process.stdout is not None
        answer = process.stdout.read()
    if not answer:
        raise RuntimeError(f"{command.argv[0]} could not be started: {tail(log)}")
    return Usage(**json.loads(answer))


@contextmanager
def serving(
    command: Command, *, cwd: Path, log: Path, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a server running for the length of a block; the yielded process ends when it does."""
    with _tethered(command, cwd=cwd, log=log, timeout=None, pass_fds=pass_fds) as process:
        yield process


@contextmanager
def _tethered(
    command: Command,
    *,
    cwd: Path,
    log: Path,
    timeout: float | None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    order = {
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
            start_new_session=True,  # Ctrl-C is ours alone
            pass_fds=pass_fds,
        )
    with process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            yield process
        finally:
            process.stdin.close()  # ends the command if it still runs
            process.wait()


def tail(log: Path, lines: int = 3) -> str:
    """Return the last lines of a log as one line."""
    if not log.exists():
        return ""
    kept = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(kept[-lines:])
