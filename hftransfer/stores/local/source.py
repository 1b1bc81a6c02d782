"""Local files and folders as a source."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.streams import ByteStream
from hftransfer._io.file_range import UNABLE, FileRange, changed, read_fully, reading
from hftransfer._io.partial_file import (
    is_partial_name,
)
from hftransfer.errors import (
    AccessError,
    NotFoundError,
    TransferError,
)
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry, FillStream

__all__ = ("LocalSource",)

# So much is copied from the page cache sooner than a thread would have been woken.
_AT_ONCE = 256 * 1024
# Bookkeeping of a `local_dir` download, of no use anywhere else.
_BOOKKEEPING = (".cache", "huggingface")


class LocalSource:
    """A file, or all files under a folder (links to files are followed, to folders not).

    Left out are partial files of interrupted transfers and huggingface_hub's
    ``.cache/huggingface`` bookkeeping.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.commit: str | None = None
        self.single = False
        """True once `list` found a file rather than a folder."""
        self._reads_at_once = True

    @property
    def location(self) -> str:
        return str(self._path)

    async def list(self) -> Sequence[Entry]:
        return await anyio.to_thread.run_sync(self._list)

    def _list(self) -> Sequence[Entry]:
        try:
            self.single = self._path.is_file()
            if self.single:
                return [_entry(str(self._path), self._path.name)]
            if not self._path.is_dir():
                raise NotFoundError(f"{self._path}: no such file or folder")
            root = str(self._path)
            return [_entry(f"{root}/{name}", name) for name in _walk(root)]
        except PermissionError as error:
            raise AccessError(f"cannot read {error.filename}: {error.strerror}") from error

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        rest = span.remaining
        at_once = self._reads_at_once and len(rest) <= _AT_ONCE
        if not (at_once and self._read_into(entry, span.position, rest, wait=False)):
            await anyio.to_thread.run_sync(self._read_into, entry, span.position, rest)
        span.advance(len(rest))

    def _path_of(self, entry: Entry) -> str:
        return str(self._path) if self.single else f"{self._path}/{entry.path}"

    def _read_into(
        self, entry: Entry, start: int, buffer: memoryview, *, wait: bool = True
    ) -> bool:
        """Fill `buffer`; without `wait` return False if the disk has to be waited for."""
        path = self._path_of(entry)
        with reading(path):
            fd = _open(path)
            try:
                count = read_fully(fd, buffer, start, wait=wait)
                is_changed = _is_changed(fd, entry)
            except OSError as error:
                if wait or error.errno not in UNABLE:
                    raise
                self._reads_at_once = False
                return False
            finally:
                os.close(fd)
        if count is None:
            return False
        if count < len(buffer) or is_changed:
            raise changed(path)
        return True

    @asynccontextmanager
    async def open_file(self, entry: Entry) -> AsyncIterator[FileRange]:
        path = self._path_of(entry)
        with reading(path):
            fd = await anyio.to_thread.run_sync(_open, path)
        try:
            whole = FileRange.whole(fd, path)
            if _is_changed(fd, entry):
                raise changed(path)
            try:
                yield whole
            except TransferError:
                whole.check()  # for then it is this that a store complains of
                raise
            whole.check()
        finally:
            os.close(fd)

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        yield FillStream(self, entry)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_changed(fd: int, entry: Entry) -> bool:
    return _etag(os.fstat(fd)) != entry.etag


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def _walk(root: str) -> Iterator[str]:
    """Give the paths of the files below `root`, relative to it, in a stable order."""

    def fail(error: OSError) -> None:
        raise error

    for folder, names, files in os.walk(root, onerror=fail):
        names.sort()
        inside = folder[len(root) :].strip("/")
        if inside == _BOOKKEEPING[0] and _BOOKKEEPING[1] in names:
            names.remove(_BOOKKEEPING[1])
        prefix = f"{inside}/" if inside else ""
        for name in sorted(files):
            if not is_partial_name(name):
                yield prefix + name


def _entry(path: str, name: str) -> Entry:
    status = os.stat(path)
    return Entry(path=safe_path(name), size=status.st_size, etag=_etag(status))
