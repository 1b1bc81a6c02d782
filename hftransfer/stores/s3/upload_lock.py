"""Which multipart uploads of this machine are somebody's: a locked file for each of them.

S3 does not tell an upload that somebody works on from one that a killed process left
behind. A process that begins one records it here and holds a lock on the record, which
dies with the process: a record without a lock is that of a leftover. Everything here blocks
and belongs into worker threads. Where nothing can be recorded, nothing is known.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from hftransfer._core.digests import chunk_digest
from hftransfer._io.file_lock import open_locked

__all__ = ("UploadLock", "claim", "is_recorded", "recover")

_SUFFIX = ".upload"
# Stores and their lifecycle rules have forgotten an upload long before.
_FORGOTTEN = 90 * 24 * 3600.0


class UploadLock:
    """An upload that this process works on; `release` or `drop` ends it."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def release(self) -> None:
        """The upload is over: nothing is left of it."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """Let whoever comes next go on with the upload."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def claim(bucket: str, key: str, upload_id: str) -> UploadLock | None:
    """Record an upload of this process; None if that is not possible, or another has done it."""
    path = _record(bucket, key, upload_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        return _lock(path, os.O_RDWR | os.O_CREAT)
    except OSError:
        return None


def recover(bucket: str, key: str, upload_id: str) -> UploadLock | None:
    """Take over an upload that was recorded here by a process that is gone, else None."""
    try:
        return _lock(_record(bucket, key, upload_id), os.O_RDWR)
    except OSError:
        return None


def is_recorded(bucket: str, key: str, upload_id: str) -> bool:
    """Return True if a process of this machine works on an upload, or has done so."""
    return _record(bucket, key, upload_id).exists()


def _record(bucket: str, key: str, upload_id: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    name = chunk_digest(memoryview(f"{bucket}\0{key}\0{upload_id}".encode()))
    return Path(base, "hftransfer", "uploads", f"{name}{_SUFFIX}")


def _lock(path: Path, flags: int) -> UploadLock:
    return UploadLock(path, open_locked(path, flags, 0o600))


def _sweep(folder: Path) -> None:
    """Delete records of uploads that nobody has ended."""
    oldest = time.time() - _FORGOTTEN
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                _lock(path, os.O_RDWR).release()
