"""Files in memory, as source and sink; for tests of the engine.

A `MemoryStore` can raise planned errors (`fail`), block a read (`hold`) and refuse ranges, and
records every read, so that tests can drive the engine without a network and on any anyio
backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import Digest, chunk_digest, new_hasher
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer._core.streams import ByteStream
from hftransfer.errors import NotFoundError, RangeNotSupportedError
from hftransfer.stores.base import Entry, FileSink

__all__ = ("MemoryStore",)


class MemoryStore:
    """Named files in memory. The contents are not part of the engine's memory budget.

    Args:
        files: path to content. Default: empty, as for a sink.
        location: the location string for messages.
        digests: list each file with its sha256, as the Hub does.
        ranges: False to raise `RangeNotSupportedError` for every read of less than a whole
            file, so that `stream` must be used.
        limits: as a sink, the accepted chunk sizes. Default: any.
    """

    commit: str | None = None
    single = False

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        *,
        location: str = "memory://",
        digests: bool = True,
        ranges: bool = True,
        limits: PartLimits | None = None,
    ) -> None:
        self.files: dict[str, bytes] = dict(files or {})
        self.location = location
        self.limits = limits or PartLimits()
        self.reads: list[tuple[str, int, int]] = []
        """(path, start, stop), in bytes, of every read in call order; failed reads are included."""
        self.open_files = 0
        """Files opened by `begin` and neither committed nor aborted."""
        self.resumable_chunks: dict[str, dict[int, bytes]] = {}
        """Contents of the chunks that aborted files keep: path, then chunk index."""
        self._corrupted: set[tuple[str, int]] = set()
        self._digests = digests
        self._ranges = ranges
        self._failures: list[tuple[str, str | None, int | None, BaseException]] = []
        self._blocked_reads: dict[tuple[str, int], anyio.Event] = {}

    def fail(
        self,
        operation: str,
        error: BaseException,
        *,
        path: str | None = None,
        start: int | None = None,
        times: int = 1,
    ) -> None:
        """Raise `error` from the next `times` matching operations, instead of running them.

        Args:
            operation: ``list``, ``read``, ``prepare``, ``begin``, ``write``, ``commit`` or
                ``finish``.
            error: the exception.
            path: only for this file. Default: any.
            start: only for a read or write at this byte offset. Default: any.
            times: number of operations that fail.
        """
        self._failures += [(operation, path, start, error)] * times

    def hold(self, path: str, start: int) -> anyio.Event:
        """Block the next read of `path` at byte `start` until the returned event is set."""
        event = anyio.Event()
        self._blocked_reads[path, start] = event
        return event

    def corrupt_resumable_chunk(self, path: str, index: int) -> None:
        """Return a kept chunk with its first byte changed, under its unchanged digest."""
        self._corrupted.add((path, index))

    def _check(self, operation: str, path: str | None = None, start: int | None = None) -> None:
        for failure in self._failures:
            planned, planned_path, planned_start, error = failure
            if (
                planned == operation
                and planned_path in (None, path)
                and planned_start in (None, start)
            ):
                self._failures.remove(failure)
                raise error

    async def list(self) -> Sequence[Entry]:
        await anyio.lowlevel.checkpoint()
        self._check("list")
        if not self.files:
            raise NotFoundError(f"{self.location}: nothing there")
        return [self._entry(path) for path in sorted(self.files)]

    def _entry(self, path: str) -> Entry:
        content = self.files[path]
        hasher = new_hasher("sha256", len(content))
        hasher.update(memoryview(content))
        sha256 = hasher.hexdigest()
        digest = Digest("sha256", sha256) if self._digests else None
        return Entry(path=path, size=len(content), digest=digest, etag=sha256)

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        if not self._ranges and (buffer.start, buffer.limit) != (0, entry.size):
            raise RangeNotSupportedError(f"{self.location}{entry.path}: ranges are not supported")
        remaining = buffer.remaining
        await self._read(entry, buffer.position, remaining)
        buffer.advance(len(remaining))

    async def _read(self, entry: Entry, start: int, buffer: memoryview) -> None:
        self.reads.append((entry.path, start, start + len(buffer)))
        await anyio.lowlevel.checkpoint()
        if event := self._blocked_reads.pop((entry.path, start), None):
            await event.wait()
        self._check("read", entry.path, start)
        buffer[:] = self.files[entry.path][start : start + len(buffer)]

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        yield _MemoryStream(self, entry)

    async def prepare(self, entries: Sequence[Entry]) -> None:
        await anyio.lowlevel.checkpoint()
        self._check("prepare")

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        await anyio.lowlevel.checkpoint()
        self._check("begin", entry.path)
        self.open_files += 1
        return _MemoryFileSink(self, entry)

    async def finish(self, manifest: Manifest) -> None:
        await anyio.lowlevel.checkpoint()
        self._check("finish")


class _MemoryStream:
    def __init__(self, store: MemoryStore, entry: Entry) -> None:
        self._store = store
        self._entry = entry
        self._position = 0

    async def readinto(self, buffer: memoryview) -> None:
        await self._store._read(self._entry, self._position, buffer)
        self._position += len(buffer)


class _MemoryFileSink:
    def __init__(self, store: MemoryStore, entry: Entry) -> None:
        self._store = store
        self._entry = entry
        self._chunks = store.resumable_chunks.pop(entry.path, {})
        self.resumable_chunks = {
            index: chunk_digest(memoryview(content)) for index, content in self._chunks.items()
        }

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        await anyio.lowlevel.checkpoint()
        buffer[:] = self._chunks[chunk.index]
        if (self._entry.path, chunk.index) in self._store._corrupted:
            buffer[0] ^= 1

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._store._check("write", self._entry.path, chunk.start)
        self._chunks[chunk.index] = bytes(data)

    async def commit(self, manifest: FileManifest) -> None:
        await anyio.lowlevel.checkpoint()
        self._store._check("commit", self._entry.path)
        content = b"".join(self._chunks[index] for index in sorted(self._chunks))
        self._store.files[self._entry.path] = content
        self._store.open_files -= 1

    async def abort(self, *, discard: bool) -> None:
        await anyio.lowlevel.checkpoint()
        self._store.open_files -= 1
        if self._chunks and not discard:
            self._store.resumable_chunks[self._entry.path] = self._chunks
