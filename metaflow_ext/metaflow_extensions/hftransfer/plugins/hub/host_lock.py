"""Locks between the tasks of one machine, or of all machines that share a local datastore.

A lock is a file that is locked while it is held, and removed afterwards. The lock of a process
that dies ends with it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from hftransfer._io.file_lock import LockedFile, LockHeldError, open_locked


class HostLock(NamedTuple):
    """The result of waiting for a lock."""

    held: bool
    """False where files cannot be locked."""
    waited: bool
    """True if another task held it first."""


@contextmanager
def host_lock(
    name: str, *, on_wait: Callable[[], None] | None = None, folder: str | None = None
) -> Iterator[HostLock]:
    """Hold the lock called `name`.

    Where files cannot be locked the block runs without a lock, so that several tasks may
    download the same.

    Parameters
    ----------
    name : str
        The name of the lock's file.
    on_wait : callable, optional
        Called before this waits for another holder.
    folder : str, optional
        The folder of the lock's file. Default: a folder of this user below the temporary one.
    """
    file: LockedFile | None = None
    waited = False
    try:
        path = os.path.join(_own_folder() if folder is None else _made(folder), f"{name}.lock")
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
        yield HostLock(file is not None, waited)
    finally:
        if file is not None:
            # Before the release: who waits for it finds that the file has lost its name, and
            # opens a new one.
            file.path.unlink(missing_ok=True)
            file.close()


def is_locked(name: str, *, folder: str | None = None) -> bool:
    """Return True if a living process holds the lock called `name`, or this cannot be told.

    Parameters
    ----------
    name, folder
        As for `host_lock`.
    """
    try:
        path = os.path.join(_own_folder() if folder is None else folder, f"{name}.lock")
        if not os.path.lexists(path):
            return False
        file = open_locked(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    file.path.unlink(missing_ok=True)  # a dead process left it
    file.close()
    return False


def _made(folder: str) -> str:
    os.makedirs(folder, exist_ok=True)
    return folder


def _own_folder() -> str:
    folder = os.path.join(tempfile.gettempdir(), f"hftransfer-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder
