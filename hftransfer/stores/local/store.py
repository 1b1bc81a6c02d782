"""Local files and folders, as a source and as a sink.

A file under its final name is complete and verified, or absent: chunks go into a
`PartialFile` beside it, which is renamed when the engine says that all is well.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.memory import available_page_cache
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer._core.streams import ByteStream
from hftransfer._io.atomic_write import write_atomically
from hftransfer._io.direct_io import DirectIO
from hftransfer._io.file_range import (
    UNSUPPORTED_ERRNOS,
    FileRange,
    read_fully,
    read_fully_nowait,
)
from hftransfer._io.os_errors import map_read_errors, map_write_errors, source_changed
from hftransfer._io.partial_file import (
    PartialFile,
    is_partial_file_name,
    remove_stale_partials,
)
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer._io.write_policy import WritePolicy
from hftransfer.errors import (
    AccessError,
    DestinationError,
    DiskFullError,
    IntegrityError,
    NotFoundError,
    TransferError,
    UnsupportedError,
)
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry, FileSink, FillStream

__all__ = (
    "LocalFileSink",
    "LocalSink",
    "LocalSource",
    "SmallFileSink",
    "check_destination",
    "is_small",
    "partial_file_prefix",
)

T = TypeVar("T")

# Up to this many bytes a file is written at once: sooner fetched again than resumed.
_SMALL_FILE = 1 << 20

# So much is copied from the page cache sooner than a thread would have been woken.
_AT_ONCE = 256 * 1024
# Writes of one file that wait for the disk at a time; through the page cache it is one.
_WRITERS = 4
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
        with map_read_errors(path):
            fd = _open(path)
            try:
                read = read_fully if wait else read_fully_nowait
                count = read(fd, buffer, start)
                is_changed = _is_changed(fd, entry)
            except OSError as error:
                if wait or error.errno not in UNSUPPORTED_ERRNOS:
                    raise
                self._reads_at_once = False
                return False
            finally:
                os.close(fd)
        if count is None:
            return False
        if count < len(buffer) or is_changed:
            raise source_changed(path)
        return True

    @asynccontextmanager
    async def open_file(self, entry: Entry) -> AsyncIterator[FileRange]:
        path = self._path_of(entry)
        with map_read_errors(path):
            fd = await anyio.to_thread.run_sync(_open, path)
        try:
            whole = FileRange.whole(fd, path)
            if _is_changed(fd, entry):
                raise source_changed(path)
            try:
                yield whole
            except TransferError:
                whole.check_unchanged()  # for then it is this that a store complains of
                raise
            whole.check_unchanged()
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
            if not is_partial_file_name(name):
                yield prefix + name


def _entry(path: str, name: str) -> Entry:
    status = os.stat(path)
    return Entry(path=safe_path(name), size=status.st_size, etag=_etag(status))


def partial_file_prefix(target: Path, identity: str, size: int) -> str:
    """Return the prefix of the partial files of `target` with content `identity`.

    Hidden, at most 140 bytes, and other for other content: what is resumed is what is
    wanted, whatever the file of that name held before.
    """
    content = chunk_digest(memoryview(f"{identity} {size}".encode()))[:16]
    return f"{_target_prefix(target)}.{content}"


def _target_prefix(target: Path) -> str:
    return "." + os.fsencode(target.name)[:120].decode("utf-8", errors="ignore")


def check_destination(folder: Path, size: int) -> None:
    """Check that `folder`, or its nearest existing parent, can take `size` bytes of files.

    Raises:
        DestinationError: if a file is in the way or the folder is not writable.
        DiskFullError: if the file system has no room.
    """
    existing = folder
    with map_write_errors(folder):
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise DestinationError(f"cannot write to {folder}: {existing} is a file")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DestinationError(f"cannot write to {folder}: {existing} is not writable")
        status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize
    if free < size:
        raise DiskFullError(f"no room in {existing}: {size} bytes are needed, {free} are free")


class LocalFileSink:
    """One local file on its way; made by `open`."""

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
        self._writers = anyio.CapacityLimiter(_WRITERS)

    @classmethod
    async def open(
        cls,
        target: Path,
        entry: Entry,
        chunk_size: int,
        *,
        partial_folder: Path | None = None,
        prefix: str | None = None,
        fsync: bool = False,
        write_policy: WritePolicy | None = None,
        on_publish: Callable[[FileManifest], None] | None = None,
    ) -> LocalFileSink:
        """Make the folders of `target` and its partial file, resuming one that is there.

        Args:
            target: the final name.
            entry: what is to be written.
            chunk_size: bytes per chunk.
            partial_folder: where the partial file lies, on the same file system.
                Default: the target's folder.
            prefix: of the partial file's name. Default: `partial_file_prefix`.
            fsync: flush to the disk before the rename.
            write_policy: decides which writes go past the page cache. Default: none.
            on_publish: called in a worker thread right after the rename.

        Raises:
            DestinationError: if the file cannot be made there.
        """
        folder = partial_folder or target.parent

        def make() -> PartialFile:
            with map_write_errors(target):
                folder.mkdir(parents=True, exist_ok=True)
                target.parent.mkdir(parents=True, exist_ok=True)
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

        # Not abandoned by a cancellation, so the open file always reaches its owner.
        partial_file = await anyio.to_thread.run_sync(make)
        return cls(target, partial_file, fsync=fsync, on_publish=on_publish)

    @property
    def resumable_chunks(self) -> Mapping[int, str]:
        return self._partial.resumable_chunks

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        read = partial(self._partial.read_into, chunk.start, buffer)
        if await anyio.to_thread.run_sync(read, limiter=self._writers) < len(buffer):
            raise IntegrityError(f"{self._target}: the partial file is shorter than its journal")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        write = partial(self._partial.write, chunk.index, chunk.start, data, digest)
        await anyio.to_thread.run_sync(write, limiter=self._writers)

    async def commit(self, manifest: FileManifest) -> None:
        def publish() -> None:
            self._partial.publish(self._target, fsync=self._fsync)
            if self._on_publish is not None:
                self._on_publish(manifest)

        await anyio.to_thread.run_sync(publish)

    async def abort(self, *, discard: bool) -> None:
        # A partial file without a single journalled chunk has nothing to resume.
        def abandon() -> None:
            if discard or self._partial.journal.is_empty:
                self._partial.remove()
            else:
                self._partial.close()

        await anyio.to_thread.run_sync(abandon)


def is_small(entry: Entry, chunk_size: int) -> bool:
    """Return True if `entry` is a case for `SmallFileSink`: one short chunk, or none."""
    return entry.size <= min(_SMALL_FILE, chunk_size)


class SmallFileSink:
    """A file of at most one chunk, published by its only `write`, which gets verified bytes.

    Args:
        publish: gives the file its content; called in a worker thread.
        batch: shared by the small files of one sink.
    """

    def __init__(self, publish: Callable[[memoryview], None], batch: ThreadBatch) -> None:
        self.resumable_chunks: Mapping[int, str] = {}
        self._publish = publish
        self._batch = batch
        self._is_published = False

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError("small files are not resumed")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._batch.run(partial(self._publish, data))
        self._is_published = True

    async def commit(self, manifest: FileManifest) -> None:
        if not self._is_published:  # an empty file has no chunk that could have been written
            await self._batch.run(partial(self._publish, memoryview(b"")))

    async def abort(self, *, discard: bool) -> None:
        pass  # the file is absent, or whole and verified


def _write_small(target: Path, data: memoryview, *, folder: Path, prefix: str, fsync: bool) -> None:
    with map_write_errors(target):
        write_atomically(target, data, folder=folder, prefix=prefix, fsync=fsync)


class LocalSink:
    """A folder, or with `single` one file.

    Args:
        path: the folder that takes the files, or the file itself.
        single: `path` is the name of the only file.
        fsync: flush files to the disk before they get their names.
        direct_io: whether to write past the page cache; see `TransferOptions.direct_io`.
    """

    limits = PartLimits()

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
        self._batch = ThreadBatch(allow_inline=not fsync)

    @property
    def location(self) -> str:
        return str(self._path)

    def _target(self, path: str) -> Path:
        return self._path if self._single else self._path / safe_path(path)

    async def prepare(self, entries: Sequence[Entry]) -> None:
        folder = self._path.parent if self._single else self._path
        size = sum(entry.size for entry in entries)
        await anyio.to_thread.run_sync(check_destination, folder, size)
        self._write_policy = WritePolicy(self._direct_io, size, available_page_cache())

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        target = self._target(entry.path)
        if is_small(entry, chunk_size):
            publish = partial(
                _write_small,
                target,
                folder=target.parent,
                prefix=partial_file_prefix(target, entry.identity, entry.size),
                fsync=self._fsync,
            )
            return SmallFileSink(publish, self._batch)
        return await LocalFileSink.open(
            target, entry, chunk_size, fsync=self._fsync, write_policy=self._write_policy
        )

    async def finish(self, manifest: Manifest) -> None:
        prefixes: dict[Path, set[str]] = {}
        for path in manifest.files:
            target = self._target(path)
            prefixes.setdefault(target.parent, set()).add(_target_prefix(target))

        def clean() -> None:
            for folder, names in prefixes.items():
                remove_stale_partials(folder, names)

        await anyio.to_thread.run_sync(clean)
