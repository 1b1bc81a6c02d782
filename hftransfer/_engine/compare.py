"""Comparing local files with what the other side has, so that an equal one is only read.

The parts of the file are hashed side by side, each through a window of buffer memory, under the
limits of `SendfileStrategy` (`context`): one window and one thread per core.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import anyio.to_thread

from hftransfer._core.content_digest import ContentDigest
from hftransfer._core.digests import is_supported, new_hasher
from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer._engine.context import Context, TransferStats
from hftransfer._io.file_range import HASH_WINDOW_SIZE, FileRange
from hftransfer.errors import single_error
from hftransfer.stores.base import (
    ComparingSink,
    Entry,
    FileBackedSource,
    ReadableSink,
    Sink,
    Source,
)

__all__ = ("is_stored",)

# Digests of 32 bits: of files of equal size one in 4 thousand million is equal by accident.
_TOO_SHORT = ("crc32", "crc32c")
# Bytes that a thread hashes before a cancellation is noticed: 50 ms with MD5.
_STEP = 32 << 20


async def is_stored(
    source: Source,
    sink: Sink,
    entry: Entry,
    chunk_size: int,
    context: Context,
    stats: TransferStats,
) -> bool:
    """Return True if `sink` has the content of `entry` under its name.

    That is found out if the source is local and the sink knows the digest, or the other way round.

    Raises:
        SourceChangedError: if the file was written to meanwhile.
        TransferError: if the file or the store cannot be read.
    """
    if isinstance(sink, ReadableSink) and entry.size > chunk_size:
        return await _is_there(sink, entry, context, stats)
    if entry.file_version is None or not isinstance(source, FileBackedSource):
        return False
    if not isinstance(sink, ComparingSink):
        return False
    stored = await sink.stored_content(entry, chunk_size)
    if stored is None or not await _has_content(source, entry, stored, context, stats):
        return False
    sink.confirm_stored(entry)
    return True


async def _is_there(
    sink: ReadableSink, entry: Entry, context: Context, stats: TransferStats
) -> bool:
    """Return True if the file that a sink has under the name of `entry` has its digest."""
    digest = entry.digest
    if digest is None or not is_supported(digest.algorithm) or digest.algorithm in _TOO_SHORT:
        return False
    async with sink.open_existing(entry) as whole:
        if whole is None:
            return False
        expected = ContentDigest(digest.algorithm, digest.value)
        parts = _Parts(whole, expected, context, stats)
        await parts.run()
    return expected.matches(parts.digests)


async def _has_content(
    source: FileBackedSource,
    entry: Entry,
    stored: ContentDigest,
    context: Context,
    stats: TransferStats,
) -> bool:
    async with source.open_file(entry) as whole:
        parts = _Parts(whole, stored, context, stats)
        await parts.run()
    return stored.matches(parts.digests)


class _Parts:
    """The parts of one file, and the digests of those that are hashed so far."""

    def __init__(
        self, whole: FileRange, stored: ContentDigest, context: Context, stats: TransferStats
    ) -> None:
        self._whole = whole
        self._algorithm = stored.algorithm
        self._context = context
        self._stats = stats
        self._parts = stored.parts(len(whole))
        self.digests = [""] * len(self._parts)
        """In hex, in the order of the parts."""

    async def run(self) -> None:
        """Hash all parts."""
        queue = iter(self._parts)
        workers = min(len(self._parts), int(self._context.hash_windows.total_tokens))
        with single_error():
            async with anyio.create_task_group() as tasks:
                for _ in range(workers):
                    tasks.start_soon(self._work, queue)

    async def _work(self, queue: Iterator[Chunk]) -> None:
        for part in queue:
            self.digests[part.index] = await self._hash(self._whole.subrange(part.start, part.size))

    async def _hash(self, part: FileRange) -> str:
        hasher = new_hasher(self._algorithm, len(part))
        context = self._context
        for step in plan_chunks(len(part), _STEP):
            size = min(HASH_WINDOW_SIZE, step.size, context.buffer_pool.budget)
            piece = part.subrange(step.start, step.size)
            async with context.hash_windows, context.buffer_pool.lease(size) as window:
                with self._stats.timed("hash"):
                    await anyio.to_thread.run_sync(
                        piece.update, [hasher], window, limiter=context.hash_threads
                    )
        return hasher.hexdigest()
