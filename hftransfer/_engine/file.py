"""One file on its way: its chunks through memory, digests and sinks, in whatever order they come.

::

    a buffer from the pool (the back-pressure) → fetcher → XXH3, CRC ─┬→ every sink
                                                                      └→ the file's sha256, in order
    buffer back to the pool ←─────────────────────────────────────────┘

Each chunk is one task that owns one buffer from its arrival to its last use: nothing is
copied or queued in between. A file's own digest needs its bytes in order; a chunk that
arrives early waits for its turn with its buffer. That cannot deadlock: a file's chunks
get their buffers in order, so the chunk that everybody waits for always has one.

A chunk that a sink kept from an interrupted transfer is read from there in place of the
source, checked, and otherwise treated alike; so a resume needs no second mechanism.

Where the source is a file of this machine and every sink can read it there, no chunk needs
a buffer: it is hashed through a small window, and sent from the page cache.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import anyio
import anyio.to_thread

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import INLINE_HASH_LIMIT, Digest, chunk_digest, is_supported
from hftransfer._core.events import BytesMoved, Retrying, emit
from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer._engine.context import Context, TransferStats
from hftransfer._engine.file_digest import OrderedHasher
from hftransfer._engine.joined_crc import JoinedCrc
from hftransfer._io.buffers import Buffer
from hftransfer._io.file_range import HASH_WINDOW_SIZE, FileRange
from hftransfer._io.retry import retrying
from hftransfer.errors import (
    IntegrityError,
    RangeNotSupportedError,
    TransientError,
    UnsupportedError,
    single_error,
)
from hftransfer.stores.base import Entry, FileBackedSource, FileSink, SendfileSink, Source

__all__ = ("FileTransfer",)

_Step: TypeAlias = Callable[[], Awaitable[None]]

# What does not match is fetched once more.
_CHUNK_TRIES = 2


def _checkable(entry: Entry) -> Digest | None:
    """Return the digest of a whole file, if there is one and it can be made here.

    Raises:
        UnsupportedError: if it cannot, and nothing else says what the bytes should be.
    """
    digest = entry.digest
    if digest is None or is_supported(digest.algorithm):
        return digest
    if entry.manifest is None:
        raise UnsupportedError(
            f"{entry.path}: its {digest.algorithm} cannot be checked without the package awscrt"
        )
    return None


class FileTransfer:
    """One file on its way from the source into the opened sinks.

    Raises:
        UnsupportedError: if the digest that the source vouches for cannot be made here.
    """

    def __init__(
        self,
        entry: Entry,
        chunk_size: int,
        source: Source,
        sinks: Sequence[FileSink],
        context: Context,
        tally: TransferStats,
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
        wanted = _checkable(entry) if context.options.verify else None
        self._front: OrderedHasher | None = None
        self._joined: JoinedCrc | None = None
        if wanted is not None and JoinedCrc.is_for(wanted):
            self._joined = JoinedCrc(wanted, [chunk.size for chunk in self._chunks])
        elif wanted is not None:
            self._front = OrderedHasher(wanted, entry.size, len(self._chunks))
        self._moved = 0
        self._unstarted = entry.size

    async def move(self) -> FileManifest:
        """Move all chunks; return what was moved once the file's digest is right."""
        try:
            sinks = self._region_sinks()
            if sinks and isinstance(self._source, FileBackedSource):
                await self._move_regions(self._source, sinks)
            else:
                with single_error():
                    await self._move_ranges()
        except RangeNotSupportedError:
            await retrying(
                self._move_stream, self._context.options.retry, on_retry=self._count_retry
            )
        is_checked = self._check()
        if is_checked or self._entry.manifest is not None:
            self._tally.verified += 1
        return FileManifest(
            size=self._entry.size,
            chunk_size=self._chunk_size,
            chunks=tuple(digest for digest in self._digests if digest is not None),
            digest=self._entry.digest,
        )

    def _check(self) -> bool:
        """Compare the file's digest with the source's own; return False if there is none.

        Raises:
            IntegrityError: if they differ.
        """
        checks = [check for check in (self._front, self._joined) if check is not None]
        for check in checks:
            check.check(self._entry.path)
        return bool(checks)

    def withdraw(self) -> None:
        """Take back the progress that was announced, since the file is moved once more."""
        self._tally.unstarted += self._entry.size - self._unstarted
        self._unstarted = self._entry.size
        if self._moved:
            emit(self._context.observer, BytesMoved(self._entry.path, -self._moved))
            self._moved = 0

    def abandon(self) -> None:
        """Note that nothing more of the file is going to be started."""
        self._tally.unstarted -= self._unstarted
        self._unstarted = 0

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

    def _region_sinks(self) -> Sequence[SendfileSink]:
        """Return the sinks, if chunks need not be in memory for any of them; else nothing."""
        if len(self._chunks) == 1 or self._front is not None or self._joined is not None:
            return ()
        found = [sink for sink in self._sinks if isinstance(sink, SendfileSink)]
        usable = [sink for sink in found if sink.sendfile_checksum is not None]
        return usable if len(usable) == len(self._sinks) else ()

    async def _move_regions(self, lender: FileBackedSource, sinks: Sequence[SendfileSink]) -> None:
        async with lender.open_file(self._entry) as whole:
            with single_error():
                async with anyio.create_task_group() as tasks:
                    for chunk in self._chunks:
                        await self._context.sendfile_limiter.acquire()
                        self._start(chunk)
                        region = whole.subrange(chunk.start, chunk.size)
                        tasks.start_soon(self._move_region, chunk, region, sinks)

    async def _move_region(
        self, chunk: Chunk, region: FileRange, sinks: Sequence[SendfileSink]
    ) -> None:
        try:
            digest, checksums = await self._measure(chunk, region, sinks)
            writes = [
                partial(sink.write_file_range, chunk, region, digest, checksum)
                for sink, checksum in zip(sinks, checksums, strict=True)
            ]
            await self._store(writes)
            self._note(chunk, digest)
        finally:
            self._context.sendfile_limiter.release()

    async def _measure(
        self, chunk: Chunk, region: FileRange, sinks: Sequence[SendfileSink]
    ) -> tuple[str, Sequence[bytes]]:
        """Return the digest of a chunk, which is as expected, and the sinks' checksums."""
        context = self._context
        wanted = ["xxhash128", *((sink.sendfile_checksum or "").lower() for sink in sinks)]
        size = min(HASH_WINDOW_SIZE, chunk.size, context.pool.budget)
        digest = ""
        for _ in range(_CHUNK_TRIES):
            async with context.windows, context.pool.lease(size) as window:
                with self._tally.timed("hash"):
                    digest, *checksums = await anyio.to_thread.run_sync(
                        region.digests, wanted, window, limiter=context.hashing
                    )
            self._tally.bytes += chunk.size
            if self._expects(chunk, digest):
                return digest, [bytes.fromhex(checksum) for checksum in checksums]
            self._tally.retries += 1
        raise self._unexpected(chunk, digest)

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
            recorded = sink.resumable_chunks.get(chunk.index)
            if recorded is None:
                continue
            await sink.read_into(chunk, data)
            if await self._hash(chunk, data) == recorded and self._expects(chunk, recorded):
                return recorded
        return None

    async def _fetch(self, chunk: Chunk, data: memoryview) -> str:
        """Fill `data` from the source; return its digest, which matches what is expected."""
        digest = ""
        for _ in range(_CHUNK_TRIES):
            span = ByteRangeBuffer(chunk.start, data)
            with self._tally.timed("fetch"):
                await self._context.fetcher.fill(self._source, self._entry, span, self._count_retry)
            self._tally.bytes += chunk.size
            digest = await self._hash(chunk, data)
            if self._expects(chunk, digest):
                return digest
            self._tally.retries += 1
        raise self._unexpected(chunk, digest)

    def _unexpected(self, chunk: Chunk, digest: str) -> IntegrityError:
        return IntegrityError(
            f"{self._entry.path}: bytes {chunk.start}-{chunk.stop - 1} from "
            f"{self._source.location} have XXH3 {digest}, other than recorded"
        )

    def _expects(self, chunk: Chunk, digest: str) -> bool:
        recorded = self._entry.manifest
        return recorded is None or recorded.chunks[chunk.index] == digest

    async def _settle(self, chunk: Chunk, data: memoryview, digest: str, *, reused: bool) -> None:
        """Bring one chunk into every sink that lacks it, and into the file's digest."""
        feed: _Step | None = None
        if self._front is not None:
            feed = partial(self._front.feed, chunk.index, data, self._context.fronts)
        if len(self._chunks) == 1:
            # Some sinks publish a file of one chunk by writing it: it must be right before.
            if feed is not None:
                await feed()
                feed = None
            self._check()
        sinks = [
            sink
            for sink in self._sinks
            if sink.resumable_chunks.get(chunk.index) != digest or not reused
        ]
        writes = [partial(sink.write, chunk, data, digest) for sink in sinks]
        await self._store(writes, feed)
        self._note(chunk, digest, reused=reused)

    def _note(self, chunk: Chunk, digest: str, *, reused: bool = False) -> None:
        """Note that a chunk is verified, and in every sink."""
        self._digests[chunk.index] = digest
        self._moved += chunk.size
        if reused:
            self._tally.reused += chunk.size
        emit(self._context.observer, BytesMoved(self._entry.path, chunk.size, reused=reused))

    async def _store(self, writes: Sequence[_Step], feed: _Step | None = None) -> None:
        """Run all of `writes`, each as often as it takes, and `feed`, side by side."""
        if len(writes) == 1 and feed is None:
            await self._write(writes[0])  # a task of its own would cost more than all around it
            return
        async with anyio.create_task_group() as tasks:
            for write in writes:
                tasks.start_soon(self._write, write)
            if feed is not None:
                await feed()

    async def _write(self, write: _Step) -> None:
        with self._tally.timed("store"):
            await retrying(write, self._context.options.retry, on_retry=self._count_retry)

    async def _hash(self, chunk: Chunk, data: memoryview) -> str:
        if len(data) <= INLINE_HASH_LIMIT:
            digest, crc = self._digests_of(data)
        else:
            with self._tally.timed("hash"):
                digest, crc = await anyio.to_thread.run_sync(
                    self._digests_of, data, limiter=self._context.hashing
                )
        if self._joined is not None and crc is not None:
            self._joined.add(chunk.index, crc)
        return digest

    def _digests_of(self, data: memoryview) -> tuple[str, bytes | None]:
        return chunk_digest(data), None if self._joined is None else self._joined.of(data)

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
                        digest = await self._hash(chunk, data)
                        if not self._expects(chunk, digest):
                            raise IntegrityError(
                                f"{self._entry.path}: its bytes are not the recorded ones"
                            )
                        with single_error():
                            await self._settle(chunk, data, digest, reused=False)

    def _count_retry(self, error: TransientError, delay: float) -> None:
        self._tally.retries += 1
        emit(self._context.observer, Retrying(self._entry.path, error, delay))
