"""Comparing a local file with what a sink has, so that an equal file is read and not sent.

The parts of the file are hashed side by side, each through a window of buffer memory, under the
limits of `SendfileStrategy` (`context`): one window and one thread per core.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import anyio.to_thread

from hftransfer._core.content_digest import ContentDigest
from hftransfer._core.digests import new_hasher
from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer._engine.context import Context, TransferStats
from hftransfer._io.file_range import HASH_WINDOW_SIZE, FileRange
from hftransfer.errors import single_error
from hftransfer.stores.base import ComparingSink, Entry, FileBackedSource, Sink, Source

__all__ = ("is_stored",)

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
    """Return True if `entry` is a local file and `sink` has its content under its name.

    Raises:
        SourceChangedError: if the file was written to meanwhile.
        TransferError: if the file or the store cannot be read.
    """
    if entry.file_version is None or not isinstance(source, FileBackedSource):
        return False
    if not isinstance(sink, ComparingSink):
        return False
    stored = await sink.stored_content(entry, chunk_size)
    if stored is None or not await _has_content(source, entry, stored, context, stats):
        return False
    sink.confirm_stored(entry)
    return True


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
