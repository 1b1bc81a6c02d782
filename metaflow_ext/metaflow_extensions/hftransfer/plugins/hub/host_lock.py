"""Locks between the tasks of one machine: one downloads, the others use what it stored.

The kernel releases the lock of a file when its holder dies. The content of the file is a
record for the tasks that take the lock next.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hftransfer._io.file_lock import LockHeldError, lock_descriptor

_MAX_RECORD = 1 << 20  # bytes


class HostLock:
    """A lock that is held, with its record; without a descriptor, one that locks nothing."""

    def __init__(self, fd: int, *, waited: bool) -> None:
        self._fd = fd
        self.waited = waited
        """True if another task held it first."""

    def read_record(self) -> dict[str, Any]:
        """Return the record that the last holder wrote, or an empty dict."""
        data = os.pread(self._fd, _MAX_RECORD, 0) if self._fd >= 0 else b""
        try:
            record = json.loads(data)
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record."""
        if self._fd >= 0:
            data = json.dumps(record).encode()
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, data, 0)


@contextmanager
def host_lock(
    *name: str, on_wait: Callable[[], None] | None = None, folder: str | None = None
) -> Iterator[HostLock]:
    """Hold the lock called `name`.

    Where files cannot be locked the block runs without a lock, so that several tasks may
    download the same.

    Parameters
    ----------
    *name : str
        All parts together name the lock.
    on_wait : callable, optional
        Called before this waits for another holder.
    folder : str, optional
        The folder of the lock's file. Default: a folder of this user below the temporary one.
    """
    fd, waited = -1, False
    try:
        fd = _open(folder or _default_folder(), name)
        # Lock files are never deleted, so the path need not be checked after the lock.
        lock_descriptor(fd)
    except LockHeldError:
        waited = True
    except OSError:
        if fd >= 0:
            os.close(fd)
            fd = -1
    try:
        if waited:
            if on_wait is not None:
                on_wait()
            lock_descriptor(fd, wait=True)
        yield HostLock(fd, waited=waited)
    finally:
        if fd >= 0:
            os.close(fd)


def _default_folder() -> str:
    return os.path.join(tempfile.gettempdir(), f"hftransfer-{os.getuid()}")


def _open(folder: str, name: tuple[str, ...]) -> int:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    digest = hashlib.sha256(json.dumps(name).encode()).hexdigest()[:32]
    path = os.path.join(folder, digest + ".lock")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
