"""Moving a file as one body, for sources that cannot read ranges."""

from __future__ import annotations

from functools import partial

from hftransfer._engine.chunk import ChunkPipeline
from hftransfer._engine.file_state import FileState
from hftransfer._io.retry import retrying
from hftransfer.errors import single_error

__all__ = ("StreamStrategy",)


class StreamStrategy:
    """One request for the whole file, read chunk by chunk into one buffer.

    Args:
        state: of the file. Chunks that are recorded in it are read and not stored again.
    """

    def __init__(self, state: FileState) -> None:
        self._state = state
        self._pipeline = ChunkPipeline(state)

    async def run(self) -> None:
        """Move all chunks; after a transient failure, read the body from its start again.

        Raises:
            IntegrityError: if a chunk is not the recorded one, or not what the source has.
            TransientError: the last one, if the retries were used up.
        """
        state = self._state
        state.started = len(state.chunks)
        # The buffer is taken before the connection, in the order that `Context` demands.
        buffer = await self._pipeline.acquire(max(chunk.size for chunk in state.chunks))
        try:
            await retrying(
                partial(self._read, buffer.view),
                state.context.options.retry,
                subject=state.entry.path,
                on_retry=state.on_retry,
            )
        finally:
            self._pipeline.release(buffer, stored=False)

    async def _read(self, buffer: memoryview) -> None:
        state = self._state
        async with state.context.scheduler.connections, state.source.stream(state.entry) as stream:
            for chunk in state.chunks:
                data = buffer[: chunk.size]
                with state.stats.timed("fetch"):
                    await stream.readinto(data)
                state.stats.bytes += chunk.size
                if state.chunk_digests[chunk.index] is not None:
                    continue
                digest = await self._pipeline.hash(chunk, data)
                if not state.matches_manifest(chunk, digest):
                    raise state.chunk_mismatch(chunk, digest)
                await state.check_received_digest(data)
                with single_error():
                    await self._pipeline.store(chunk, data, digest)
