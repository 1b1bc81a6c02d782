"""Filling chunks over as many connections as pay, with a short tail.

A chunk is read over one connection, or cut into pieces where connections are allowed
and memory holds fewer chunks than that. Towards the end, when no further chunk comes,
idle connections take over half of what the slowest ones still have to bring, and a
connection that brings nothing is replaced. What has arrived stays where it is.

`DownloadScheduler.run` is the one place where this is decided, some times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio.abc import TaskGroup

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._engine.concurrency import ConcurrencyController
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.rate_limit import RateLimiter
from hftransfer._io.retry import retrying
from hftransfer.errors import ThrottledError, TransientError, single_error
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry, Source

__all__ = ("DownloadScheduler", "InFlightRead", "pick_split", "pick_stuck")

# A request for less is not worth its round trip.
_MIN_PIECE = 1 << 20
# A file's digest can only follow its front. Of its first chunks, each is shared by half as
# many connections as the one before it, if they are idle, and so arrives that much sooner.
_FRONT_PIECES = 8
_TICK = 0.05
# Seconds that asking anew costs; who is done sooner is left alone.
_TURNAROUND = 0.1
# Bringing less than this share of what the others bring, a connection is replaced…
_STUCK_SHARE = 0.1
# … after so many seconds, and so often.
_STUCK_AFTER = 2.0
_MAX_REPLACED = 2


@dataclass(eq=False)
class InFlightRead:
    """One span on its way over one connection."""

    span: ByteRangeBuffer
    split: Callable[[], bool]
    """Hands half of what is missing to another connection, if that is possible."""
    started: float
    filled_at_start: int = 0
    replaced: int = 0
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def rate(self, now: float) -> float:
        """Bytes per second so far."""
        elapsed = now - self.started
        return (self.span.filled - self.filled_at_start) / elapsed if elapsed > 0 else 0.0

    def wait(self, now: float) -> float:
        """Seconds from its start to the beginning of the answer, as far as they have passed."""
        answered = self.span.response_started_at
        if answered is None and self.span.filled > self.filled_at_start:
            return 0.0  # from a source without requests
        return (now if answered is None else max(answered, self.started)) - self.started


def pick_split(readings: Sequence[InFlightRead], now: float) -> InFlightRead | None:
    """Return the reading that gains most if another connection brings half of its rest.

    None if none gains more than asking anew costs.
    """
    best: InFlightRead | None = None
    longest = 2 * _TURNAROUND
    for reading in readings:
        age = now - reading.started
        if reading.span.missing < 2 * _MIN_PIECE or age < _TICK:
            continue
        rate = reading.rate(now)
        remaining = reading.span.missing / rate if rate else float("inf")
        if remaining > longest:
            best, longest = reading, remaining
    return best


def pick_stuck(readings: Sequence[InFlightRead], now: float, typical: float) -> InFlightRead | None:
    """Return a reading that brings next to nothing, compared with `typical` bytes per second."""
    for reading in readings:
        old = now - reading.started >= _STUCK_AFTER and reading.replaced < _MAX_REPLACED
        if old and reading.span.missing and reading.rate(now) < typical * _STUCK_SHARE:
            return reading
    return None


@dataclass(frozen=True, eq=False)
class _Origin:
    """Where the bytes of a chunk come from, whatever pieces it is cut into."""

    source: Source
    entry: Entry
    on_retry: Callable[[TransientError, float], None]


class DownloadScheduler:
    """All requests for chunks of one client.

    Args:
        connections: how many at a time; None to find out what pays.
        start: how many to begin with where that is to be found out.
        maximum: never more than this many then.
        chunk_slots: how many chunks memory holds at once.
        retry: for every request.
        throttle: the client's bandwidth cap.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        connections: int | None,
        *,
        start: int,
        maximum: int,
        chunk_slots: int,
        retry: RetryPolicy,
        throttle: RateLimiter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._controller = (
            ConcurrencyController(start=start, maximum=maximum) if connections is None else None
        )
        self.slots = ResizableLimiter(min(start, maximum) if connections is None else connections)
        self._chunk_slots = max(1, chunk_slots)
        self._retry = retry
        self._throttle = throttle
        self._clock = clock
        self._readings: list[InFlightRead] = []
        self._moved = 0
        """Bytes of readings that have ended."""
        self._typical = 0.0
        """Bytes per second of a reading that went well."""

    async def fill(
        self,
        source: Source,
        entry: Entry,
        span: ByteRangeBuffer,
        on_retry: Callable[[TransientError, float], None],
    ) -> None:
        """Fill `span` from `source`: return when all of it is there.

        Args:
            source: where to read.
            entry: the file.
            span: one chunk.
            on_retry: told the error and the delay before a request is tried again.
        """
        origin = _Origin(source, entry, on_retry)
        await self.slots.acquire()
        if span.missing < 2 * _MIN_PIECE:
            await self._read_alone(origin, span)
            return
        with single_error():
            async with anyio.create_task_group() as tasks:
                job = _Job(self, origin, tasks)
                for piece in [span, *self._pieces(span)]:
                    job.start(piece)

    def _pieces(self, span: ByteRangeBuffer) -> Sequence[ByteRangeBuffer]:
        """Cut pieces off `span` for idle connections, each of which gets a slot."""
        index = span.start // len(span.buffer)
        share = max(-(-self.slots.limit // self._chunk_slots), _FRONT_PIECES >> index)
        pieces: list[ByteRangeBuffer] = []
        for ways in range(min(share, 1 + self.slots.available), 1, -1):
            other = (pieces or [span])[-1].split_off(_MIN_PIECE, ways)
            if other is not None:
                self.slots.try_acquire()
                pieces.append(other)
        return pieces

    async def run(self, draining: Callable[[], bool]) -> None:
        """Adjust and rebalance until cancelled.

        Args:
            draining: whether no further chunk comes.
        """
        while True:
            await anyio.sleep(_TICK)
            now = self._clock()
            self._adjust(now)
            # Under a cap of our own no connection is slow.
            if self._throttle.rate is None and draining():
                self._rebalance(now)

    def _adjust(self, now: float) -> None:
        if self._controller is None:
            return
        moved = self._moved + sum(
            reading.span.filled - reading.filled_at_start for reading in self._readings
        )
        waits = [reading.wait(now) for reading in self._readings]
        limit = self._controller.update(
            now,
            moved,
            saturated=self.slots.is_saturated,
            latency=sum(waits) / len(waits) if waits else 0.0,
        )
        if limit != self.slots.limit:
            self.slots.resize(limit)

    def _rebalance(self, now: float) -> None:
        while self.slots.available and (reading := pick_split(self._readings, now)) is not None:
            if not reading.split():
                break
        if self.slots.available and self._typical:
            stuck = pick_stuck(self._readings, now, self._typical)
            if stuck is not None:
                stuck.replaced += 1
                stuck.scope.cancel()

    def slow_down(self) -> None:
        """The server asked for less."""
        if self._controller is not None:
            self.slots.resize(self._controller.slow_down(self._clock()))

    async def read(self, origin: _Origin, reading: InFlightRead) -> None:
        """Fill one span over one connection, whose slot is taken and given back here.

        It may be shared and replaced meanwhile.
        """
        self._readings.append(reading)
        try:
            while True:
                with reading.scope:
                    await self._request(origin, reading.span)
                    self._typical = reading.rate(self._clock())
                    return
                # Replaced: whatever it brought is kept.
                self._note(reading)
        finally:
            self._note(reading)
            self._readings.remove(reading)
            self.slots.release()

    async def _read_alone(self, origin: _Origin, span: ByteRangeBuffer) -> None:
        """Fill a span that is too small to be shared, with a slot that is given back here."""
        try:
            await self._request(origin, span)
        finally:
            self._moved += span.filled
            self.slots.release()

    async def _request(self, origin: _Origin, span: ByteRangeBuffer) -> None:
        def count(error: TransientError, delay: float) -> None:
            if isinstance(error, ThrottledError):
                self.slow_down()
            origin.on_retry(error, delay)

        await retrying(
            partial(origin.source.fill, origin.entry, span),
            self._retry,
            on_retry=count,
            progress=lambda: span.filled,
        )

    def _note(self, reading: InFlightRead) -> None:
        self._moved += max(0, reading.span.filled - reading.filled_at_start)
        reading.filled_at_start = reading.span.filled
        reading.span.response_started_at = None
        reading.started = self._clock()
        reading.scope = anyio.CancelScope()

    @property
    def now(self) -> float:
        return self._clock()


class _Job:
    """One chunk on its way, in one or several pieces."""

    def __init__(self, fetcher: DownloadScheduler, origin: _Origin, tasks: TaskGroup) -> None:
        self._fetcher = fetcher
        self._origin = origin
        self._tasks = tasks

    def start(self, span: ByteRangeBuffer) -> None:
        """Read `span` over a connection of its own, whose slot was taken."""
        reading = InFlightRead(span, lambda: self._split(span), started=self._fetcher.now)
        self._tasks.start_soon(self._fetcher.read, self._origin, reading)

    def _split(self, span: ByteRangeBuffer) -> bool:
        other = span.split_off(_MIN_PIECE)
        if other is None:
            return False
        self._fetcher.slots.try_acquire()
        self.start(other)
        return True
