"""One file on its way: its chunks through memory, digests and sinks, in whatever order they come.

::

    a buffer from the pool (the back-pressure) → fetcher → XXH3 ─┬→ every sink
                                                                 └→ the file's digest, in order
    buffer back to the pool ←────────────────────────────────────┘

Each chunk is one task that owns one buffer from its arrival to its last use: nothing is
copied or queued in between. A file's own digest needs its bytes in order; a chunk that
arrives early waits for its turn with its buffer. That cannot deadlock: a file's chunks
get their buffers in order, so the chunk that everybody waits for always has one.

A chunk that a sink kept from an interrupted transfer is read from there in place of the
source, checked, and otherwise treated alike; so a resume needs no second mechanism.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.to_thread

from hftransfer._buffers import Buffer, BufferPool
from hftransfer._digests import INLINE, chunk_digest
from hftransfer._fetch import Fetcher
from hftransfer._front import Front
from hftransfer._manifest import FileManifest, Manifest
from hftransfer._plan import Chunk, plan_chunks
from hftransfer._progress import Moved, Observer, Retrying, emit
from hftransfer._retry import retrying
from hftransfer._slots import Slots
from hftransfer._spans import Span
from hftransfer._throttle import Throttle
from hftransfer.errors import (
    IntegrityError,
    RangeNotSupportedError,
    TransientError,
    single_error,
)
from hftransfer.options import TransferOptions
from hftransfer.report import Report
from hftransfer.stores.base import Entry, FileSink, Sink, Source

__all__ = ("Context", "MovingFile", "Tally")

# What does not match is fetched once more.
_CHUNK_TRIES = 2
_STAGES = ("fetch", "hash", "store")


# Where the number of connections is not given: modest to begin with, and as many as pay.
_START_CONNECTIONS = 16
_MAX_CONNECTIONS = 64


@dataclass(kw_only=True)
class Context:
    """What all transfers of one client share."""

    options: TransferOptions
    pool: BufferPool
    fetcher: Fetcher
    large: Slots
    """Chunks of large files in memory: not so many that small files find no room."""
    hashing: anyio.CapacityLimiter
    """Worker threads that make digests of chunks."""
    fronts: anyio.CapacityLimiter
    """Worker threads that make digests of files. Without a limit: `Front` has its own."""
    observer: Observer | None = None

    @classmethod
    def make(
        cls,
        options: TransferOptions,
        observer: Observer | None = None,
        *,
        throttle: Throttle | None = None,
    ) -> Context:
        budget = options.resolved_memory_budget
        chunk_slots = budget // options.chunk_size
        throttle = throttle or Throttle(options.bandwidth)
        return cls(
            options=options,
            pool=BufferPool(budget),
            fetcher=Fetcher(
                options.connections,
                start=_START_CONNECTIONS,
                maximum=_MAX_CONNECTIONS,
                chunk_slots=chunk_slots,
                retry=options.retry,
                throttle=throttle,
            ),
            large=Slots(max(1, chunk_slots - max(1, chunk_slots // 8))),
            hashing=anyio.CapacityLimiter(max(2, os.cpu_count() or 1)),
            fronts=anyio.CapacityLimiter(math.inf),
            observer=observer,
        )


@dataclass
class Tally:
    """Counters of one transfer."""

    files: int = 0
    skipped: int = 0
    bytes: int = 0
    reused: int = 0
    retries: int = 0
    verified: int = 0
    unstarted: int = 0
    """Bytes of which not even the fetching has begun."""
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))

    def timed(self, stage: str) -> _Timed:
        """Return what adds the time of a ``with`` block to `stage`."""
        return _Timed(self.stages, stage)

    def report(self, manifest: Manifest, sinks: Sequence[Sink], *, seconds: float) -> Report:
        return Report(
            source=manifest.source,
            destinations=tuple(sink.location for sink in sinks),
            files=self.files,
            skipped=self.skipped,
            bytes=self.bytes,
            reused_bytes=self.reused,
            seconds=seconds,
            retries=self.retries,
            verified=self.verified,
            stages=self.stages,
            manifest=manifest,
        )


class _Timed:
    """Measures a ``with`` block. A class, since a generator costs more than what it measures."""

    __slots__ = ("_stage", "_stages", "_started")

    def __init__(self, stages: dict[str, float], stage: str) -> None:
        self._stages = stages
        self._stage = stage

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._stages[self._stage] += time.perf_counter() - self._started


class MovingFile:
    """One file on its way from the source into the opened sinks."""

    def __init__(
        self,
        entry: Entry,
        chunk_size: int,
        source: Source,
        sinks: Sequence[FileSink],
        context: Context,
        tally: Tally,
    ) -> None:
        self._entry = entry
        self._chunk_size = chunk_size
        self._source = source
        self._sinks = sinks
        self._context = context
        self._tally = tally
        self._chunks = plan_chunks(entry.size, chunk_size)
        self._digests: list[str | None] = [None] * len(self._chunks)
        """XXH3-128 of each chunk that is verified and in every sink."""
        wanted = entry.digest if context.options.verify else None
        self._front = None if wanted is None else Front(wanted, entry.size, len(self._chunks))
        self._moved = 0
        self._unstarted = entry.size

    async def move(self) -> FileManifest:
        """Move all chunks; return what was moved once the file's digest is right."""
        try:
            with single_error():
                await self._move_ranges()
        except RangeNotSupportedError:
            await retrying(
                self._move_stream, self._context.options.retry, on_retry=self._count_retry
            )
        if self._front is not None:
            self._front.check(self._entry.path)
        if self._front is not None or self._entry.manifest is not None:
            self._tally.verified += 1
        return FileManifest(
            size=self._entry.size,
            chunk_size=self._chunk_size,
            chunks=tuple(digest for digest in self._digests if digest is not None),
            digest=self._entry.digest,
        )

    def withdraw(self) -> None:
        """Take back the progress that was announced, since the file is given up."""
        self._tally.unstarted += self._entry.size - self._unstarted
        self._unstarted = self._entry.size
        if self._moved:
            emit(self._context.observer, Moved(self._entry.path, -self._moved))
            self._moved = 0

    async def _move_ranges(self) -> None:
        pool = self._context.pool
        if len(self._chunks) == 1:
            # Small files come by the thousand: one task each is enough.
            (chunk,) = self._chunks
            buffer = await pool.acquire(chunk.size)
            try:
                self._start(chunk)
                await self._move_chunk(chunk, buffer.view)
            finally:
                pool.release(buffer)
            return
        async with anyio.create_task_group() as tasks:
            for chunk in self._chunks:
                # Waiting here, in order, is what keeps memory bounded and the front supplied.
                buffer = await self._acquire(chunk)
                self._start(chunk)

                async def run(chunk: Chunk = chunk, buffer: Buffer = buffer) -> None:
                    try:
                        await self._move_chunk(chunk, buffer.view)
                    finally:
                        pool.release(buffer)
                        self._context.large.release()

                tasks.start_soon(run)

    async def _acquire(self, chunk: Chunk) -> Buffer:
        await self._context.large.acquire()
        try:
            return await self._context.pool.acquire(chunk.size)
        except BaseException:
            self._context.large.release()
            raise

    def _start(self, chunk: Chunk) -> None:
        self._unstarted -= chunk.size
        self._tally.unstarted -= chunk.size

    async def _move_chunk(self, chunk: Chunk, data: memoryview) -> None:
        digest = await self._reuse(chunk, data)
        reused = digest is not None
        if digest is None:
            digest = await self._fetch(chunk, data)
        await self._settle(chunk, data, digest, reused=reused)

    async def _reuse(self, chunk: Chunk, data: memoryview) -> str | None:
        """Fill `data` from a sink that kept this chunk; return its digest if it is intact."""
        for sink in self._sinks:
            recorded = sink.held.get(chunk.index)
            if recorded is None:
                continue
            await sink.read_into(chunk, data)
            if await self._hash(data) == recorded and self._expects(chunk, recorded):
                return recorded
        return None

    async def _fetch(self, chunk: Chunk, data: memoryview) -> str:
        """Fill `data` from the source; return its digest, which matches what is expected."""
        digest = ""
        for _ in range(_CHUNK_TRIES):
            span = Span(chunk.start, data)
            with self._tally.timed("fetch"):
                await self._context.fetcher.fill(self._source, self._entry, span, self._count_retry)
            self._tally.bytes += chunk.size
            digest = await self._hash(data)
            if self._expects(chunk, digest):
                return digest
            self._tally.retries += 1
        raise IntegrityError(
            f"{self._entry.path}: bytes {chunk.start}-{chunk.stop - 1} from "
            f"{self._source.location} have XXH3 {digest}, other than recorded"
        )

    def _expects(self, chunk: Chunk, digest: str) -> bool:
        recorded = self._entry.manifest
        return recorded is None or recorded.chunks[chunk.index] == digest

    async def _settle(self, chunk: Chunk, data: memoryview, digest: str, *, reused: bool) -> None:
        """Bring one chunk into every sink that lacks it, and into the file's digest."""
        if len(self._chunks) == 1 and self._front is not None:
            # Some sinks publish a file of one chunk by writing it: it must be right before.
            await self._feed(chunk, data)
            self._front.check(self._entry.path)
        sinks = [sink for sink in self._sinks if sink.held.get(chunk.index) != digest or not reused]
        if len(sinks) == len(self._chunks) == 1:
            await self._store(sinks[0], chunk, data, digest)
        else:
            async with anyio.create_task_group() as tasks:
                for sink in sinks:
                    tasks.start_soon(self._store, sink, chunk, data, digest)
                await self._feed(chunk, data)
        self._digests[chunk.index] = digest
        self._moved += chunk.size
        if reused:
            self._tally.reused += chunk.size
        emit(self._context.observer, Moved(self._entry.path, chunk.size, reused=reused))

    async def _store(self, sink: FileSink, chunk: Chunk, data: memoryview, digest: str) -> None:
        with self._tally.timed("store"):
            await self._retrying(partial(sink.write, chunk, data, digest))

    async def _feed(self, chunk: Chunk, data: memoryview) -> None:
        if self._front is not None:
            await self._front.feed(chunk.index, data, self._context.fronts)

    async def _hash(self, data: memoryview) -> str:
        if len(data) <= INLINE:
            return chunk_digest(data)
        with self._tally.timed("hash"):
            return await anyio.to_thread.run_sync(chunk_digest, data, limiter=self._context.hashing)

    async def _move_stream(self) -> None:
        """Move the file as one body, for sources that cannot read ranges."""
        if self._front is not None:
            self._front.resume()
        self._tally.unstarted -= self._unstarted
        self._unstarted = 0
        async with self._context.fetcher.slots, self._source.stream(self._entry) as stream:
            for chunk in self._chunks:
                async with self._context.pool.lease(chunk.size) as data:
                    with self._tally.timed("fetch"):
                        await stream.readinto(data)
                    self._tally.bytes += chunk.size
                    if self._digests[chunk.index] is None:
                        digest = await self._hash(data)
                        if not self._expects(chunk, digest):
                            raise IntegrityError(
                                f"{self._entry.path}: its bytes are not the recorded ones"
                            )
                        with single_error():
                            await self._settle(chunk, data, digest, reused=False)

    async def _retrying(self, operation: Callable[[], Awaitable[None]]) -> None:
        await retrying(operation, self._context.options.retry, on_retry=self._count_retry)

    def _count_retry(self, error: TransientError, delay: float) -> None:
        self._tally.retries += 1
        emit(self._context.observer, Retrying(self._entry.path, error, delay))
