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
from hftransfer._engine.pace import InFlightRead, RateHistory, RequestPace
from hftransfer._io.buffers import Buffer, BufferPool
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import ExpiredError, ThrottledError, TransferError, TransientError
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
class _SecondRequest:
    pace: RequestPace
    memory: Buffer | None
    """Memory of its own; None if it writes to that of the read."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Cancels the current attempt."""
    is_replaced: bool = False
    """True if the current attempt was cancelled and another one follows."""
    has_won: bool = False
    """True once it has all bytes."""
    ended: anyio.Event = field(default_factory=anyio.Event)
    """Set when it touches its memory no more."""


@dataclass(eq=False, slots=True)
class HedgedRead(InFlightRead):
    """A read of `request`."""

    request: ReadRequest = field(kw_only=True)
    scope: anyio.CancelScope | None = None
    """Cancels the current request; None before the first one."""
    second: _SecondRequest | None = None
    """The second request, of which `duplicate` is the progress."""

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
        read.is_probed = is_probe
        _logger.debug(
            "%s: bytes %d-%d arrive far more slowly than others: asking for them again",
            read.request.entry.path,
            read.buffer.position,
            read.buffer.stop - 1,
        )
        if read.second is not None:
            read.second.is_replaced = True
            read.second.scope.cancel()
        elif (second := self._make_second(read, now)) is not None:
            read.second, read.duplicate = second, second.pace
            tasks.start_soon(self._run_second, read, second)
        elif read.scope is not None:
            read.is_replaced = True
            read.scope.cancel()

    def _make_second(self, read: HedgedRead, now: float) -> _SecondRequest | None:
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
        return _SecondRequest(RequestPace(buffer, now), memory)

    async def _run_second(self, read: HedgedRead, second: _SecondRequest) -> None:
        """Fill the buffer of `second`, then end `read`. A failure is left to the read."""
        try:
            while True:
                with second.scope:
                    await self._fill(read.request, second.pace.buffer)
                    second.has_won = True
                if second.has_won or not second.is_replaced:
                    break
                if second.memory is not None:
                    second.pace.buffer.reset()
                second.pace.begin(self._clock())
                second.is_replaced = False
                second.scope = anyio.CancelScope()
        except TransferError as error:
            _logger.debug("%s: the second request failed: %s", read.request.entry.path, error)
            if isinstance(error, ThrottledError):
                self._on_throttled()
            if isinstance(error, TransientError) and error.is_outage:
                read.hedges -= 1  # nothing is known of the range: no longer wait for the next one
        except anyio.get_cancelled_exc_class():
            read.hedges -= 1  # another transfer, whose task this was, has ended
            raise
        finally:
            self._connections.release()
            second.ended.set()
            if not second.has_won:
                self._forget_second(read)
            elif read.scope is not None:
                read.scope.cancel()

    async def _fill(self, request: ReadRequest, buffer: ByteRangeBuffer) -> None:
        try:
            await request.source.fill(request.entry, buffer)
        except ExpiredError:  # the source removes the cause in the next attempt
            await request.source.fill(request.entry, buffer)

    def take_over(self, read: HedgedRead) -> None:
        """Complete `read`, whose request was cancelled, with the bytes of its second request."""
        second = read.second
        assert second is not None
        assert second.has_won
        self._history.record(read.group, second.pace, self._clock())
        if second.memory is None:
            read.buffer.advance(read.buffer.missing)  # they are in its memory already
        else:
            read.buffer.reset()
            read.buffer.append(second.memory.view)

    async def end_second(self, read: HedgedRead) -> None:
        """Cancel the second request for `read`, if there is one, and wait until it has ended."""
        second = read.second
        if second is None:
            return
        second.is_replaced = False
        second.scope.cancel()
        with anyio.CancelScope(shield=True):
            await second.ended.wait()
        self._forget_second(read)

    def _forget_second(self, read: HedgedRead) -> None:
        """Release the memory of a second request that has ended, and allow another one."""
        second, read.second, read.duplicate = read.second, None, None
        if second is not None and second.memory is not None:
            assert self._buffer_pool is not None
            self._buffer_pool.release(second.memory)
