"""Locks between the tasks of one machine: one downloads, the others use what it stored.

The lock of a file ends with its holder. The content of the file is a record for the tasks that
take the lock next.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hftransfer._io.file_lock import LockedFile, LockHeldError, open_locked

_MAX_RECORD = 1 << 20  # bytes


class HostLock:
    """A lock that is held, with its record; without a file, one that locks nothing."""

    def __init__(self, file: LockedFile | None, *, waited: bool) -> None:
        self._fd = -1 if file is None else file.fd
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
    file, waited = None, False
    try:
        path = _path(folder or _default_folder(), name)
        try:
            file = open_locked(path, os.O_RDWR | os.O_CREAT, 0o600)
        except LockHeldError:
            waited = True
            if on_wait is not None:
                on_wait()
            file = open_locked(path, os.O_RDWR | os.O_CREAT, 0o600, wait=True)
    except OSError:
        pass  # the folder allows no lock
    try:
        yield HostLock(file, waited=waited)
    finally:
        if file is not None:
            file.close()


def _default_folder() -> str:
    return os.path.join(tempfile.gettempdir(), f"hftransfer-{os.getuid()}")


def _path(folder: str, name: tuple[str, ...]) -> str:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    digest = hashlib.sha256(json.dumps(name).encode()).hexdigest()[:32]
    return os.path.join(folder, digest + ".lock")
