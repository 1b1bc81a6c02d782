"""Exclusive locks on files by ``flock(2)``, the same ones that huggingface_hub takes.

huggingface_hub locks ``<cache>/.locks/<repo>/<etag>.lock`` with ``flock(2)`` (through
filelock). `FileLock` takes the same lock on the same file, so that one process waits for the
other whichever library it uses. filelock itself is not used: its locks belong to the thread
that took them, and waiting for one blocks that thread.

The kernel releases a lock when its last descriptor is closed, and therefore when its process
dies. `lock_descriptor` and `open_locked` are the synchronous primitives, for worker threads and
for processes without an event loop; only `FileLock.acquire` loads anyio.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

__all__ = (
    "FileLock",
    "LockHeldError",
    "LocksUnsupportedError",
    "lock_descriptor",
    "open_locked",
)

_logger = logging.getLogger(__name__)

# EACCES is what SMB mounts report for a lock that another client holds.
_HELD = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})
_UNSUPPORTED = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
)
_GROUP_WRITABLE = 0o664  # members of a group share caches
# Seconds between two attempts to get a lock that another process holds: the first and the
# longest interval.
_POLL_INITIAL = 0.02
_POLL_MAX = 0.5
_LOG_INTERVAL = 10.0  # seconds


class LockHeldError(BlockingIOError):
    """Another descriptor holds the lock, or the locked file no longer has its name."""


class LocksUnsupportedError(OSError):
    """The file system has no locks."""


def lock_descriptor(
    fd: int, path: str | os.PathLike[str] | None = None, *, wait: bool = False
) -> None:
    """Take the exclusive lock of an open file; closing `fd` releases it.

    A lock file can be renamed or deleted between the open and the lock. The lock of a file that
    is no longer at its path excludes no other process, so it counts as not acquired.

    Args:
        fd: open for writing (NFS has no exclusive lock for other descriptors).
        path: must still name the file once it is locked. Default: not checked.
        wait: block until the holder releases the lock. Default False.

    Raises:
        LockHeldError: if another descriptor holds the lock, without `wait`, or if `path` names
            another file or none.
        LocksUnsupportedError: if the file system has no locks.
        OSError: if it fails for another reason.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise LockHeldError(error.errno, error.strerror) from error
        if error.errno in _UNSUPPORTED:
            raise LocksUnsupportedError(error.errno, error.strerror) from error
        raise
    if path is not None and not _is_at(path, fd):
        raise LockHeldError(errno.EAGAIN, f"{os.fspath(path)} was replaced")


def open_locked(
    path: str | os.PathLike[str], flags: int, mode: int = 0o666, *, wait: bool = False
) -> int:
    """Open a file and take its exclusive lock; closing the returned descriptor releases it.

    Args:
        path: of the lock file.
        flags: as of ``open(2)``; ``O_CLOEXEC`` is added.
        mode: permissions of a file that this creates, less the umask. Default 0o666.
        wait: block until the lock is acquired. Default False.

    Raises:
        LockHeldError: if another process holds the lock, without `wait`.
        LocksUnsupportedError: if the file system has no locks.
        OSError: if the file cannot be opened or locked for another reason.
    """
    while True:
        fd = os.open(path, flags | os.O_CLOEXEC, mode)
        try:
            lock_descriptor(fd, path, wait=wait)
        except LockHeldError:
            os.close(fd)
            if not wait:
                raise
        except BaseException:
            os.close(fd)
            raise
        else:
            return fd


def _is_at(path: str | os.PathLike[str], fd: int) -> bool:
    """Return True if `path` names the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


class FileLock:
    """An exclusive advisory lock on `path`, which is created and never deleted.

    Not reentrant. It may be released from another thread than it was acquired in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """True from an `acquire` that got the lock until `release`."""
        return self._descriptor is not None

    async def acquire(self) -> bool:
        """Wait until the lock is held. Call `release` afterwards, whatever this returns.

        A blocking ``flock`` would occupy a worker thread and could not be cancelled, so the lock
        is polled in growing intervals. Cancellation takes effect at once.

        Returns:
            False, without waiting, if the file system or its permissions allow no locks.
            Two processes may then write the same file at the same time.
        """
        import anyio  # not at import: a process without an event loop uses the rest
        from anyio import to_thread

        interval, waited, next_log = _POLL_INITIAL, 0.0, _LOG_INTERVAL
        while (held := await to_thread.run_sync(self.try_acquire)) is None:
            await anyio.sleep(interval)
            waited += interval
            interval = min(2 * interval, _POLL_MAX)
            if waited >= next_log:
                _logger.info("still waiting for the lock %s (%.0f s)", self.path, waited)
                next_log += _LOG_INTERVAL
        return held

    def try_acquire(self) -> bool | None:
        """Try once to take the lock. Blocks for file system calls.

        Returns:
            True if the lock is held now, None if another process holds it, False if the file
            system or its permissions allow no locks.
        """
        try:
            descriptor = self._open()
        except PermissionError:
            _logger.warning("no permission to lock %s; continuing without the lock", self.path)
            return False
        try:
            lock_descriptor(descriptor, self.path)
        except (LockHeldError, LocksUnsupportedError) as error:
            os.close(descriptor)
            return None if isinstance(error, LockHeldError) else False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock, if it is held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags | os.O_EXCL, _GROUP_WRITABLE)
        except FileExistsError:
            return os.open(self.path, flags, _GROUP_WRITABLE)
        os.fchmod(descriptor, _GROUP_WRITABLE)  # the umask removed the group's permission
        return descriptor
