"""Locks on files, shared with huggingface_hub, that an event loop can wait for.

huggingface_hub locks ``<cache>/.locks/<repo>/<etag>.lock`` with ``flock(2)`` (through
filelock). `FileLock` takes the same lock on the same file, so one process waits for the
other whichever library it uses. filelock itself is not used: its locks belong to the
thread that took them, and waiting for one blocks that thread.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

import anyio
from anyio import to_thread

__all__ = ("FileLock",)

logger = logging.getLogger(__name__)

_HELD_BY_ANOTHER = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})
_NO_LOCKS_HERE = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP})
_GROUP_WRITABLE = 0o664  # members of a group share caches
_FIRST_WAIT = 0.02
_LONGEST_WAIT = 0.5
_LOG_EVERY = 10.0


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
        """Wait until the lock is held; whatever happens then, call `release`.

        There is no way to be woken up by ``flock`` without giving it a thread until then,
        so it is asked again in growing intervals. Cancellation takes effect at once.

        Returns:
            False, without waiting, if the file system or its permissions allow no locks.
            Two writers may then be at work at the same time.
        """
        wait, waited, next_log = _FIRST_WAIT, 0.0, _LOG_EVERY
        while (held := await to_thread.run_sync(self.try_acquire)) is None:
            await anyio.sleep(wait)
            waited += wait
            wait = min(2 * wait, _LONGEST_WAIT)
            if waited >= next_log:
                logger.info("still waiting for the lock %s (%.0f s)", self.path, waited)
                next_log += _LOG_EVERY
        return held

    def release(self) -> None:
        """Give the lock back, if it is held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def try_acquire(self) -> bool | None:
        """True: held from now on. None: another one holds it. False: nobody can. It may block."""
        try:
            descriptor = self._open()
        except PermissionError:
            logger.warning("no permission to lock %s; continuing without", self.path)
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_current(descriptor):
                os.close(descriptor)
                return None
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD_BY_ANOTHER:
                return None
            if error.errno in _NO_LOCKS_HERE:
                return False
            raise
        self._descriptor = descriptor
        return True

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags | os.O_EXCL, _GROUP_WRITABLE)
        except FileExistsError:
            return os.open(self.path, flags, _GROUP_WRITABLE)
        os.fchmod(descriptor, _GROUP_WRITABLE)  # the umask took the group's right away
        return descriptor

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file is still the one at `path`: somebody may have deleted it."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False
