"""One chunk in memory: take a buffer for it, hash it, store it.

These are the steps that `ranges` and `stream` share. They differ in how the buffer is filled.
"""

from __future__ import annotations

from functools import partial

import anyio.to_thread

from hftransfer._core.digests import INLINE_HASH_LIMIT, chunk_digest
from hftransfer._core.plan import Chunk
from hftransfer._engine.file_digest import CombinedDigest, OrderedHasher
from hftransfer._engine.file_state import FileState, Operation
from hftransfer._io.buffers import Buffer

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
        self._ordered_hasher = digest if isinstance(digest, OrderedHasher) else None
        self._combined = digest if isinstance(digest, CombinedDigest) else None

    async def acquire(self, size: int) -> Buffer:
        """Return a buffer of `size` bytes, when the memory budget allows it.

        Chunks of files with several chunks may not take the whole budget: see `Context`.
        """
        context = self._state.context
        if self._is_single:
            return await context.buffer_pool.acquire(size)
        await context.large_chunks.acquire()
        try:
            return await context.buffer_pool.acquire(size)
        except BaseException:
            context.large_chunks.release()
            raise

    def release(self, buffer: Buffer) -> None:
        """Return a buffer of `acquire`."""
        self._state.context.buffer_pool.release(buffer)
        if not self._is_single:
            self._state.context.large_chunks.release()

    async def hash(self, chunk: Chunk, data: memoryview) -> str:
        """Return the XXH3-128 of a chunk; record its share of a combined digest of the file."""
        if len(data) <= INLINE_HASH_LIMIT:
            digest, share = self._compute(data)
        else:
            context = self._state.context
            with self._state.stats.timed("hash"):
                digest, share = await anyio.to_thread.run_sync(
                    self._compute, data, limiter=context.hash_threads
                )
        if self._combined is not None and share is not None:
            self._combined.record(chunk.index, share)
        return digest

    def _compute(self, data: memoryview) -> tuple[str, bytes | None]:
        combined = self._combined
        return chunk_digest(data), None if combined is None else combined.compute(data)

    async def store(
        self, chunk: Chunk, data: memoryview, digest: str, *, reused: bool = False
    ) -> None:
        """Write a verified chunk to every sink that lacks it, and hash it in file order.

        Args:
            chunk: which one.
            data: its bytes.
            digest: its XXH3-128.
            reused: True if `data` was read from a sink, which then needs no write.

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
            partial(sink.write, chunk, data, digest)
            for sink in self._state.sinks
            if not reused or sink.resumable_chunks.get(chunk.index) != digest
        ]
        await self._state.write_all(writes, update_digest)
        self._state.record(chunk, digest, reused=reused)
