"""Lock files that tell which multipart uploads a process of this machine works on.

S3 cannot tell an upload in use from one that a killed process left behind. So a process that
begins an upload creates a lock file for it and holds its lock (`_io.file_lock`), which ends with
the process: an unlocked file belongs to an orphaned upload. All functions here
block, so run them in worker threads. If the lock file cannot be created, the upload works
without it and is not resumed on this machine.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from hftransfer._core.digests import chunk_digest
from hftransfer._io.file_lock import LockedFile, open_locked
from hftransfer._io.state_folder import state_folder
from hftransfer.stores.s3.upload_intent import SUFFIX as INTENT_SUFFIX

__all__ = ("UploadLock", "has_any_lock_file", "has_lock_file")

_SUFFIX = ".upload"
# Seconds after which the lock file of an upload that was never ended is deleted. By then stores
# and their lifecycle rules have removed the upload.
_MAX_AGE = 90 * 24 * 3600.0


class UploadLock:
    """The exclusive right of this process to continue one upload; get one by `create` or `adopt`.

    End it by `delete` or `unlock`; further calls have no effect.
    """

    def __init__(self, file: LockedFile) -> None:
        self._file: LockedFile | None = file

    @classmethod
    def create(cls, bucket: str, key: str, upload_id: str) -> UploadLock | None:
        """Create or take the lock file of an upload.

        Returns:
            None if another process holds it, or if the file system does not allow it.
        """
        path = _path_of(bucket, key, upload_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _delete_old_files(path.parent)
            return cls._lock(path, os.O_RDWR | os.O_CREAT)
        except OSError:
            return None

    @classmethod
    def adopt(cls, bucket: str, key: str, upload_id: str) -> UploadLock | None:
        """Take the existing lock file of an upload, which a dead process left behind.

        Returns:
            None if there is no such file, or a living process holds it.
        """
        try:
            return cls._lock(_path_of(bucket, key, upload_id), os.O_RDWR)
        except OSError:
            return None

    @classmethod
    def _lock(cls, path: Path, flags: int) -> UploadLock:
        # Fails if the previous holder has deleted the file between open and lock.
        return cls(open_locked(path, flags, 0o600))

    def delete(self) -> None:
        """Delete the lock file: the upload was completed or aborted."""
        if self._file is not None:
            self._file.path.unlink(missing_ok=True)
        self.unlock()

    def unlock(self) -> None:
        """Keep the lock file, but let another process continue the upload."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def has_lock_file(bucket: str, key: str, upload_id: str) -> bool:
    """Return True if a process of this machine works, or has worked, on an upload."""
    return _path_of(bucket, key, upload_id).exists()


def has_any_lock_file() -> bool:
    """Return True if a process of this machine has begun an upload that is not ended."""
    folder = state_folder("uploads")
    return any(folder.glob(f"*{_SUFFIX}")) or any(folder.glob(f"*{INTENT_SUFFIX}*"))


def _path_of(bucket: str, key: str, upload_id: str) -> Path:
    name = chunk_digest(memoryview(f"{bucket}\0{key}\0{upload_id}".encode()))
    return state_folder("uploads") / f"{name}{_SUFFIX}"


def _delete_old_files(folder: Path) -> None:
    oldest = time.time() - _MAX_AGE
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                UploadLock._lock(path, os.O_RDWR).delete()
    for path in folder.glob(f"*{INTENT_SUFFIX}*"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
