"""Temporary folders of tasks, which the next attempt of the same task finds again.

The name is made from the task, so a retry on the same machine takes over what a killed
attempt had loaded. A file beside the folder is locked while the owner lives.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

_LOCK = ".lock"


class TaskFolder:
    """A folder that is removed with `close`, or with the retry that takes it over.

    Parameters
    ----------
    prefix : str
        Of the name.
    owner : str
        Names the task and what the folder is for; equal for all attempts.
    root : str, optional
        Where it lies. Default: that of the `tempfile` module.
    """

    def __init__(self, prefix: str, owner: str, root: str | None) -> None:
        parent = Path(tempfile.gettempdir() if root is None else root)
        parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(owner.encode()).hexdigest()[:12]
        self.path, self._lock = _claim(parent, f"{prefix}{digest}")
        self.path.mkdir(mode=0o700, exist_ok=True)

    @property
    def name(self) -> str:
        return str(self.path)

    def keep(self) -> None:
        """Leave the folder to the next attempt."""
        self._release()

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            _lock_path(self.path).unlink(missing_ok=True)
        self._release()

    def __enter__(self) -> str:
        return self.name

    def __exit__(self, *error: object) -> None:
        self.close()

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.name}{_LOCK}")


def _claim(parent: Path, name: str) -> tuple[Path, int]:
    """Return the first folder of that name which no living process uses, and its lock."""
    number = 0
    while True:
        path = parent / (name if number == 0 else f"{name}_{number}")
        fd = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            number += 1
            continue
        except OSError:  # no locks here: a name that nobody else can have
            os.close(fd)
            _lock_path(path).unlink(missing_ok=True)
            return Path(tempfile.mkdtemp(prefix=name + "_", dir=parent)), -1
        try:
            if os.fstat(fd).st_ino == os.stat(_lock_path(path)).st_ino:
                return path, fd
        except FileNotFoundError:
            pass
        os.close(fd)  # removed by its last owner between open and lock
