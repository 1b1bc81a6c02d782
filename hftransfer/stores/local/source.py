"""Local files and folders as a source."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.streams import ByteStream
from hftransfer._io.file_range import (
    UNSUPPORTED_ERRNOS,
    FileRange,
    read_fully,
    read_fully_nowait,
)
from hftransfer._io.file_version import FileVersion
from hftransfer._io.os_errors import map_read_errors, source_changed
from hftransfer.errors import TransferError, UnsupportedError
from hftransfer.stores.base import Entry, FillStream, ListingPage
from hftransfer.stores.local.listing import FileListing, open_for_reading

__all__ = ("LocalSource",)

# Copying this many bytes from the page cache takes less time than waking a worker thread.
_INLINE_READ_BYTES = 256 * 1024
_PAGE_SIZE = 1000


class LocalSource:
    """A file, or all files below a folder. Links to files are followed, links to folders are not.

    Partial files of interrupted transfers and huggingface_hub's ``.cache/huggingface`` metadata
    are left out. The etag of an entry names the file, its size and the time of its last change
    (`FileVersion`), and every read compares it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.commit: str | None = None
        self.single = False
        """True once `list` found a file rather than a folder."""
        self._can_read_inline = True
        """False once the file system has refused a read that must not wait for the disk."""

    @property
    def location(self) -> str:
        return str(self._path)

    async def list(self) -> Sequence[Entry]:
        return [entry async for page in self.pages() for entry in page.entries]

    async def pages(self) -> AsyncIterator[ListingPage]:
        """Yield the file, or the files of the folder sorted by the UTF-8 bytes of their paths."""
        listing = await anyio.to_thread.run_sync(FileListing, self._path)
        self.single = listing.single
        is_last = False
        while not is_last:
            # In one thread call per page: one call per file takes longer than to copy a small file.
            page = await anyio.to_thread.run_sync(listing.next_page, _PAGE_SIZE)
            is_last = len(page) < _PAGE_SIZE
            yield ListingPage(page, is_last)

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        remaining = buffer.remaining
        inline = self._can_read_inline and len(remaining) <= _INLINE_READ_BYTES
        if not (inline and self._read_into(entry, buffer.position, remaining, wait=False)):
            await anyio.to_thread.run_sync(self._read_into, entry, buffer.position, remaining)
        buffer.advance(len(remaining))

    def _path_of(self, entry: Entry) -> str:
        return str(self._path) if self.single else f"{self._path}/{entry.path}"

    def _read_into(
        self, entry: Entry, start: int, buffer: memoryview, *, wait: bool = True
    ) -> bool:
        """Fill `buffer` from byte `start` on.

        Returns:
            True, or with `wait=False` False if the read would have to wait for the disk.
        """
        path = self._path_of(entry)
        with map_read_errors(path):
            fd = open_for_reading(path)
            try:
                read = read_fully if wait else read_fully_nowait
                count = read(fd, buffer, start)
                is_changed = _is_changed(fd, entry)
            except OSError as error:
                if _is_changed(fd, entry):  # perhaps into a FIFO, or a folder
                    raise source_changed(path) from error
                if wait or error.errno not in UNSUPPORTED_ERRNOS:
                    raise
                self._can_read_inline = False
                return False
            finally:
                os.close(fd)
        if count is None:
            return False
        if is_changed:
            raise source_changed(path)
        if count < len(buffer):
            raise UnsupportedError(
                f"{path} is a file of the system that has less content than its size of "
                f"{entry.size} bytes; only regular files can be copied"
            )
        return True

    @asynccontextmanager
    async def open_file(self, entry: Entry) -> AsyncIterator[FileRange]:
        path = self._path_of(entry)
        with map_read_errors(path):
            fd = await anyio.to_thread.run_sync(open_for_reading, path)
        try:
            whole = FileRange.whole(fd, path)
            if _is_changed(fd, entry):
                raise source_changed(path)
            try:
                yield whole
            except TransferError:
                # If the file has changed, that explains the store's error, and is raised instead.
                whole.check_unchanged()
                raise
            whole.check_unchanged()
        finally:
            os.close(fd)

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        yield FillStream(self, entry)


def _is_changed(fd: int, entry: Entry) -> bool:
    return FileVersion.of(os.fstat(fd)).etag != entry.etag
