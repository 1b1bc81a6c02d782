"""Temporary folders of tasks, which a later task uses again if their own was killed.

The name is made from the task, so that a retry on the same machine resumes what a killed
attempt had loaded. A file beside the folder is locked while its owner lives, and names the
process that would start the next attempt. Once that is dead too, the folder is nobody's: a task
of another run that needs the same files continues with it, and any other task removes it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from hftransfer._io.atomic_write import move_file
from hftransfer._io.file_lock import LockedFile, LockHeldError, open_locked
from hftransfer._io.process_identity import (
    is_token_of_dead_process,
    own_token,
    parent_token,
)
from hftransfer._io.regular_file import UnsafeFileError

PREFIX = "metaflow_hf_"
"""Of the names of all temporary folders; that of metaflow-checkpoint."""

_LOCK_SUFFIX = ".lock"
_MAX_RECORD = 4096  # bytes


class TaskDir:
    """A folder that is removed by `close`, or used again by the retry of the task.

    Parameters
    ----------
    prefix : str
        Of the folder's name; it begins with `PREFIX`.
    owner : str
        Names the task and the purpose of the folder; equal for all attempts.
    root : str, optional
        The parent folder. Default: that of the `tempfile` module.
    content : str, optional
        Names what the folder is for; equal for all tasks that can use the same content.
        Default: no other task can.
    """

    def __init__(self, prefix: str, owner: str, root: str | None, content: str = "") -> None:
        parent = Path(tempfile.gettempdir() if root is None else root)
        parent.mkdir(parents=True, exist_ok=True)
        name = prefix + _digest(owner)
        abandoned = _take_abandoned(parent, content)
        self.path, self._lock = _claim(parent, name, abandoned)
        if self._lock is not None:
            record = json.dumps({"starter": parent_token(), "content": _digest(content)})
            os.ftruncate(self._lock.fd, 0)
            os.pwrite(self._lock.fd, record.encode(), 0)

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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _take_abandoned(parent: Path, content: str) -> Path | None:
    """Remove the folders in `parent` of tasks that are dead and have no further attempt.

    Returns
    -------
    Path, optional
        One that is not removed, because it has the wanted `content`; it has no lock any more.
    """
    found: Path | None = None
    for lock_path in parent.glob(f".{PREFIX}*{_LOCK_SUFFIX}"):
        path = parent / lock_path.name[1:].removesuffix(_LOCK_SUFFIX)
        try:
            lock = open_locked(lock_path, os.O_RDWR)
        except OSError:
            continue  # its owner lives, or it is another user's
        try:
            record = _record(lock)
            if not is_token_of_dead_process(str(record.get("starter"))):
                continue
            is_wanted = content and record.get("content") == _digest(content)
            if is_wanted and found is None and _is_own_folder(path):
                found = parent / f"{path.name}.{own_token()}"
                move_file(path, found)
            else:
                shutil.rmtree(path, ignore_errors=True)
            lock_path.unlink(missing_ok=True)
        finally:
            lock.close()
    return found


def _record(lock: LockedFile) -> dict[str, Any]:
    try:
        record = json.loads(os.pread(lock.fd, _MAX_RECORD, 0))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _claim(parent: Path, name: str, abandoned: Path | None) -> tuple[Path, LockedFile | None]:
    """Create the first folder of that name that no living process uses; return it and its lock.

    The lock is None where files cannot be locked. The folder is the `abandoned` one, if there is
    one and no earlier attempt left a folder of that name.
    """
    try:
        return _claim_name(parent, name, abandoned)
    finally:
        if abandoned is not None:
            shutil.rmtree(abandoned, ignore_errors=True)  # if it was not renamed


def _claim_name(parent: Path, name: str, abandoned: Path | None) -> tuple[Path, LockedFile | None]:
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
                if abandoned is not None and not os.path.lexists(path):
                    move_file(abandoned, path)
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
