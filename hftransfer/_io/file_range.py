"""Request bodies: byte ranges in memory or in an open file.

A range of a file needs no buffer on its way to a store. It is hashed through a small window and
then sent by sendfile(2), which copies from the page cache to the socket in the kernel. It is
therefore read twice; `stores.base` states what ensures that both reads see the same bytes.

`digests` and `get` block and belong in worker threads; `send` and `get_nowait` are for the event
loop.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import TypeAlias

from hftransfer._core.digests import Hasher, new_hasher
from hftransfer._io.file_version import FileVersion
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

# Flag of preadv2(2): fail instead of waiting for the disk.
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
# Errors of a file system that does not support the operation; some network file systems.
UNSUPPORTED_ERRNOS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
# Bytes of a file that are hashed at a time: the window fits into the L2 cache of a core.
HASH_WINDOW_SIZE = 1 << 20
# Bytes that are copied at a time if sendfile(2) is not supported.
_COPY_SIZE = 256 * 1024


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
        raise OSError(errno.ENOSYS, "no RWF_NOWAIT on this system")
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
    """Bytes in memory, which must not change while the range is in use."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __len__(self) -> int:
        return len(self._view)

    def send(self, to: socket.socket, start: int, size: int) -> int:
        """Send up to `size` bytes from `start` on; return how many the socket accepted.

        Raises:
            OSError: as ``send(2)``.
        """
        return to.send(self._view[start : start + size])

    def get(self, start: int, size: int) -> memoryview:
        """Return `size` bytes from `start` on."""
        return self._view[start : start + size]

    get_nowait = get

    def check_unchanged(self) -> None:
        """Do nothing: only `FileRange` can detect a change."""


class FileRange:
    """Bytes of an open file, which must not change while the range is in use.

    Args:
        fd: open for reading while the range is in use; the caller closes it.
        start: offset in the file of the first byte.
        size: bytes.
        path: of the file, for messages.
        version: of the content of the file.
    """

    __slots__ = ("_fd", "_path", "_size", "_start", "_version")

    def __init__(self, fd: int, start: int, size: int, path: str, version: FileVersion) -> None:
        self._fd = fd
        self._start = start
        self._size = size
        self._path = path
        self._version = version

    @classmethod
    def whole(cls, fd: int, path: str) -> FileRange:
        """Return the range of all bytes of an open file."""
        version = FileVersion.of(os.fstat(fd))
        return cls(fd, 0, version.size, path, version)

    def __len__(self) -> int:
        return self._size

    def subrange(self, start: int, size: int) -> FileRange:
        """Return `size` bytes from `start` on as a range."""
        return FileRange(self._fd, self._start + start, size, self._path, self._version)

    def check_unchanged(self) -> None:
        """Check that the file was not changed since `whole`: neither its content nor its status.

        Raises:
            SourceChangedError: if it was.
        """
        if FileVersion.of(os.fstat(self._fd)) != self._version:
            raise source_changed(self._path)

    def send(self, to: socket.socket, start: int, size: int) -> int:
        """Send up to `size` bytes from `start` on; return how many the socket accepted.

        This is called in the event loop, although sendfile(2) could wait for the disk: the bytes
        were hashed a moment ago and are still in the page cache, unless memory is so short that
        every memory access may wait for the disk.

        Raises:
            SourceChangedError: if the file has become shorter.
            TransferError: if it cannot be read.
            OSError: as ``send(2)``.
        """
        try:
            count = os.sendfile(to.fileno(), self._fd, self._start + start, size)
        except OSError as error:
            if error.errno in UNSUPPORTED_ERRNOS:
                return to.send(self.get(start, min(size, _COPY_SIZE)))
            if error.errno == errno.EIO:  # an error of the file: sockets never report it
                raise TransferError(f"cannot read {self._path}: {error.strerror}") from error
            raise
        if not count:
            raise source_changed(self._path)
        return count

    def get(self, start: int, size: int) -> memoryview:
        """Return a copy of `size` bytes from `start` on.

        Raises:
            SourceChangedError: if the file has become shorter.
            TransferError: if it cannot be read.
        """
        buffer = memoryview(bytearray(size))
        with map_read_errors(self._path):
            self._fill(buffer, start)
        return buffer

    def get_nowait(self, start: int, size: int) -> memoryview | None:
        """As `get`, but return None if the bytes may have to be read from the disk."""
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
        """Read all bytes once; return their digests in hex, in the order of `algorithms`.

        Args:
            algorithms: as of `new_hasher`. A repeated algorithm is computed once.
            window: memory for the bytes that are being hashed; `HASH_WINDOW_SIZE` bytes suffice.

        Raises:
            SourceChangedError: if the file has changed.
            TransferError: if it cannot be read.
        """
        hashers = {name: new_hasher(name, self._size) for name in algorithms}
        self.update(list(hashers.values()), window)
        return [hashers[name].hexdigest() for name in algorithms]

    def update(self, hashers: Sequence[Hasher], window: memoryview) -> None:
        """Read all bytes once and give them to `hashers`; the arguments and errors of `digests`."""
        with map_read_errors(self._path):
            if hasattr(os, "posix_fadvise"):  # read ahead while the first bytes are hashed
                os.posix_fadvise(self._fd, self._start, self._size, os.POSIX_FADV_WILLNEED)
            for start in range(0, self._size, len(window)):
                piece = window[: min(len(window), self._size - start)]
                self._fill(piece, start)
                for hasher in hashers:
                    hasher.update(piece)
        self.check_unchanged()


BodyRange: TypeAlias = MemoryRange | FileRange
Body: TypeAlias = bytes | memoryview | FileRange
"""The types of a request body."""


def as_body_range(body: Body) -> BodyRange:
    """Return `body` as a range of bytes; the items of a memoryview may have any size."""
    return body if isinstance(body, FileRange) else MemoryRange(memoryview(body).cast("B"))
