"""Between the tasks of one machine: who downloads, and what a sibling has just stored.

A lock is a file that the kernel unlocks when its holder dies. What is written into it is
a note for the tasks that come next.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class MachineLock:
    """A lock that is held, with its note."""

    def __init__(self, fd: int, *, waited: bool) -> None:
        self._fd = fd
        self.waited = waited
        """True if another task held it first."""

    def read_note(self) -> dict[str, Any]:
        """Return what the last holder left, or an empty dict."""
        data = os.pread(self._fd, 1 << 20, 0) if self._fd >= 0 else b""
        try:
            note = json.loads(data)
        except ValueError:
            return {}
        return note if isinstance(note, dict) else {}

    def leave_note(self, note: dict[str, Any]) -> None:
        """Replace the note."""
        if self._fd >= 0:
            data = json.dumps(note).encode()
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, data, 0)


@contextmanager
def machine_lock(
    *name: str, on_wait: Callable[[], None] | None = None, folder: str | None = None
) -> Iterator[MachineLock]:
    """Hold the lock called `name`.

    Parameters
    ----------
    *name : str
        All parts together name what is locked.
    on_wait : callable, optional
        Called before this waits for another holder.
    folder : str, optional
        Where the lock's file lies. Default: a folder of this user below the temporary one.

    Where files cannot be locked nothing is, and every task works for itself.
    """
    fd, waited = -1, False
    try:
        fd = _open(folder or _folder(), name)
        waited = not _try_lock(fd)
    except OSError:
        if fd >= 0:
            os.close(fd)
            fd = -1
    try:
        if waited:
            if on_wait is not None:
                on_wait()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield MachineLock(fd, waited=waited)
    finally:
        if fd >= 0:
            os.close(fd)


def _folder() -> str:
    return os.path.join(tempfile.gettempdir(), f"hftransfer-{os.getuid()}")


def _open(folder: str, name: tuple[str, ...]) -> int:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    digest = hashlib.sha256(json.dumps(name).encode()).hexdigest()[:32]
    path = os.path.join(folder, digest + ".lock")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
