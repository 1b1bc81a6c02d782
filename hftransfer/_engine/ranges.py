"""Moving a file through memory, chunk by chunk, by ranged reads. The usual strategy."""

from __future__ import annotations

import anyio

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.plan import Chunk
from hftransfer._engine.chunk import ChunkPipeline
from hftransfer._engine.file_state import CHUNK_ATTEMPTS, FileState
from hftransfer._io.buffers import Buffer
from hftransfer.errors import IntegrityError, single_error

__all__ = ("RangeStrategy",)


class RangeStrategy:
    """One task per chunk, which owns one buffer from the first byte to the last write.

    A chunk that a sink kept from an interrupted transfer is read from that sink instead of
    the source. It then takes the same steps as any other chunk, so that a resumed transfer
    needs no code of its own.

    Args:
        state: of the file.
    """

    def __init__(self, state: FileState) -> None:
        self._state = state
        self._pipeline = ChunkPipeline(state)

    async def run(self) -> None:
        """Move all chunks.

        Raises:
            RangeNotSupportedError: if the source can only send the whole file. Chunks that
                are recorded in `FileState.chunk_digests` need not be stored again.
            TransferError: the first failure; further ones are its notes.
        """
        with single_error():
            if len(self._state.chunks) == 1:
                # Small files come in thousands: the task of the file serves as the chunk's.
                await self._start(self._state.chunks[0])
                return
            async with anyio.create_task_group() as tasks:
                for chunk in self._state.chunks:
                    # Waiting for memory here is the back-pressure. It is granted in file order,
                    # so the chunk that `OrderedHasher` needs next always has its buffer.
                    buffer = await self._pipeline.acquire(chunk.size)
                    self._state.started += 1
                    tasks.start_soon(self._run_chunk, chunk, buffer)

    async def _start(self, chunk: Chunk) -> None:
        buffer = await self._pipeline.acquire(chunk.size)
        self._state.started += 1
        await self._run_chunk(chunk, buffer)

    async def _run_chunk(self, chunk: Chunk, buffer: Buffer) -> None:
        try:
            digest = await self._reuse(chunk, buffer.view)
            reused = digest is not None
            if digest is None:
                digest = await self._fetch(chunk, buffer.view)
            await self._pipeline.store(chunk, buffer.view, digest, reused=reused)
        finally:
            self._pipeline.release(buffer)

    async def _reuse(self, chunk: Chunk, data: memoryview) -> str | None:
        """Fill `data` from a sink that kept this chunk; return its XXH3 if it is intact."""
        for sink in self._state.sinks:
            recorded = sink.resumable_chunks.get(chunk.index)
            if recorded is None:
                continue
            await sink.read_into(chunk, data)
            digest = await self._pipeline.hash(chunk, data)
            if digest == recorded and self._state.matches_manifest(chunk, digest):
                return digest
        return None

    async def _fetch(self, chunk: Chunk, data: memoryview) -> str:
        """Fill `data` from the source; return its XXH3, which is the recorded one.

        Raises:
            IntegrityError: if that, or the digest that came with the bytes, differs each time.
        """
        state = self._state
        digest = ""
        for remaining in reversed(range(CHUNK_ATTEMPTS)):
            buffer = ByteRangeBuffer(chunk.start, data)
            with state.stats.timed("fetch"):
                await state.context.scheduler.fill(
                    state.source, state.entry, buffer, state.on_retry
                )
            state.stats.bytes += chunk.size
            digest = await self._pipeline.hash(chunk, data)
            if state.matches_manifest(chunk, digest):
                try:
                    await state.check_received_digest(data)
                    return digest
                except IntegrityError:
                    if not remaining:
                        raise
            state.stats.retries += 1
        raise state.chunk_mismatch(chunk, digest)
