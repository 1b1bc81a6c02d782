"""Identity of a process, by which others recognise that it is dead.

A number of a process alone is used again after its end. With the time at which the process
started, the boot of the machine and the namespace of process numbers (containers have their own)
it is unique. The text form is that of filelock's soft locks, so that both libraries recognise
each other's dead processes: https://py-filelock.readthedocs.io/

Everything here blocks for some microseconds (``/proc``).
"""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from dataclasses import dataclass

from hftransfer._io.state_folder import boot_id

__all__ = ("ProcessIdentity", "is_token_of_dead_process", "own_token", "parent_token")

# Inode number of the initial namespace of process numbers (Linux, include/linux/proc_ns.h).
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
# Fields of /proc/<pid>/stat after the name in parentheses, see proc(5).
_STATE_FIELD, _START_TIME_FIELD = 0, 19
_DEAD_STATES = (b"Z", b"X")  # a zombie has closed its files and released its locks
_TOKEN_DIGITS = 32


@dataclass(frozen=True)
class ProcessIdentity:
    """One process.

    Args:
        pid: its number.
        host: name of its machine, and its namespace of process numbers if it is in a container.
        start: boot id of the machine and start of the process in clock ticks, as one number;
            None if it is not known.
    """

    pid: int
    host: str
    start: int | None

    @classmethod
    def current(cls) -> ProcessIdentity:
        """Return the identity of this process."""
        return _of_process(os.getpid())

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """Return the identity of which `text` is the text form; None if it is none."""
        lines = text.splitlines()
        if not text.endswith("\n") or len(lines) not in (2, 3) or not lines[1]:
            return None
        numbers = [lines[0], *lines[2:]]
        if not all(number.isascii() and number.isdigit() for number in numbers):
            return None
        pid, *start = map(int, numbers)
        return cls(pid, lines[1], start[0] if start else None) if 0 < pid < 1 << 31 else None

    def __str__(self) -> str:
        lines = [self.pid, self.host, *([] if self.start is None else [self.start])]
        return "".join(f"{line}\n" for line in lines)

    @property
    def is_of_this_machine(self) -> bool:
        """True if this machine, or this container, can tell whether the process lives."""
        return self.host == _host()

    @property
    def is_dead(self) -> bool:
        """True if the process was of this machine and does not run any more."""
        if not self.is_of_this_machine:
            return False
        if not _is_running(self.pid):
            return True
        start = _start_of(self.pid)
        return self.start is not None and start is not None and self.start != start


def own_token() -> str:
    """Return 32 hex digits, unique for each call, that identify this process.

    They are 8 digits of the machine and its boot, 8 of the process number, 8 of its start and 8
    random ones.
    """
    return _token(ProcessIdentity.current())


def parent_token() -> str:
    """Return a token, as of `own_token`, that identifies the process that started this one."""
    pid = os.getppid()
    return _token(ProcessIdentity(pid, _host(), _start_of(pid)))


def is_token_of_dead_process(token: str) -> bool:
    """Return True if `token` is of a process of this machine (or container) that is dead."""
    if len(token) != _TOKEN_DIGITS or token[:8] != _machine():
        return False
    pid = int(token[8:16], 16)
    return not _is_running(pid) or _short(_start_of(pid)) != token[16:24]


def _token(process: ProcessIdentity) -> str:
    return f"{_machine()}{process.pid:08x}{_short(process.start)}{os.urandom(4).hex()}"


def _short(start: int | None) -> str:
    return f"{(start or 0) & 0xFFFFFFFF:08x}"


@functools.lru_cache(maxsize=1)
def _of_process(pid: int) -> ProcessIdentity:
    return ProcessIdentity(pid, _host(), _start_of(pid))


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    return hashlib.sha256(f"{_host()} {_boot_id()}".encode()).hexdigest()[:8]


@functools.lru_cache(maxsize=1)
def _host() -> str:
    name = socket.gethostname() or "?"
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return name
    return name if namespace == _INITIAL_PID_NAMESPACE else f"{name}?pidns-{namespace:x}"


@functools.lru_cache(maxsize=1)
def _boot_id() -> int:
    try:
        return int(boot_id().replace("-", ""), 16)
    except ValueError:
        return 0


def _start_of(pid: int) -> int | None:
    fields = _stat_fields(pid)
    if len(fields) <= _START_TIME_FIELD:
        return None
    return _boot_id() << 64 | int(fields[_START_TIME_FIELD])


def _stat_fields(pid: int) -> list[bytes]:
    """Return the fields of ``/proc/<pid>/stat`` from the state on; none where there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    fields = _stat_fields(pid)
    return not fields or fields[_STATE_FIELD] not in _DEAD_STATES
