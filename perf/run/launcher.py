"""Runs one command for the process at the other end of its pipes, and tells what it used.

Started as ``python -I -S launcher.py``, with one line of JSON on standard input. It imports
little because the kernel counts the memory of a process until its exec into the peak of what it
starts: a small parent keeps that floor near 10 MB. When standard input ends, the command and
all that it started are ended; so nothing outlives the harness, however that dies.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

_GRACE_SECONDS = 5.0


def _read_order() -> dict[str, object]:
    text = b""
    while not text.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            raise SystemExit(1)
        text += piece
    order: dict[str, object] = json.loads(text)
    return order


def _end(group: int, handle: int) -> None:
    """Ask the command to end, then make it end."""
    os.killpg(group, signal.SIGTERM)
    if not select.select([handle], [], [], _GRACE_SECONDS)[0]:
        os.killpg(group, signal.SIGKILL)


def _machine_seconds() -> float:
    """Return the core seconds that the whole machine has been at work, or kept from it by its host.

    See proc_stat(5): user, nice and system time, interrupts, and what was stolen.
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
    """Run `argv` in a session of its own and return its exit status and resource usage."""
    redirect = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    machine = _machine_seconds()
    start = time.monotonic()
    pid = os.posix_spawn(argv[0], argv, environ, file_actions=redirect, setsid=True)
    handle = os.pidfd_open(pid)
    ready = select.select([handle, 0], [], [], timeout)[0]
    if handle not in ready:
        _end(pid, handle)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - start
    machine = _machine_seconds() - machine
    try:
        os.killpg(pid, signal.SIGKILL)  # what it left running
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
    """Read the order, run it, print the result as JSON."""
    order = _read_order()
    os.chdir(str(order["cwd"]))
    result = run(order["argv"], order["environ"], order["log"], order["timeout"])  # type: ignore[arg-type]
    try:
        os.write(1, json.dumps(result).encode())
    except BrokenPipeError:
        pass  # who asked is gone


if __name__ == "__main__":
    main()
