"""Local files and folders as a sink.

A file under its final name is complete and verified. The chunks of a large file go into a
`PartialFile` beside it, which is renamed on commit and resumed after an interruption. A small
file is written to a temporary name and renamed in one call (`SmallFileSink`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.memory import available_page_cache
from hftransfer._core.pieces import Piece
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer._io.atomic_write import write_atomically
from hftransfer._io.destination_folders import DestinationFolders
from hftransfer._io.direct_io import DirectIO
from hftransfer._io.disk_space import FreeSpace, PlannedFile
from hftransfer._io.file_range import FileRange
from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.partial_file import PartialFile
from hftransfer._io.regular_file import open_regular
from hftransfer._io.stale_partials import StalePartials
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer._io.write_policy import WritePolicy
from hftransfer.errors import (
    DestinationError,
    IntegrityError,
    UnsupportedError,
)
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry, FileSink, PieceWrite
from hftransfer.stores.local.listing import special_kind
from hftransfer.stores.names import LocalNameCheck, refuse_bad_names

__all__ = (
    "LocalFileSink",
    "LocalSink",
    "SmallFileSink",
    "is_small_file",
    "partial_file_prefix",
)

# Files of up to this many bytes have no journal: to fetch one again costs less than to resume it.
_SMALL_FILE_BYTES = 1 << 20
# Worker threads per file that read or write its partial file. Direct writes use all of them;
# `PartialFile` serializes writes through the page cache.
_THREADS_PER_FILE = 4


def partial_file_prefix(target: Path, identity: str, size: int) -> str:
    """Return the prefix of the names of the partial file of `target` and of its journal.

    It starts with a dot, has at most 140 bytes, and ends with a hash of `identity` and `size`, so
    that a partial file is resumed only for the content that it was begun with.
    """
    content = chunk_digest(memoryview(f"{identity} {size}".encode()))[:16]
    return f"{_target_prefix(target)}.{content}"


def _target_prefix(target: Path) -> str:
    """Return the part of `partial_file_prefix` that does not depend on the content."""
    return "." + os.fsencode(target.name)[:120].decode("utf-8", errors="ignore")


def _refuse_special(target: Path) -> None:
    """Raise DestinationError if `target` is a device, FIFO or socket: a file would replace it."""
    with map_write_errors(target):
        try:
            kind = special_kind(target.stat().st_mode)
        except FileNotFoundError:
            return
    if kind:
        raise DestinationError(f"cannot write {target}: it is {kind}, which a file would replace")


def _open_of_size(path: Path, size: int) -> int | None:
    """Open a regular file of `size` bytes for reading; None if there is no such one."""
    try:
        fd = open_regular(path, os.O_RDONLY, allow_hard_links=True)
    except OSError:
        return None
    if os.fstat(fd).st_size == size:
        return fd
    os.close(fd)
    return None


class LocalFileSink:
    """Writes the chunks of one local file into its partial file; made by `open`.

    Blocking calls run in worker threads, at most `_THREADS_PER_FILE` at a time for one file.
    """

    def __init__(
        self,
        target: Path,
        partial_file: PartialFile,
        *,
        fsync: bool,
        on_publish: Callable[[FileManifest], None] | None,
    ) -> None:
        self._target = target
        self._partial = partial_file
        self._fsync = fsync
        self._on_publish = on_publish
        self._thread_limiter = anyio.CapacityLimiter(_THREADS_PER_FILE)

    @classmethod
    async def open(
        cls,
        target: Path,
        entry: Entry,
        chunk_size: int,
        *,
        create_folders: Callable[[], None],
        partial_folder: Path | None = None,
        prefix: str | None = None,
        fsync: bool = False,
        write_policy: WritePolicy | None = None,
        on_publish: Callable[[FileManifest], None] | None = None,
    ) -> LocalFileSink:
        """Create the folders of `target` and open its partial file, resuming an existing one.

        Args:
            target: the final name.
            entry: what will be written.
            chunk_size: bytes per chunk.
            create_folders: creates the folder of `target` and `partial_folder`.
            partial_folder: folder of the partial file, on the same file system.
                Default: the target's folder.
            prefix: of the partial file's name. Default: `partial_file_prefix`.
            fsync: flush the file to the disk before the rename, and the folder after it.
            write_policy: decides which writes bypass the page cache. Default: none does.
            on_publish: called with the file's manifest in a worker thread, after the rename.

        Raises:
            DestinationError: if the file cannot be created there.
            DiskFullError: if there is no space for it.
        """
        folder = partial_folder or target.parent

        def make() -> PartialFile:
            with map_write_errors(target):
                create_folders()
                if target.is_dir():
                    raise IsADirectoryError(errno.EISDIR, "a folder of that name is in the way")
            return PartialFile(
                folder,
                prefix or partial_file_prefix(target, entry.identity, entry.size),
                identity=entry.identity,
                size=entry.size,
                chunk_size=chunk_size,
                write_policy=write_policy,
            )

        # `run_sync` waits for the thread even when cancelled, so the open file is never lost.
        partial_file = await anyio.to_thread.run_sync(make)
        return cls(target, partial_file, fsync=fsync, on_publish=on_publish)

    @property
    def resumable_chunks(self) -> Mapping[int, str]:
        return self._partial.resumable.chunks

    @property
    def resumable_pieces(self) -> Mapping[int, Sequence[Piece]]:
        return self._partial.resumable.pieces

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        read = partial(self._partial.read_into, chunk.start, buffer)
        if await anyio.to_thread.run_sync(read, limiter=self._thread_limiter) < len(buffer):
            raise IntegrityError(f"{self._target}: the partial file is shorter than its journal")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        write = partial(self._partial.write, chunk.index, chunk.start, data, digest)
        await anyio.to_thread.run_sync(write, limiter=self._thread_limiter)

    async def write_pieces(self, writes: Sequence[PieceWrite]) -> None:
        pieces = [(write.chunk.index, write.piece, write.start, write.data) for write in writes]
        write = partial(self._partial.write_pieces, pieces)
        await anyio.to_thread.run_sync(write, limiter=self._thread_limiter)

    async def write_ranges(
        self, chunk: Chunk, ranges: Sequence[tuple[int, memoryview]], digest: str
    ) -> None:
        write = partial(self._partial.write_ranges, chunk.index, ranges, digest)
        await anyio.to_thread.run_sync(write, limiter=self._thread_limiter)

    async def commit(self, manifest: FileManifest) -> None:
        def publish() -> None:
            self._partial.publish(self._target, fsync=self._fsync)
            if self._on_publish is not None:
                self._on_publish(manifest)

        await anyio.to_thread.run_sync(publish)

    async def abort(self, *, discard: bool) -> None:
        # Without a record in the journal there is nothing to resume.
        def abandon() -> None:
            if discard or self._partial.journal.is_empty:
                self._partial.remove()
            else:
                self._partial.close()

        await anyio.to_thread.run_sync(abandon)


def is_small_file(entry: Entry, chunk_size: int) -> bool:
    """Return True if `SmallFileSink` can write `entry`: at most one chunk, and at most 1 MiB."""
    return entry.size <= min(_SMALL_FILE_BYTES, chunk_size)


class SmallFileSink:
    """A file of at most one chunk. Its only `write` publishes it: the bytes are verified by then.

    Args:
        publish: writes the file with the given content under its final name; blocking, called
            through `batch`.
        batch: runs the blocking calls; shared by the small files of one sink.
    """

    def __init__(self, publish: Callable[[memoryview], None], batch: ThreadBatch) -> None:
        self.resumable_chunks: Mapping[int, str] = {}
        self._publish = publish
        self._batch = batch
        self._is_published = False

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError("small files are not resumed")  # never called: none is resumable

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._batch.run(partial(self._publish, data))
        self._is_published = True

    async def commit(self, manifest: FileManifest) -> None:
        if not self._is_published:  # an empty file has no chunk, and so no `write`
            await self._batch.run(partial(self._publish, memoryview(b"")))

    async def abort(self, *, discard: bool) -> None:
        pass  # the file is absent, or complete and verified


class LocalSink:
    """Writes files into a folder, or with `single` one file.

    Args:
        path: the folder, or with `single` the file.
        single: `path` is the name of the only file, whatever the source calls it.
        fsync: flush each file to the disk before the rename, and its folder after it.
        direct_io: whether writes bypass the page cache; see `TransferOptions.direct_io`.
    """

    limits = PartLimits()
    is_file_tree: Literal[True] = True

    def __init__(
        self,
        path: Path,
        *,
        single: bool = False,
        fsync: bool = False,
        direct_io: DirectIO = "auto",
    ) -> None:
        self._path = path
        self._single = single
        self._fsync = fsync
        self._direct_io = direct_io
        self._write_policy: WritePolicy | None = None
        self._free_space: FreeSpace | None = None
        """Set by `prepare` for the first page."""
        self._stale = StalePartials()
        self._batch = ThreadBatch(allow_inline=not fsync)
        self._folders = DestinationFolders(path.parent if single else path)

    @property
    def location(self) -> str:
        return str(self._path)

    def _target(self, path: str) -> Path:
        return self._path if self._single else self._path / safe_path(path)

    def name_check(self) -> Callable[[str], str | None]:
        return (lambda path: None) if self._single else LocalNameCheck()

    async def prepare(self, entries: Sequence[Entry]) -> None:
        refuse_bad_names(self.location, (entry.path for entry in entries), self.name_check())
        await anyio.to_thread.run_sync(self._prepare, entries)

    def _prepare(self, entries: Sequence[Entry]) -> None:
        if self._free_space is None or self._write_policy is None:
            folder = self._path.parent if self._single else self._path
            self._free_space = FreeSpace.of(folder, self._stale)
            self._write_policy = WritePolicy(self._direct_io, 0, available_page_cache())
            if self._single:
                _refuse_special(self._path)
        size = sum(entry.size for entry in entries)
        self._free_space.require(size, partial(self._planned, entries))
        self._write_policy.grow(size)
        for entry in entries:
            target = self._target(entry.path)
            self._stale.find(target.parent, _target_prefix(target))

    def _planned(self, entries: Sequence[Entry]) -> list[PlannedFile]:
        targets = [self._target(entry.path) for entry in entries]
        return [
            PlannedFile(
                target,
                entry.size,
                target.parent,
                partial_file_prefix(target, entry.identity, entry.size),
            )
            for target, entry in zip(targets, entries, strict=True)
        ]

    @asynccontextmanager
    async def open_existing(self, entry: Entry) -> AsyncIterator[FileRange | None]:
        target = self._target(entry.path)
        fd = await anyio.to_thread.run_sync(_open_of_size, target, entry.size)
        if fd is None:
            yield None
            return
        try:
            yield FileRange.whole(fd, str(target))
        finally:
            os.close(fd)

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        target = self._target(entry.path)
        if is_small_file(entry, chunk_size):
            prefix = partial_file_prefix(target, entry.identity, entry.size)
            return SmallFileSink(partial(self._publish_small, target, prefix), self._batch)
        return await LocalFileSink.open(
            target,
            entry,
            chunk_size,
            create_folders=partial(self._folders.create, target.parent, look_again=True),
            fsync=self._fsync,
            write_policy=self._write_policy,
        )

    def _publish_small(self, target: Path, prefix: str, data: memoryview) -> None:
        with map_write_errors(target):
            self._folders.create(target.parent)
            write_atomically(target, data, prefix=prefix, fsync=self._fsync)

    async def finish(self, manifest: Manifest) -> None:
        """Remove partial files of other contents of the files that were moved."""
        await anyio.to_thread.run_sync(self._stale.remove)
        self._free_space = self._write_policy = None
