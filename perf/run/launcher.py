"""Runs one command for the process at the other end of its pipes and reports its resource usage.

Started as ``python -I -S launcher.py`` with one line of JSON on standard input. It imports
little, because the kernel counts the memory of a process before its exec in the peak RSS of the
program that it executes: a small parent keeps that minimum near 10 MB. When standard input is
closed, the launcher ends the command and all processes of its session, so nothing outlives the
benchmark, even if that is killed by SIGKILL.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

_GRACE_SECONDS = 5.0


def _read_request() -> dict[str, object]:
    text = b""
    while not text.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            raise SystemExit(1)
        text += piece
    request: dict[str, object] = json.loads(text)
    return request


def _end(group: int, pidfd: int) -> None:
    """Send SIGTERM to a process group and, if its leader does not exit in time, SIGKILL."""
    os.killpg(group, signal.SIGTERM)
    if not select.select([pidfd], [], [], _GRACE_SECONDS)[0]:
        os.killpg(group, signal.SIGKILL)


def _machine_seconds() -> float:
    """Return the core seconds since boot in which the machine was busy, 0 if unknown.

    These are user, nice and system time, interrupts, and time stolen by the hypervisor; see
    proc_stat(5).
    """
    try:
        with open("/proc/stat", "rb") as file:
            times = [int(each) for each in file.readline().split()[1:9]]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, stolen = times
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def run(
    argv: list[str], environ: dict[str, str], log: str, timeout: float | None
) -> dict[str, object]:
    """Run `argv` in a new session and return its exit status and resource usage."""
    redirect = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    machine = _machine_seconds()
    start = time.monotonic()
    pid = os.posix_spawn(argv[0], argv, environ, file_actions=redirect, setsid=True)
    pidfd = os.pidfd_open(pid)
    ready = select.select([pidfd, 0], [], [], timeout)[0]
    if pidfd not in ready:
        _end(pid, pidfd)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - start
    machine = _machine_seconds() - machine
    try:
        os.killpg(pid, signal.SIGKILL)  # children that the command left running
    except ProcessLookupError:
        pass
    return {
        "status": os.waitstatus_to_exitcode(status),
        "timed_out": not ready,
        "wall_s": wall,
        "user_s": usage.ru_utime,
        "sys_s": usage.ru_stime,
        "machine_s": machine,
        "peak_rss_kb": usage.ru_maxrss,
        "minflt": usage.ru_minflt,
        "majflt": usage.ru_majflt,
    }


def main() -> None:
    """Read the request, run its command and print the resource usage as JSON."""
    request = _read_request()
    os.chdir(str(request["cwd"]))
    result = run(request["argv"], request["environ"], request["log"], request["timeout"])  # type: ignore[arg-type]
    try:
        os.write(1, json.dumps(result).encode())
    except BrokenPipeError:
        pass  # the benchmark has exited


if __name__ == "__main__":
    main()
