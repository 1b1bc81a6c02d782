"""One chunk in memory: take a buffer for it, hash it, store it.

These are the steps that `ranges` and `stream` share. They differ in how the buffer is filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import anyio.to_thread

from hftransfer._core.digests import INLINE_HASH_LIMIT, chunk_digest
from hftransfer._core.pieces import Piece, digest_with_pieces, missing_ranges
from hftransfer._core.plan import Chunk
from hftransfer._engine.file_digest import CombinedDigest, OrderedHasher
from hftransfer._engine.file_state import FileState, Operation
from hftransfer._io.buffers import Buffer
from hftransfer.stores.base import FileSink, PieceSink

__all__ = ("ChunkPipeline",)


class ChunkPipeline:
    """The steps of a chunk of one file, from its buffer to the sinks.

    Args:
        state: of the file.
    """

    def __init__(self, state: FileState) -> None:
        digest = state.file_digest
        self._state = state
        self._is_single = len(state.chunks) == 1
        self._stores_pieces = all(isinstance(sink, PieceSink) for sink in state.sinks)
        self._ordered_hasher = digest if isinstance(digest, OrderedHasher) else None
        self._combined = digest if isinstance(digest, CombinedDigest) else None

    async def acquire(self, size: int) -> Buffer:
        """Return a buffer of `size` bytes, when the limits allow another chunk in flight.

        Chunks of files with several chunks may not take the whole budget: see `Context`.
        """
        context = self._state.context
        if not self._stores_pieces:
            await context.in_flight.acquire(size)
        try:
            return await self._acquire_memory(size)
        except BaseException:
            if not self._stores_pieces:
                context.in_flight.release(size, stored=False)
            raise

    async def _acquire_memory(self, size: int) -> Buffer:
        context = self._state.context
        if self._is_single:
            return await context.buffer_pool.acquire(size)
        await context.large_chunks.acquire()
        try:
            return await context.buffer_pool.acquire(size)
        except BaseException:
            context.large_chunks.release()
            raise

    def release(self, buffer: Buffer, *, stored: bool) -> None:
        """Return a buffer of `acquire`.

        Args:
            buffer: to return.
            stored: as of `InFlightWindow.release`.
        """
        context = self._state.context
        size = len(buffer.view)
        context.buffer_pool.release(buffer)
        if not self._is_single:
            context.large_chunks.release()
        if not self._stores_pieces:
            context.in_flight.release(size, stored=stored)

    async def digest(self, data: memoryview) -> str:
        """Return the XXH3-128 of a part of a chunk."""
        if len(data) <= INLINE_HASH_LIMIT:
            return chunk_digest(data)
        threads = self._state.context.hash_threads
        with self._state.stats.timed("hash"):
            return await anyio.to_thread.run_sync(chunk_digest, data, limiter=threads)

    async def hash(self, chunk: Chunk, data: memoryview) -> str:
        """Return the XXH3-128 of a chunk; record its share of a combined digest of the file."""
        digest, _ = await self.hash_with_pieces(chunk, data, ())
        return digest

    async def hash_with_pieces(
        self, chunk: Chunk, data: memoryview, pieces: Sequence[Piece]
    ) -> tuple[str, list[Piece]]:
        """As `hash`; return also those of the stored `pieces` that have the bytes of `data`."""
        compute = partial(self._compute, chunk, data, pieces)
        if len(data) <= INLINE_HASH_LIMIT:
            digest, intact, share = compute()
        else:
            context = self._state.context
            with self._state.stats.timed("hash"):
                digest, intact, share = await anyio.to_thread.run_sync(
                    compute, limiter=context.hash_threads
                )
        if self._combined is not None and share is not None:
            self._combined.record(chunk.index, share)
        return digest, intact

    def _compute(
        self, chunk: Chunk, data: memoryview, pieces: Sequence[Piece]
    ) -> tuple[str, list[Piece], bytes | None]:
        share = None if self._combined is None else self._combined.compute(data)
        if not pieces:
            return chunk_digest(data), [], share
        return *digest_with_pieces(data, chunk.start, pieces), share

    async def store(
        self,
        chunk: Chunk,
        data: memoryview,
        digest: str,
        *,
        reused: bool = False,
        stored: Mapping[PieceSink, Sequence[Piece]] | None = None,
        restored: int = 0,
    ) -> None:
        """Write a verified chunk to every sink that lacks it, and hash it in file order.

        Args:
            chunk: which one.
            data: its bytes.
            digest: its XXH3-128.
            reused: True if `data` was read from a sink, which then needs no write.
            stored: by sink, the pieces of the chunk that it has. Default: none.
            restored: bytes of `data` that were read from a sink, if not all were.

        Raises:
            IntegrityError: if this is the file's only chunk and the file's digest is wrong.
        """
        update_digest: Operation | None = None
        if self._ordered_hasher is not None:
            update_digest = partial(self._ordered_hasher.update, chunk.index, data)
        if self._is_single:
            # Some sinks publish a file of one chunk by writing it, so it is checked before.
            if update_digest is not None:
                await update_digest()
                update_digest = None
            self._state.check_file_digest()
        writes = [
            self._write(sink, chunk, data, digest, stored or {})
            for sink in self._state.sinks
            if not reused or sink.resumable_chunks.get(chunk.index) != digest
        ]
        await self._state.write_all(writes, update_digest)
        self._state.record(chunk, digest, reused=chunk.size if reused else restored)

    def _write(
        self,
        sink: FileSink,
        chunk: Chunk,
        data: memoryview,
        digest: str,
        stored: Mapping[PieceSink, Sequence[Piece]],
    ) -> Operation:
        """Return the call that stores what `sink` lacks of a chunk."""
        if not isinstance(sink, PieceSink) or not stored.get(sink):
            return partial(sink.write, chunk, data, digest)
        ranges = [
            (start, data[start - chunk.start : stop - chunk.start])
            for start, stop in missing_ranges(stored[sink], chunk.start, chunk.stop)
        ]
        return partial(sink.write_ranges, chunk, ranges, digest)
