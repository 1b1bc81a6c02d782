"""Temporary folders of tasks, which the next attempt of the same task uses again.

The name is made from the task, so that a retry on the same machine resumes what a killed
attempt had loaded. A file beside the folder is locked while its owner lives.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import stat
import tempfile
from pathlib import Path

from hftransfer._io.file_lock import LockedFile, LockHeldError, open_locked
from hftransfer._io.regular_file import UnsafeFileError

_LOCK_SUFFIX = ".lock"


class TaskDir:
    """A folder that is removed by `close`, or used again by the retry of the task.

    Parameters
    ----------
    prefix : str
        Of the folder's name.
    owner : str
        Names the task and the purpose of the folder; equal for all attempts.
    root : str, optional
        The parent folder. Default: that of the `tempfile` module.
    """

    def __init__(self, prefix: str, owner: str, root: str | None) -> None:
        parent = Path(tempfile.gettempdir() if root is None else root)
        parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(owner.encode()).hexdigest()[:12]
        self.path, self._lock = _claim(parent, f"{prefix}{digest}")

    @property
    def name(self) -> str:
        """The path as text."""
        return str(self.path)

    def keep(self) -> None:
        """Release the folder without removing it, for the next attempt."""
        self._release()

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.path.unlink(missing_ok=True)
        self._release()

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *error: object) -> None:
        self.close()

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}{_LOCK_SUFFIX}")


def _claim(parent: Path, name: str) -> tuple[Path, LockedFile | None]:
    """Create the first folder of that name that no living process uses; return it and its lock.

    The lock is None where files cannot be locked.
    """
    for number in itertools.count():
        path = parent / (name if number == 0 else f"{name}_{number}")
        lock_path = _lock_path(path)
        while True:
            try:
                lock = open_locked(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
            except LockHeldError:
                # Held by a living process. If its owner has just deleted it, try again.
                if lock_path.exists():
                    break
            except (UnsafeFileError, PermissionError):
                # Something else has the name, or it is another user's; in a folder that allows
                # no new file at all, `mkdtemp` raises the error.
                return _unique(parent, name), None
            else:
                if _is_own_folder(path):
                    return path, lock
                lock_path.unlink(missing_ok=True)
                lock.close()
                return _unique(parent, name), None
    raise AssertionError("unreachable")


def _unique(parent: Path, name: str) -> Path:
    """Create a folder with a name that no later attempt finds."""
    return Path(tempfile.mkdtemp(prefix=name + "_", dir=parent))


def _is_own_folder(path: Path) -> bool:
    """Create the folder, or look whether it is a real one of this user that others cannot write.

    In a folder like /tmp another user may have made it, or a link to a folder of theirs.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        return (
            stat.S_ISDIR(status.st_mode)
            and status.st_uid == os.geteuid()
            and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        )
    return True
