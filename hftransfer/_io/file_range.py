"""Regions: bytes that are sent or hashed from where they lie, in memory or in a file.

What lies in a file needs no memory of ours on its way to a store. The kernel has it in the
page cache, from where sendfile(2) gives it to a socket, and digests pass over it through a
window that stays in a core's own cache. So it is read twice; what holds it meanwhile, and
who vouches that it was the same bytes both times, is said in `stores.base`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from hftransfer._core.digests import new_hasher
from hftransfer._io.os_errors import map_read_errors, source_changed
from hftransfer.errors import TransferError

__all__ = (
    "HASH_WINDOW_SIZE",
    "UNSUPPORTED_ERRNOS",
    "Body",
    "BodyRange",
    "FileRange",
    "MemoryRange",
    "as_body_range",
    "read_fully",
    "read_fully_nowait",
)

# preadv2(2) can be told not to wait for the disk.
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
# What a file system says that cannot do this, as network file systems do.
UNSUPPORTED_ERRNOS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
# A stretch of a file passes through so much memory to be hashed: what fits a core's own cache.
HASH_WINDOW_SIZE = 1 << 20
# Bytes at a time where sendfile(2) cannot be used.
_PIECE = 256 * 1024


def read_fully(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from an open file, from `offset` on; return the number of bytes read.

    It is less than the length of `buffer` only if the file ends before.

    Raises:
        OSError: if the file cannot be read.
    """
    return _preadv(fd, buffer, offset, 0)


def read_fully_nowait(fd: int, buffer: memoryview, offset: int) -> int | None:
    """As `read_fully`, but return None if the bytes are not in the page cache.

    Raises:
        OSError: if the file cannot be read; with one of `UNSUPPORTED_ERRNOS` if the kernel or
            the file system cannot read without waiting.
    """
    if not _NOWAIT:
        raise OSError(errno.ENOSYS, "not on this system")
    try:
        return _preadv(fd, buffer, offset, _NOWAIT)
    except BlockingIOError:
        return None


def _preadv(fd: int, buffer: memoryview, offset: int, flags: int) -> int:
    filled = 0
    while filled < len(buffer):
        count = os.preadv(fd, [buffer[filled:]], offset + filled, flags)
        if count == 0:
            break
        filled += count
    return filled


class MemoryRange:
    """Bytes in memory, which must not change while this is in use."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    def send(self, to: socket.socket, start: int, size: int) -> int:
        """Give up to `size` bytes from `start` on to a socket; return how many it took.

        Raises:
            OSError: as ``send(2)``.
        """
        return to.send(self._view[start : start + size])

    def get(self, start: int, size: int) -> memoryview:
        """Return `size` bytes from `start` on."""
        return self._view[start : start + size]

    get_nowait = get

    def check_unchanged(self) -> None:
        """Memory is its owner's to keep."""


class _Version(NamedTuple):
    """What tells one content of a file from another."""

    size: int
    modified_ns: int

    @classmethod
    def of(cls, fd: int) -> _Version:
        status = os.fstat(fd)
        return cls(status.st_size, status.st_mtime_ns)


class FileRange:
    """Bytes of an open file, which must not change while this is in use.

    Args:
        fd: open for reading while this is in use; not closed here.
        start: offset in the file of the first byte.
        size: bytes.
        path: for messages.
        version: of the file's content.
    """

    __slots__ = ("_fd", "_path", "_size", "_start", "_version")

    def __init__(self, fd: int, start: int, size: int, path: str, version: _Version) -> None:
        self._fd = fd
        self._start = start
        self._size = size
        self._path = path
        self._version = version

    @classmethod
    def whole(cls, fd: int, path: str) -> FileRange:
        """Return all bytes that an open file has now."""
        version = _Version.of(fd)
        return cls(fd, 0, version.size, path, version)

    def __len__(self) -> int:
        return self._size

    def subrange(self, start: int, size: int) -> FileRange:
        """Return a stretch of it."""
        return FileRange(self._fd, self._start + start, size, self._path, self._version)

    def check_unchanged(self) -> None:
        """Check that nobody has written into the file since `whole`.

        Raises:
            SourceChangedError: if somebody has.
        """
        if _Version.of(self._fd) != self._version:
            raise source_changed(self._path)

    def send(self, to: socket.socket, start: int, size: int) -> int:
        """Give up to `size` bytes from `start` on to a socket; return how many it took.

        What was hashed a moment ago is still in memory, so this does not wait for the disk
        as a rule; and where memory is short it waits no longer than any access to memory does.

        Raises:
            SourceChangedError: if the file has become shorter.
            TransferError: if it cannot be read.
            OSError: as ``send(2)``.
        """
        try:
            count = os.sendfile(to.fileno(), self._fd, self._start + start, size)
        except OSError as error:
            if error.errno in UNSUPPORTED_ERRNOS:
                return to.send(self.get(start, min(size, _PIECE)))
            if error.errno == errno.EIO:  # never said of a socket
                raise TransferError(f"cannot read {self._path}: {error.strerror}") from error
            raise
        if not count:
            raise source_changed(self._path)
        return count

    def get(self, start: int, size: int) -> memoryview:
        """Return `size` bytes from `start` on, in memory of their own.

        Raises:
            SourceChangedError: if the file has become shorter.
            TransferError: if it cannot be read.
        """
        buffer = memoryview(bytearray(size))
        with map_read_errors(self._path):
            self._fill(buffer, start)
        return buffer

    def get_nowait(self, start: int, size: int) -> memoryview | None:
        """As `get`, but return None if the disk would, or might, have to be waited for."""
        buffer = memoryview(bytearray(size))
        with map_read_errors(self._path):
            try:
                return buffer if self._fill(buffer, start, wait=False) else None
            except OSError as error:
                if error.errno not in UNSUPPORTED_ERRNOS:
                    raise
                return None

    def _fill(self, buffer: memoryview, start: int, *, wait: bool = True) -> bool:
        read = read_fully if wait else read_fully_nowait
        count = read(self._fd, buffer, self._start + start)
        if count is not None and count < len(buffer):
            raise source_changed(self._path)
        return count is not None

    def digests(self, algorithms: Sequence[str], window: memoryview) -> Sequence[str]:
        """Read all bytes, once; return their digests in hex.

        Args:
            algorithms: as of `new_hasher`; several of the same are made once.
            window: memory through which the bytes pass; `HASH_WINDOW_SIZE` bytes are enough.

        Raises:
            SourceChangedError: if the file has changed.
            TransferError: if it cannot be read.
        """
        hashers = {name: new_hasher(name, self._size) for name in algorithms}
        with map_read_errors(self._path):
            if hasattr(os, "posix_fadvise"):  # so the disk brings what follows meanwhile
                os.posix_fadvise(self._fd, self._start, self._size, os.POSIX_FADV_WILLNEED)
            for start in range(0, self._size, len(window)):
                piece = window[: min(len(window), self._size - start)]
                self._fill(piece, start)
                for hasher in hashers.values():
                    hasher.update(piece)
        self.check_unchanged()
        return [hashers[name].hexdigest() for name in algorithms]


BodyRange: TypeAlias = MemoryRange | FileRange
Body: TypeAlias = bytes | memoryview | FileRange
"""What can be the body of a request."""


def as_body_range(body: Body) -> BodyRange:
    """Return a body as a region of bytes, whatever the items of its view are."""
    return body if isinstance(body, FileRange) else MemoryRange(memoryview(body).cast("B"))
