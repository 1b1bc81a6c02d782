"""Files in memory, as source and sink: for tests, and wherever bytes are wanted at hand.

A `MemoryStore` can be told to fail (`fail`), to wait (`hold`) and to refuse ranges, and
keeps count of what it was asked, so that the engine's behaviour can be shown without a
network and on any anyio backend.
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
    """Named files in memory.

    Args:
        files: path to content.
        location: for people.
        digests: list each file with its sha256, as the Hub does.
        ranges: answer ranged reads; else every one of them raises
            `RangeNotSupportedError` and `stream` must be used.
        limits: as a sink, what one chunk may be.
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
        """(path, start, stop) of every read, in order, failed ones included."""
        self.open_files = 0
        """Files begun as a sink and neither committed nor aborted."""
        self.resumable_chunks: dict[str, dict[int, bytes]] = {}
        """Chunks kept by aborted files, by path and chunk index."""
        self._corrupted: set[tuple[str, int]] = set()
        self._digests = digests
        self._ranges = ranges
        self._failures: list[tuple[str, str | None, int | None, BaseException]] = []
        self._holds: dict[tuple[str, int], anyio.Event] = {}

    def fail(
        self,
        operation: str,
        error: BaseException,
        *,
        path: str | None = None,
        start: int | None = None,
        times: int = 1,
    ) -> None:
        """Raise `error` from the next `times` matching operations.

        Args:
            operation: ``list``, ``read``, ``prepare``, ``begin``, ``write``, ``commit`` or
                ``finish``.
            error: what is raised.
            path: only for this file. Default: any.
            start: only for the chunk that starts here. Default: any.
            times: how often.
        """
        self._failures += [(operation, path, start, error)] * times

    def hold(self, path: str, start: int) -> anyio.Event:
        """Let the next read of `path` at `start` wait until the returned event is set."""
        event = anyio.Event()
        self._holds[path, start] = event
        return event

    def corrupt_resumable_chunk(self, path: str, index: int) -> None:
        """Flip the first byte of a kept chunk, leaving the record of its digest as it is."""
        self._corrupted.add((path, index))

    def _check(self, operation: str, path: str | None = None, start: int | None = None) -> None:
        for failure in self._failures:
            if (
                failure[0] == operation
                and failure[1] in (None, path)
                and failure[2] in (None, start)
            ):
                self._failures.remove(failure)
                raise failure[3]

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

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        if not self._ranges and (span.start, span.limit) != (0, entry.size):
            raise RangeNotSupportedError(f"{self.location}{entry.path}: no ranges here")
        rest = span.remaining
        await self._read(entry, span.position, rest)
        span.advance(len(rest))

    async def _read(self, entry: Entry, start: int, buffer: memoryview) -> None:
        self.reads.append((entry.path, start, start + len(buffer)))
        await anyio.lowlevel.checkpoint()
        if event := self._holds.pop((entry.path, start), None):
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
