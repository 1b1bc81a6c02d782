"""The second requests of slow reads: their memory, their connections and their end.

`hedging` decides which reads need one; this carries it out.

A second request runs *beside* the first, and the first of them that has all missing bytes ends the
read. It takes a connection that is free at the moment. If there is none, it is sent *in place* of
the first, over another connection.

Memory: a read is also slow while every buffer is held by chunks that wait for it, so a second
request must not need one. For a range it writes to the memory of the read, behind the bytes that
have arrived; where both requests write, they write the same bytes, and the chunk is hashed after
both have ended. For a whole file the source compares the bytes with a checksum while the slow
request may still be writing; then the second request gets a buffer of its own if one is free, which
is copied after both have ended. If none is free, it is sent in place of the first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._engine.hedging import HedgePolicy, select_hedges
from hftransfer._engine.in_flight import Duplicate, InFlightRead, RateHistory
from hftransfer._io.buffers import Buffer, BufferPool
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import ThrottledError, TransferError, TransientError
from hftransfer.stores.base import Entry, FileBackedSource, Source

__all__ = ("HedgedRead", "ReadHedger", "ReadRequest")

_logger = logging.getLogger("hftransfer")

# Seconds between two observations of the rates, a fraction of `HedgePolicy.window`.
_OBSERVATION_INTERVAL = 0.25
# After a longer gap the event loop was busy or suspended, and the rates say nothing.
_MAX_GAP = 1.0
# Under a bandwidth cap connections take turns. A rate is measured over so many turns of each.
_TURNS = 4


@dataclass(frozen=True, eq=False)
class ReadRequest:
    """Where the bytes of a chunk come from, for each of the pieces that it is cut into."""

    source: Source
    entry: Entry
    on_retry: Callable[[TransientError, float], None]


@dataclass(eq=False, slots=True)
class HedgedRead(InFlightRead):
    """A read of `request`."""

    request: ReadRequest = field(kw_only=True)

    @property
    def is_whole(self) -> bool:
        """True if it is a whole file, whose bytes the source may compare with a checksum."""
        return self.buffer.start == 0 and self.buffer.limit == self.request.entry.size

    def replace(self) -> None:
        """Prepare another request after the current one was cancelled."""
        self.is_replaced = False
        self.buffer.needs_new_connection = True
        if self.is_whole:
            self.buffer.reset()


class ReadHedger:
    """The second requests of all reads of one client. Used on its event loop only.

    Args:
        policy: when a request is asked for again.
        connections: one is acquired for each request.
        buffer_pool: for the second request for a whole file; None if there is no memory for it.
        rate_limiter: the client's bandwidth cap.
        on_throttled: called when the server asks for fewer requests.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        policy: HedgePolicy,
        *,
        connections: ResizableLimiter,
        buffer_pool: BufferPool | None,
        rate_limiter: RateLimiter,
        on_throttled: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.count = 0
        """Requests that were sent beside, or in place of, a slow one."""
        self._policy = policy
        self._connections = connections
        self._buffer_pool = buffer_pool
        self._rate_limiter = rate_limiter
        self._on_throttled = on_throttled
        self._clock = clock
        self._history = RateHistory()
        self._observed_at = float("-inf")
        """When the rates were observed last."""

    def run_once(self, reads: Sequence[HedgedRead], now: float, duplicates: TaskGroup) -> None:
        """Observe `reads`, and ask again for those that are far behind; at most every 0.25 s.

        Args:
            reads: all that are in flight.
            now: the time.
            duplicates: for the tasks of second requests.
        """
        gap = now - self._observed_at
        if gap < _OBSERVATION_INTERVAL:
            return
        self._observed_at = now
        # A second read of a file of this machine would wait for the same disk.
        remote = [read for read in reads if not isinstance(read.request.source, FileBackedSource)]
        window = self._window(len(remote))
        for read in remote:
            for pace in (read, read.duplicate):
                if pace is None:
                    continue
                if gap > _MAX_GAP:
                    pace.forget(now)
                else:
                    pace.mark(now, window)
        idle = self._connections.available > 0
        for hedge in select_hedges(
            remote, self._history, now, self._policy, window=window, idle=idle
        ):
            assert isinstance(hedge.read, HedgedRead)
            self._hedge(hedge.read, now, duplicates, is_probe=hedge.is_probe)

    def _window(self, reads: int) -> float:
        """Return the seconds over which the rates of so many reads are compared."""
        rate, turn = self._rate_limiter.rate, self._rate_limiter.burst_size
        if rate is None or turn is None:
            return self._policy.window
        return max(self._policy.window, _TURNS * turn * reads / rate)

    def record(self, read: HedgedRead) -> None:
        """Remember how fast `read` was, which has ended well."""
        self._history.record(read.group, read, self._clock())

    # --- the second request

    def _hedge(self, read: HedgedRead, now: float, tasks: TaskGroup, *, is_probe: bool) -> None:
        """Send a second request: beside the first, or in place of a slow one."""
        self.count += 1
        read.hedges += 1
        read.hedged_at = now
        _logger.debug(
            "%s: bytes %d-%d arrive far more slowly than others: asking for them again",
            read.request.entry.path,
            read.buffer.position,
            read.buffer.stop - 1,
        )
        if read.duplicate is not None:
            read.duplicate.is_replaced = True
            read.duplicate.scope.cancel()
        elif (duplicate := self._make_duplicate(read, now, is_probe=is_probe)) is not None:
            read.duplicate = duplicate
            tasks.start_soon(self._run_duplicate, read, duplicate)
        elif read.scope is not None:
            read.is_replaced = True
            read.scope.cancel()

    def _make_duplicate(self, read: HedgedRead, now: float, *, is_probe: bool) -> Duplicate | None:
        """Acquire a connection and memory for a second request; None if there are none."""
        if not self._connections.available:
            return None
        memory: Buffer | None = None
        if read.is_whole:
            if self._buffer_pool is not None:
                memory = self._buffer_pool.try_acquire(len(read.buffer.memory))
            if memory is None:
                return None
            buffer = ByteRangeBuffer(0, memory.view)
        else:
            buffer = ByteRangeBuffer(read.buffer.position, read.buffer.remaining)
        self._connections.try_acquire()
        buffer.needs_new_connection = True
        return Duplicate(buffer, now, memory=memory, is_probe=is_probe)

    async def _run_duplicate(self, read: HedgedRead, duplicate: Duplicate) -> None:
        """Fill the buffer of `duplicate`, then end `read`. A failure is left to the read."""
        try:
            while True:
                with duplicate.scope:
                    await read.request.source.fill(read.request.entry, duplicate.buffer)
                    duplicate.has_won = True
                if duplicate.has_won or not duplicate.is_replaced:
                    break
                if duplicate.memory is not None:
                    duplicate.buffer.reset()
                duplicate.begin(self._clock())
                duplicate.is_replaced = False
                duplicate.scope = anyio.CancelScope()
        except TransferError as error:
            _logger.debug("%s: the second request failed: %s", read.request.entry.path, error)
            if isinstance(error, ThrottledError):
                self._on_throttled()
        except anyio.get_cancelled_exc_class():
            read.hedges -= 1  # another transfer, whose task this was, has ended
            raise
        finally:
            self._connections.release()
            duplicate.ended.set()
            if not duplicate.has_won:
                self._forget_duplicate(read)
            elif read.scope is not None:
                read.scope.cancel()

    def take_over(self, read: HedgedRead) -> None:
        """Complete `read`, whose request was cancelled, with the bytes of its duplicate."""
        duplicate = read.duplicate
        assert duplicate is not None
        assert duplicate.has_won
        self._history.record(read.group, duplicate, self._clock())
        if duplicate.memory is None:
            read.buffer.advance(read.buffer.missing)  # they are in its memory already
        else:
            read.buffer.reset()
            read.buffer.append(duplicate.memory.view)

    async def end_duplicate(self, read: HedgedRead) -> None:
        """Cancel the duplicate of `read`, if there is one, and wait until it has ended."""
        duplicate = read.duplicate
        if duplicate is None:
            return
        duplicate.is_replaced = False
        duplicate.scope.cancel()
        with anyio.CancelScope(shield=True):
            await duplicate.ended.wait()
        self._forget_duplicate(read)

    def _forget_duplicate(self, read: HedgedRead) -> None:
        """Release the memory of a duplicate that has ended, and allow another one."""
        duplicate, read.duplicate = read.duplicate, None
        if duplicate is not None and duplicate.memory is not None:
            assert self._buffer_pool is not None
            self._buffer_pool.release(duplicate.memory)
