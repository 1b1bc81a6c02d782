"""Moving a file through memory, chunk by chunk, by ranged reads. The usual strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from hftransfer._core.pieces import Piece, select_disjoint
from hftransfer._core.plan import Chunk
from hftransfer._engine.checkpoint import ChunkProgress, piece_sinks
from hftransfer._engine.chunk import ChunkPipeline
from hftransfer._engine.file_state import CHUNK_ATTEMPTS, FileState
from hftransfer._io.buffers import Buffer
from hftransfer.errors import IntegrityError, single_error
from hftransfer.stores.base import FileSink, PieceSink

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
        self._piece_sinks = piece_sinks(state.sinks)

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
        is_stored = False
        try:
            digest = await self._reuse(chunk, buffer.view)
            if digest is not None:
                await self._pipeline.store(chunk, buffer.view, digest, reused=True)
            else:
                await self._move(chunk, buffer.view)
            is_stored = self._state.is_sent(chunk)
        finally:
            self._pipeline.release(buffer, stored=is_stored)

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

    async def _move(self, chunk: Chunk, data: memoryview) -> None:
        """Fill `data` from the source, and from what a sink kept of this chunk; store it.

        Raises:
            IntegrityError: if the chunk's XXH3 is not the recorded one each time, or the digest
                that came with the bytes is another one each time.
        """
        state = self._state
        restored = await self._restore(chunk, data)
        digest = ""
        # What was restored may be what is wrong: a read of the whole chunk is not counted then.
        for remaining in reversed(range(CHUNK_ATTEMPTS + bool(restored))):
            progress = ChunkProgress(chunk, data, self._piece_sinks, restored)
            await self._fetch(progress)
            stored = progress.stored()
            pieces = sorted({piece for found in stored.values() for piece in found})
            digest, intact = await self._pipeline.hash_with_pieces(chunk, data, pieces)
            if state.matches_manifest(chunk, digest) and await self._is_as_received(
                data, raises=not remaining
            ):
                await self._pipeline.store(
                    chunk,
                    data,
                    digest,
                    stored={
                        sink: [piece for piece in found if piece in intact]
                        for sink, found in stored.items()
                    },
                    restored=progress.restored_size,
                )
                return
            state.stats.retries += 1
            restored = {}
        raise state.chunk_mismatch(chunk, digest)

    async def _is_as_received(self, data: memoryview, *, raises: bool) -> bool:
        """Return False, or raise, if the digest that came with the bytes is not theirs."""
        try:
            await self._state.check_received_digest(data)
        except IntegrityError:
            if raises:
                raise
            return False
        return True

    async def _fetch(self, progress: ChunkProgress) -> None:
        """Fill the gaps of a chunk from the source."""
        state = self._state
        scheduler, checkpointer = state.context.scheduler, state.context.checkpointer
        checkpointer.add(progress)
        try:
            with state.stats.timed("fetch"):
                if len(progress.gaps) == 1:
                    await scheduler.fill(
                        state.source, state.entry, progress.gaps[0], state.on_retry
                    )
                else:
                    async with anyio.create_task_group() as tasks:
                        for gap in progress.gaps:
                            tasks.start_soon(
                                scheduler.fill, state.source, state.entry, gap, state.on_retry
                            )
        finally:
            await checkpointer.remove(progress)
        state.stats.bytes += progress.chunk.size - progress.restored_size

    async def _restore(self, chunk: Chunk, data: memoryview) -> Mapping[PieceSink, Sequence[Piece]]:
        """Read what a sink kept of a chunk that was in flight; return its intact pieces."""
        for sink in self._state.sinks:
            if not isinstance(sink, PieceSink) or chunk.index not in sink.resumable_pieces:
                continue
            pieces = select_disjoint(sink.resumable_pieces[chunk.index], chunk.start, chunk.stop)
            intact = [piece for piece in pieces if await self._is_intact(sink, chunk, piece, data)]
            if intact:
                return {sink: intact}
        return {}

    async def _is_intact(
        self, sink: FileSink, chunk: Chunk, piece: Piece, data: memoryview
    ) -> bool:
        """Fill a part of `data` with a piece; return True if it has the recorded digest."""
        part = data[piece.start - chunk.start : piece.stop - chunk.start]
        stretch = Chunk(chunk.index, piece.start, piece.stop)
        await sink.read_into(stretch, part)
        return await self._pipeline.digest(part) == piece.digest
