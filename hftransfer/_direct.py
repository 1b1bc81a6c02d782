"""Writing past the page cache, where that is wanted and possible.

``O_DIRECT`` takes no memory for pages that nobody will read soon, and in virtual
machines it saves the host's faults for them. It asks for alignment of memory, offset and
length, and not every file system has it: whatever does not fit is written as usual.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = ("DirectIO", "DirectWriter", "wants_direct")

DirectIO: TypeAlias = Literal["auto", "on", "off"]

# At least the logical block size of every disk in use; memory is aligned to pages.
_ALIGNMENT = 4096
_UNSUITABLE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def wants_direct(mode: DirectIO, size: int, room: int) -> bool:
    """Return whether files are to be written past the page cache.

    Args:
        mode: ``on`` and ``off`` decide; ``auto`` looks at the sizes.
        size: bytes of the whole transfer.
        room: bytes that the page cache can take.
    """
    if mode == "auto":
        # Files that stay in memory are read from there soon after; what pushes its own
        # beginning out again, and everybody else's files with it, gains nothing.
        return size > room // 2
    return mode == "on"


class DirectWriter:
    """A second descriptor of a file, for aligned writes past the page cache.

    Args:
        path: an existing file. Where it cannot be opened so, nothing is written directly.
    """

    def __init__(self, path: Path) -> None:
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except (AttributeError, OSError):
            pass  # no such flag on this system, or on this file system

    def write(self, data: memoryview, start: int) -> int:
        """Write as much of `data` as can be written directly; return how many bytes.

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
                if error.errno not in _UNSUITABLE:
                    raise
                self.close()
                break
            written += count
            if count % _ALIGNMENT:
                break  # cut short by a full disk, which the ordinary write will report
        return written

    def close(self) -> None:
        """Close the descriptor; further writes are not direct."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
