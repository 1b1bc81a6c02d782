"""Exclusive locks on files: ``flock(2)``, as huggingface_hub takes it, or a file with its owner.

huggingface_hub locks ``<cache>/.locks/<repo>/<etag>.lock`` with ``flock(2)`` (through
filelock). `FileLock` takes the same lock on the same file, so that one process waits for the
other whichever library it uses. filelock itself is not used: its locks belong to the thread
that took them, and waiting for one blocks that thread.

The kernel releases a flock when its last descriptor is closed, and therefore when its process
dies. Some file systems have no flock, or one that fails (NFS without its lock daemon, FUSE, SMB,
a full table of locks): whatever the error, an `OwnerLock` is taken instead.

`open_locked` is the synchronous primitive, for worker threads and for processes without an event
loop; only `FileLock.acquire` loads anyio.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hftransfer._io.owner_lock import OwnerLock
from hftransfer._io.process_identity import own_token
from hftransfer._io.regular_file import create_exclusive, open_regular

__all__ = ("FileLock", "LockHeldError", "LockedFile", "open_locked", "owner_path")

_logger = logging.getLogger(__name__)

# EACCES is what SMB mounts report for a lock that another client holds.
_HELD = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})
_GROUP_WRITABLE = 0o664  # members of a group share caches
_INCOMPLETE = ".incomplete"
# Seconds between two attempts to get a lock that another process holds: the first and the
# longest interval.
_POLL_INITIAL = 0.02
_POLL_MAX = 0.5
_LOG_INTERVAL = 10.0  # seconds


class LockHeldError(BlockingIOError):
    """Another descriptor holds the lock, or the locked file no longer has its name."""


class _FlockFailedError(OSError):
    """The file system has no ``flock(2)``, or it does not work."""


class LockedFile:
    """An open file whose exclusive lock this process holds until `close`; see `open_locked`.

    Args:
        path: of the file.
        fd: its descriptor, locked unless there is an `owner`.
        owner: the lock of a file system without flock.
    """

    def __init__(self, path: Path, fd: int, owner: OwnerLock | None) -> None:
        self.path = path
        self.fd = fd
        self._owner = owner

    @property
    def is_lost(self) -> bool:
        """True if the file or its lock is not this process's any more: it was replaced."""
        return not _is_at(self.path, self.fd) or (self._owner is not None and self._owner.is_lost)

    def close(self) -> None:
        """Close the file and release the lock. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._owner is not None:
            self._owner.release()


def open_locked(
    path: str | os.PathLike[str], flags: int, mode: int = 0o666, *, wait: bool = False
) -> LockedFile:
    """Open a regular file and take its exclusive lock; closing it releases the lock.

    A lock file can be renamed or deleted between the open and the lock. The lock of a file that
    is no longer at its path excludes no other process, so it counts as not acquired.

    Args:
        path: of the file; on a file system without flock `owner_path` is its lock.
        flags: as of ``open(2)``, for writing (NFS has no exclusive lock for other descriptors).
        mode: permissions of a file that this creates, less the umask. Default 0o666.
        wait: block until the lock is acquired. Default False.

    Raises:
        LockHeldError: if another process holds the lock, without `wait`.
        UnsafeFileError: if `path` is a symbolic link or another thing that must not be written.
        OSError: if the file cannot be opened for another reason, or the folder allows no file
            with the owner of the lock.
    """
    interval = _POLL_INITIAL
    while True:
        try:
            return _try_open_locked(Path(path), flags, mode)
        except LockHeldError:
            if not wait:
                raise
        time.sleep(interval)
        interval = min(2 * interval, _POLL_MAX)


def _try_open_locked(path: Path, flags: int, mode: int) -> LockedFile:
    fd = open_regular(path, flags, mode)
    owner: OwnerLock | None = None
    try:
        try:
            _flock(fd, path)
        except _FlockFailedError:
            owner = OwnerLock.try_acquire(owner_path(path), mode)
            if owner is None:
                raise _held(path) from None
        locked = LockedFile(path, fd, owner)
        if locked.is_lost:
            raise LockHeldError(errno.EAGAIN, f"{path} was replaced")
    except BaseException:
        os.close(fd)
        if owner is not None:
            owner.release()
        raise
    return locked


def owner_path(path: Path) -> Path:
    """Return the path of the `OwnerLock` of the file `path`: ``<name>.owner``.

    Where `path` ends in ``.incomplete``, so does this, for what cleans up by that suffix.
    """
    stem = path.name.removesuffix(_INCOMPLETE)
    return path.with_name(f"{stem}.owner{path.name[len(stem) :]}")


def _flock(fd: int, path: Path, *, is_known_to_work: bool = False) -> None:
    """Take the flock of an open file.

    Args:
        fd: of the file.
        path: of the file; its folder is that of `_has_flock`.
        is_known_to_work: a lock that is reported as held is not doubted. Default False.

    Raises:
        LockHeldError: if another descriptor holds it.
        _FlockFailedError: if it cannot be taken for any other reason.
    """
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except InterruptedError:
            continue
        except OSError as error:
            if error.errno in _HELD and (is_known_to_work or _has_flock(path.parent)):
                raise _held(path) from error
            raise _FlockFailedError(error.errno, error.strerror) from error
        return


def _has_flock(folder: Path) -> bool:
    """Return True if a new file in `folder` can be locked.

    Some file systems report that a lock is held when they have no locks.
    """
    probe = folder / f".{own_token()}{_INCOMPLETE}"
    try:
        fd = create_exclusive(probe)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
        with suppress(OSError):
            os.unlink(probe)
    return True


def _held(path: Path) -> LockHeldError:
    return LockHeldError(errno.EAGAIN, f"another process has locked {path}")


def _is_at(path: Path, fd: int) -> bool:
    """Return True if `path` names the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except OSError:
        return False


class FileLock:
    """An exclusive advisory lock on `path`.

    With flock the file is created and never deleted. Without, the file itself is the `OwnerLock`,
    as for huggingface_hub, and is deleted on release. Not reentrant. It may be released from
    another thread than it was acquired in.

    Args:
        path: of the lock file.
        create_folder: creates the folder of `path`. Default: ``os.makedirs``, if it is missing.
    """

    def __init__(self, path: Path, create_folder: Callable[[Path], None] | None = None) -> None:
        self.path = path
        self._create_folder = create_folder
        self._held: LockedFile | OwnerLock | None = None
        self._is_new = False
        self._has_flock = False
        """True once a new file in the folder could be locked: no more such looks."""

    @property
    def is_held(self) -> bool:
        """True from an `acquire` that got the lock until `release`."""
        return self._held is not None

    @property
    def is_first_holder(self) -> bool:
        """True if the last `acquire` created the lock file: no process held the lock before."""
        return self._is_new

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
            True if the lock is held now, None if another process holds it, False if the folder
            or the file does not allow this process to take it; a warning says why.
        """
        try:
            return self._try_acquire()
        except OSError as error:
            _logger.warning(
                "cannot lock %s (%s); continuing without the lock",
                self.path,
                error.strerror or error,
            )
            return False

    def _try_acquire(self) -> bool | None:
        fd = self._open()
        try:
            _flock(fd, self.path, is_known_to_work=self._has_flock)
        except LockHeldError:
            os.close(fd)
            self._has_flock = True
            return None
        except _FlockFailedError:
            if self._is_new:  # the file of a lock that is not held has to go
                self.path.unlink(missing_ok=True)
            os.close(fd)
            self._held = OwnerLock.try_acquire(self.path, _GROUP_WRITABLE)
            return None if self._held is None else True
        except BaseException:
            os.close(fd)
            raise
        locked = LockedFile(self.path, fd, None)
        if locked.is_lost:
            locked.close()
            return None
        self._held = locked
        return True

    def release(self) -> None:
        """Release the lock, if it is held."""
        held, self._held = self._held, None
        if isinstance(held, LockedFile):
            held.close()
        elif held is not None:
            held.release()

    def _open(self) -> int:
        if self._create_folder is not None:
            self._create_folder(self.path.parent)
        try:
            fd = create_exclusive(self.path, _GROUP_WRITABLE)
        except FileExistsError:
            self._is_new = False
            # Nothing is written to it, and caches are copied by hard links (``cp -al``).
            flags = os.O_RDWR | os.O_CREAT
            return open_regular(self.path, flags, _GROUP_WRITABLE, allow_hard_links=True)
        self._is_new = True
        try:
            if os.fstat(fd).st_mode & _GROUP_WRITABLE != _GROUP_WRITABLE:
                os.fchmod(fd, _GROUP_WRITABLE)  # the umask removed the group's permission
        except BaseException:
            os.close(fd)
            raise
        return fd
