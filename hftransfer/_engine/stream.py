"""Moving a file as one body, for sources that cannot read ranges.

A body that trickles cannot be continued by another request, and to read it again from its start
costs what has arrived. So the request is sent again only where the body arrives more slowly than
any usable network, for as long as it took to arrive so far (`StreamPatience`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import anyio

from hftransfer._core.streams import ByteStream
from hftransfer._engine.chunk import ChunkPipeline
from hftransfer._engine.file_state import FileState
from hftransfer._io.retry import retrying
from hftransfer.errors import single_error

__all__ = ("StreamPatience", "StreamStrategy")

_logger = logging.getLogger("hftransfer")

# Bytes per second below which a body trickles; that of `HedgePolicy.floor`.
_FLOOR = 16 * 1024
# Bounds of the seconds for which it may, the first time. After the upper one `Timeouts.read` ends a
# body of which nothing arrives.
_MIN_SECONDS = 4.0
_MAX_SECONDS = 30.0


class _TricklingError(Exception):
    """Raised when a body arrives too slowly."""


class StreamPatience:
    """How long a body may trickle before it is requested again. No I/O, no clock."""

    def __init__(self) -> None:
        self._spent = 0.0
        """Seconds that the present body took to arrive so far."""
        self._restarts = 0

    @property
    def seconds(self) -> float:
        """Seconds in which the next `bytes` have to arrive. They double with each request, so that
        a network that is slow for every request costs twice the time at most."""
        return min(max(_MIN_SECONDS, self._spent), _MAX_SECONDS) * 2.0 ** min(self._restarts, 20)

    @property
    def bytes(self) -> int:
        """Bytes that have to arrive in `seconds`."""
        return int(self.seconds * _FLOOR)

    def record(self, seconds: float) -> None:
        """Record that bytes of the body arrived in time."""
        self._spent += seconds

    def begin(self) -> None:
        """Begin another request for the file, after a failure."""
        self._spent = 0.0

    def restart(self) -> None:
        """Begin another request for the file, since the body trickles."""
        self._restarts += 1
        self.begin()


class StreamStrategy:
    """One request for the whole file, read chunk by chunk into one buffer.

    Args:
        state: of the file. Chunks that are recorded in it are read and not stored again.
        clock: seconds that only go forward.
    """

    def __init__(self, state: FileState, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._pipeline = ChunkPipeline(state)
        self._patience = StreamPatience()

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
        self._patience.begin()
        while True:
            try:
                await self._read_once(buffer)
                return
            except _TricklingError:
                self._patience.restart()
                _logger.debug("%s: the body trickles: requesting it again", self._state.entry.path)

    async def _receive(self, stream: ByteStream, data: memoryview) -> None:
        """Fill `data`.

        Raises:
            _TricklingError: if it takes too long. A bandwidth cap makes any body slow.
        """
        patience, is_capped = self._patience, self._state.context.options.bandwidth is not None
        while data:
            started = self._clock()
            piece = data[: patience.bytes]
            with anyio.move_on_after(None if is_capped else patience.seconds) as waiting:
                await stream.readinto(piece)
            if waiting.cancelled_caught:
                raise _TricklingError
            patience.record(self._clock() - started)
            data = data[len(piece) :]

    async def _read_once(self, buffer: memoryview) -> None:
        state = self._state
        async with state.context.scheduler.connections, state.source.stream(state.entry) as stream:
            for chunk in state.chunks:
                data = buffer[: chunk.size]
                with state.stats.timed("fetch"):
                    await self._receive(stream, data)
                state.stats.bytes += chunk.size
                if state.chunk_digests[chunk.index] is not None:
                    continue
                digest = await self._pipeline.hash(chunk, data)
                if not state.matches_manifest(chunk, digest):
                    raise state.chunk_mismatch(chunk, digest)
                await state.check_received_digest(data)
                with single_error():
                    await self._pipeline.store(chunk, data, digest)
