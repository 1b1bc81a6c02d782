"""Moving a local file to sinks that can send it with sendfile(2): no chunk needs a buffer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeGuard

import anyio
import anyio.to_thread

from hftransfer._core.plan import Chunk
from hftransfer._engine.file_state import CHUNK_ATTEMPTS, FileState
from hftransfer._io.file_range import HASH_WINDOW_SIZE, FileRange
from hftransfer.errors import single_error
from hftransfer.stores.base import FileBackedSource, FileSink, SendfileSink

__all__ = ("SendfileStrategy",)


class SendfileStrategy:
    """Each chunk is hashed through a small window, then sent from the page cache.

    Args:
        state: of the file.
        source: of the file.
        sinks: all sinks of the file, in the same order.
    """

    def __init__(
        self, state: FileState, source: FileBackedSource, sinks: Sequence[SendfileSink]
    ) -> None:
        self._state = state
        self._source = source
        self._sinks = sinks
        checksums = [(sink.sendfile_checksum or "").lower() for sink in sinks]
        self._algorithms = ["xxhash128", *checksums]

    @classmethod
    def find(cls, state: FileState) -> SendfileStrategy | None:
        """Return the strategy if source and sinks allow it, else None.

        A file of one chunk would gain too little. A file whose digest must be checked passes
        through memory, where `OrderedHasher` and `CombinedCrc` work.
        """
        if len(state.chunks) == 1 or state.file_digest is not None:
            return None
        source, sinks = state.source, [sink for sink in state.sinks if _can_send(sink)]
        if not isinstance(source, FileBackedSource) or not sinks or len(sinks) < len(state.sinks):
            return None
        return cls(state, source, sinks)

    async def run(self) -> None:
        """Move all chunks.

        Raises:
            SourceChangedError: if the file was written to during its transfer.
            TransferError: the first failure; further ones are its notes.
        """
        state = self._state
        async with self._source.open_file(state.entry) as whole:
            with single_error():
                async with anyio.create_task_group() as tasks:
                    for chunk in state.chunks:
                        await self._acquire(chunk)
                        state.started += 1
                        part = whole.subrange(chunk.start, chunk.size)
                        tasks.start_soon(self._run_chunk, chunk, part)

    async def _acquire(self, chunk: Chunk) -> None:
        context = self._state.context
        await context.in_flight.acquire(chunk.size)
        try:
            await context.sendfile_limiter.acquire()
        except BaseException:
            context.in_flight.release(chunk.size, stored=False)
            raise

    async def _run_chunk(self, chunk: Chunk, part: FileRange) -> None:
        is_stored = False
        try:
            digest, checksums = await self._hash(chunk, part)
            writes = [
                partial(sink.write_file_range, chunk, part, digest, checksum)
                for sink, checksum in zip(self._sinks, checksums, strict=True)
            ]
            await self._state.write_all(writes)
            self._state.record(chunk, digest)
            is_stored = self._state.is_sent(chunk)
        finally:
            self._state.context.sendfile_limiter.release()
            self._state.context.in_flight.release(chunk.size, stored=is_stored)

    async def _hash(self, chunk: Chunk, part: FileRange) -> tuple[str, Sequence[bytes]]:
        """Return a chunk's XXH3, which is the recorded one, and each sink's checksum.

        Raises:
            IntegrityError: if the XXH3 is another one each time.
        """
        state, context = self._state, self._state.context
        size = min(HASH_WINDOW_SIZE, chunk.size, context.buffer_pool.budget)
        digest = ""
        for _ in range(CHUNK_ATTEMPTS):
            async with context.hash_windows, context.buffer_pool.lease(size) as window:
                with state.stats.timed("hash"):
                    digest, *checksums = await anyio.to_thread.run_sync(
                        part.digests, self._algorithms, window, limiter=context.hash_threads
                    )
            state.stats.bytes += chunk.size
            if state.matches_manifest(chunk, digest):
                return digest, [bytes.fromhex(checksum) for checksum in checksums]
            state.stats.retries += 1
        raise state.chunk_mismatch(chunk, digest)


def _can_send(sink: FileSink) -> TypeGuard[SendfileSink]:
    return isinstance(sink, SendfileSink) and sink.sendfile_checksum is not None
