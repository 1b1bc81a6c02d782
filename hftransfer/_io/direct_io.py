"""Writes that bypass the page cache (``O_DIRECT``), and the lock that they need per file.

``O_DIRECT`` takes no memory for pages that are not read soon, and in a virtual machine it avoids
page faults in the host. The kernel requires aligned memory, offset and length, and some file
systems do not support the flag: the caller writes everything else through the page cache.

Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = ("DirectIO", "DirectWriter", "SharedExclusiveLock")

DirectIO: TypeAlias = Literal["auto", "on", "off"]

# At least the logical block size of every disk in use; memory is aligned to pages.
_ALIGNMENT = 4096
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


class SharedExclusiveLock:
    """Allows the direct writes of a file in parallel, and a cached write only alone.

    The kernel's own lock of the inode would do the same, but threads that wait for it spin and
    occupy a core. Waiting exclusive holders go before new shared ones.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all that follows
        self._shared_holders = 0
        self._is_exclusive = False
        self._exclusive_waiters = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other shared holders for the length of a block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_exclusive and not self._exclusive_waiters)
            self._shared_holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared_holders -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone for the length of a block."""
        with self._changed:
            self._exclusive_waiters += 1
            self._changed.wait_for(lambda: not self._is_exclusive and not self._shared_holders)
            self._exclusive_waiters -= 1
            self._is_exclusive = True
        try:
            yield
        finally:
            with self._changed:
                self._is_exclusive = False
                self._changed.notify_all()


class DirectWriter:
    """A second descriptor of a file, for aligned writes past the page cache.

    Args:
        path: an existing file. If it cannot be opened with ``O_DIRECT``, `write` writes nothing.
        fd: a descriptor of the same file. If `path` names another one by now, `write` writes
            nothing.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self._fd = -1
        try:
            flags = os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._fd = os.open(path, flags)
        except (AttributeError, OSError):
            return  # this system or this file system has no such flag
        if not os.path.samestat(os.fstat(self._fd), os.fstat(fd)):
            self.close()

    def write(self, data: memoryview, start: int) -> int:
        """Write the part of `data` that can be written directly; return its length in bytes.

        Args:
            data: page-aligned memory; if it is not aligned, nothing is written.
            start: offset in the file. Without a multiple of 4096, nothing is written.

        Raises:
            OSError: if the disk is full or broken.
        """
        if self._fd < 0 or start % _ALIGNMENT:
            return 0
        aligned = len(data) - len(data) % _ALIGNMENT
        written = 0
        while written < aligned:
            try:
                count = os.pwrite(self._fd, data[written:aligned], start + written)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self.close()
                break
            written += count
            if count % _ALIGNMENT:
                break  # the disk is full; the cached write of the rest reports it
        return written

    def close(self) -> None:
        """Close the descriptor; later writes return 0."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
