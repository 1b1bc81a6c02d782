"""Locks made of a file that names its owner, for file systems without ``flock(2)``.

The lock is held while the file exists. It contains the `ProcessIdentity` of its owner, in the form
of filelock's ``SoftFileLock``, to which huggingface_hub falls back on such file systems: the two
libraries wait for each other, and each recognises a dead owner of this machine at once. For owners
on other machines the age of the file decides: a thread sets its time again every 30 seconds, and
a file that was not touched for `STALE_AGE` has no owner any more.

To take over a stale lock, a process first creates a claim, a lock of its own whose name is made
from the content and inode of the stale file, then looks whether that file is still there, and
renames the claim to it. Only one process can hold the claim, and a late one finds another file.

Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from hftransfer._io.process_identity import ProcessIdentity
from hftransfer._io.regular_file import UnsafeFileError, create_exclusive

__all__ = ("STALE_AGE", "OwnerLock")

STALE_AGE = 180.0
"""Seconds since the last touch after which an owner on another machine counts as dead: several
intervals of the heartbeat, and longer than a short outage of a file server."""
# Seconds after which a file without a valid record was not left by a process that is about to
# write it.
_INCOMPLETE_AGE = 5.0
_HEARTBEAT_INTERVAL = 30.0  # seconds
_MAX_RECORD = 1024  # bytes
# A claim may be stale itself, if its process was killed in the microseconds before the rename, and
# so may the claim of a claim.
_MAX_CLAIMS = 3


class OwnerLock:
    """A lock that this process holds; made by `try_acquire`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._pid = os.getpid()

    @classmethod
    def try_acquire(cls, path: Path, mode: int = 0o666) -> OwnerLock | None:
        """Create the lock file `path`, or take it over from a dead owner.

        Args:
            path: of the file. Its folder must exist.
            mode: permissions of the file, less the umask. Default 0o666.

        Returns:
            None if a living process holds the lock, in this process or another one.

        Raises:
            UnsafeFileError: if `path` is not a regular file.
            OSError: if the file cannot be created or read.
        """
        lock = cls._try_acquire(path, mode, _MAX_CLAIMS)
        if lock is not None:
            _heartbeat.add(lock)
        return lock

    @classmethod
    def _try_acquire(cls, path: Path, mode: int, claims: int) -> OwnerLock | None:
        with suppress(FileExistsError):
            return cls._create(path, mode)
        try:
            found = _Record.read(path)
        except FileNotFoundError:
            return None  # released at this moment; the caller tries again if it waits
        if not claims or not found.is_stale(time.time()):
            return None
        claim = cls._try_acquire(found.claim_path, mode, claims - 1)
        if claim is None:
            return None
        try:
            # The clock of the file server decides, if that of this machine is ahead of it.
            now = os.fstat(claim._fd).st_mtime
            if _Record.read(path) == found and found.is_stale(now):
                os.replace(claim.path, path)
                claim.path = path
                return claim
        except FileNotFoundError:
            pass
        except BaseException:
            claim.release()
            raise
        claim.release()
        return None

    @classmethod
    def _create(cls, path: Path, mode: int) -> OwnerLock:
        fd = create_exclusive(path, mode)
        try:
            os.write(fd, str(ProcessIdentity.current()).encode())
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                os.unlink(path)
            raise
        return cls(path, fd)

    @property
    def is_lost(self) -> bool:
        """True if another process took the lock over: this one did not run for `STALE_AGE`."""
        try:
            return not os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        except OSError:
            return True

    def touch(self) -> None:
        """Set the time of the file to now. A failure is ignored: the next one may succeed."""
        with suppress(OSError):
            os.utime(self._fd if os.utime in os.supports_fd else self.path)

    def release(self) -> None:
        """Delete the lock file, unless another process has taken it over. Idempotent.

        In a process that was forked later this only closes the file: the lock is its parent's.
        """
        if self._fd < 0:
            return
        _heartbeat.discard(self)
        try:
            if self._pid == os.getpid() and not self.is_lost:
                with suppress(OSError):
                    os.unlink(self.path)
        finally:
            os.close(self._fd)
            self._fd = -1


class _Record:
    """What an existing lock file contains, and which file it is."""

    def __init__(self, path: Path, content: bytes, status: os.stat_result) -> None:
        self._path = path
        self._content = content
        self._key = (status.st_dev, status.st_ino, status.st_ctime_ns, content)
        self._touched = status.st_mtime

    @classmethod
    def read(cls, path: Path) -> _Record:
        """Read the lock file.

        Raises:
            FileNotFoundError: if there is none.
            UnsafeFileError: if it is a symbolic link.
            OSError: if it cannot be read.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            if path.is_symlink():
                raise UnsafeFileError(error.errno, "the lock is a symbolic link", path) from error
            raise
        try:
            return cls(path, os.read(fd, _MAX_RECORD), os.fstat(fd))
        finally:
            os.close(fd)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Record) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def is_stale(self, now: float) -> bool:
        """Return True if the owner does not live any more; `now` is in seconds since the epoch."""
        owner = ProcessIdentity.parse(self._content.decode("utf-8", errors="replace"))
        age = now - self._touched
        if owner is None:
            return age > _INCOMPLETE_AGE
        return owner.is_dead if owner.is_of_this_machine else age > STALE_AGE

    @property
    def claim_path(self) -> Path:
        """The path of the lock under which the file may be replaced."""
        digest = hashlib.sha256(repr(self._key).encode()).hexdigest()[:8]
        stem, dot, suffix = self._path.name.rpartition(".")
        return self._path.with_name(f"{stem}.{digest}{dot}{suffix}")


class _Heartbeat:
    """The thread that touches the lock files of this process; it runs while there are any."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()  # guards all that follows
        self._held: set[OwnerLock] = set()
        self._thread: threading.Thread | None = None

    def add(self, lock: OwnerLock) -> None:
        with self._changed:
            self._held.add(lock)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, daemon=True, name="hftransfer-lock-heartbeat"
                )
                self._thread.start()

    def discard(self, lock: OwnerLock) -> None:
        """Stop touching `lock`; afterwards its descriptor is not used any more."""
        with self._changed:
            self._held.discard(lock)
            self._changed.notify_all()

    def after_fork(self) -> None:
        """Forget the locks of the parent process and its thread."""
        self._reset()

    def _run(self) -> None:
        with self._changed:
            while self._held:
                self._changed.wait_for(lambda: not self._held, timeout=_HEARTBEAT_INTERVAL)
                for lock in self._held:
                    lock.touch()
            self._thread = None


_heartbeat = _Heartbeat()
os.register_at_fork(after_in_child=_heartbeat.after_fork)
