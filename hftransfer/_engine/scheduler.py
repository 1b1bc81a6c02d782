"""Reads from sources: how many requests run at once, and which bytes each one reads.

A chunk is read with one request. It is cut into pieces, with one request each, if more
connections are allowed than memory holds chunks, and for the first chunks of a file. While the
transfer drains (all chunks are requested), idle connections take half of what the slowest
requests have yet to read. At any time, the missing bytes of a request that is far slower than its
peers are asked for again: beside it if a connection is free, else in its place. Bytes that have
arrived stay where they are and are not requested again.

`DownloadScheduler.run` takes these decisions every `_INTERVAL` seconds; `piece_count`,
`select_split` and `hedging.select_hedges` are the decisions themselves, as pure functions;
`duplicates` sends the second requests. `concurrency` decides how many requests run at once.
"""

# Objects that cross threads
#
# The engine runs on one event loop, in the caller's thread. Beside it there are
#   - the event loops of the HTTP client (`LoopThread`), which receive and send bodies,
#   - worker threads, which hash chunks and read and write files, and
#   - one hashing thread per file (`OrderedHasher`).
# More than one of these threads touches the following objects.
#
# `ByteRangeBuffer`. Each attribute has one writer at a time:
#     limit                 the engine's loop (`split_off`);
#     filled                the thread that runs the request: one request at a time;
#     response_started_at   the same thread, once per request; the engine's loop resets it
#                           while no request runs (`RequestPace.begin`).
#   Each write stores one number, and readers allow for an old value. A request that has an old
#   `limit` writes beyond the new one; the piece that was split off writes the same bytes to the
#   same place. If the engine has an old `filled`, it splits or measures as of a moment ago.
#
# The memory of a chunk. Threads that run its requests write to it, each to its own range. Hash
#   threads, writer threads and sending loops read it after `Source.fill` has returned, when no
#   request runs any more: a cancelled request ends before its task does (`LoopThread.run`).
#   The end of a request reaches the engine's loop by `call_soon_threadsafe`, whose lock orders
#   the writes before the reads; each reader then starts through a queue, which does so, too.
#   A read and its duplicate may write the same bytes to the same place (see `duplicates`); `read`
#   returns after both have ended.
#
# The hash object of `OrderedHasher`. The hashing thread owns it while chunks are queued, the
#   engine's loop before and after. Queue and `call_soon_threadsafe` hand it over.
#
# `FileRange`. It is immutable, and its threads use positional reads and sendfile(2) with an
#   offset, so that they share no file position.
#
# `RateLimiter`. It has a lock.
#
# Local files: `PartialFile`, its journal and `WritePolicy`. Writer threads share them; their
#   modules name the locks.
#
# The engine's loop owns everything else: `InFlightRead`, limiters, `TransferStats`, observers,
# `on_retry`. No lock is needed, because a coroutine is interrupted only where it awaits.
# (`_http.loops` lists what the HTTP client shares between its loops.)

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._engine.concurrency import ConcurrencyController
from hftransfer._engine.duplicates import HedgedRead, ReadHedger, ReadRequest
from hftransfer._engine.hedging import HedgePolicy
from hftransfer._engine.pace import InFlightRead
from hftransfer._io.buffers import BufferPool
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.rate_limit import RateLimiter
from hftransfer._io.retry import Attempts, retrying
from hftransfer.errors import ThrottledError, TransientError, single_error
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry, FileBackedSource, Source

__all__ = ("DEFAULT_POLICY", "DownloadScheduler", "piece_count", "select_split")

# Bytes of the smallest piece of a chunk. A shorter request takes longer to be answered than to
# be read: 1 MiB lasts 20 ms at the 50 MB/s that CDNs give one connection.
_MIN_PIECE = 1 << 20
# Pieces of a file's first chunk, if connections are idle; each later chunk gets half as many.
# A digest in file order starts when the first chunk is complete, which this makes sooner.
# Measured with SHA-256, 2 GiB at 50 MB/s per connection, six alternating runs: 1.99 s with
# single requests, 1.88 s with 8 pieces.
_FIRST_CHUNK_PIECES = 8
# Seconds between two decisions. Short against the time of a chunk (8 MiB last 160 ms at
# 50 MB/s), long against the microseconds that a decision takes.
_INTERVAL = 0.05
# Seconds until a new request delivers: about a round trip to a far host, an estimate. Half of a
# request must take longer than this for the request to be split.
_REQUEST_LATENCY = 0.1
DEFAULT_POLICY = HedgePolicy()
"""When a request is asked for again, unless a test says otherwise."""


def select_split(reads: Sequence[InFlightRead], now: float) -> InFlightRead | None:
    """Return the read that gains most by giving half of its missing bytes to another connection.

    That is the one with most seconds to go, at its rate so far. None if all of them are too
    young to have a rate, have too few bytes left, or end before a new request would deliver.
    """
    selected: InFlightRead | None = None
    longest = 2 * _REQUEST_LATENCY
    for read in reads:
        age = now - read.started
        is_fixed = read.split is None or read.duplicate is not None
        if is_fixed or read.buffer.missing < 2 * _MIN_PIECE or age < _INTERVAL:
            continue
        rate = read.rate(now)
        remaining = read.buffer.missing / rate if rate else float("inf")
        if remaining > longest:
            selected, longest = read, remaining
    return selected


def piece_count(index: int, *, connections: int, idle: int, chunk_slots: int) -> int:
    """Return into how many pieces chunk `index` of a file should be cut, at least 1.

    Args:
        index: of the chunk, from 0.
        connections: the limit on connections.
        idle: connections that are free, besides the chunk's own.
        chunk_slots: chunks that memory holds at once.
    """
    per_chunk = -(-connections // chunk_slots)
    return min(max(per_chunk, _FIRST_CHUNK_PIECES >> index, 1), 1 + idle)


class DownloadScheduler:
    """All reads from the sources of one client.

    Args:
        connections: requests in flight; None to adapt them to the measured throughput.
        start: requests in flight at first, if adaptive.
        maximum: most requests in flight, if adaptive.
        chunk_slots: chunks that memory holds at once.
        retry: for every request.
        rate_limiter: the client's bandwidth cap.
        buffer_pool: for the second request for a whole file; None if there is no memory for it.
            Default None.
        hedging: when a request is asked for again. Default: `DEFAULT_POLICY`.
        clock: seconds that only go forward; that of `ByteRangeBuffer.response_started_at`.
    """

    def __init__(
        self,
        connections: int | None,
        *,
        start: int,
        maximum: int,
        chunk_slots: int,
        retry: RetryPolicy,
        rate_limiter: RateLimiter,
        buffer_pool: BufferPool | None = None,
        hedging: HedgePolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._controller = (
            ConcurrencyController(start=start, maximum=maximum) if connections is None else None
        )
        limit = min(start, maximum) if connections is None else connections
        self.connections = ResizableLimiter(limit)
        """One for each request in flight."""
        self._chunk_slots = max(1, chunk_slots)
        self._retry = retry
        self._rate_limiter = rate_limiter
        self._clock = clock
        self._reads: list[HedgedRead] = []
        self._moved = 0
        """Bytes of requests that have ended."""
        self.hedger = ReadHedger(
            DEFAULT_POLICY if hedging is None else hedging,
            connections=self.connections,
            buffer_pool=buffer_pool,
            rate_limiter=rate_limiter,
            on_throttled=self.slow_down,
            clock=clock,
        )

    async def fill(
        self,
        source: Source,
        entry: Entry,
        buffer: ByteRangeBuffer,
        on_retry: Callable[[TransientError, float], None],
    ) -> None:
        """Fill `buffer` from `source`; return when all of its bytes have arrived.

        Args:
            source: where to read.
            entry: the file.
            buffer: one chunk.
            on_retry: called with the error and the delay in seconds before a request is
                tried again.

        Raises:
            TransferError: the first failure of a piece; further ones are its notes.
        """
        request = ReadRequest(source, entry, on_retry)
        await self.connections.acquire()
        if buffer.missing < 2 * _MIN_PIECE:
            await self.read(request, buffer)  # without the task group, which costs small files
            return
        with single_error():
            async with anyio.create_task_group() as tasks:
                chunk = _ChunkRead(self, request, tasks)
                for piece in [buffer, *self._cut(buffer)]:
                    chunk.start(piece)

    def _cut(self, buffer: ByteRangeBuffer) -> Sequence[ByteRangeBuffer]:
        """Cut pieces off `buffer` for idle connections, and acquire one for each of them."""
        count = piece_count(
            buffer.start // len(buffer.memory),
            connections=self.connections.limit,
            idle=self.connections.available,
            chunk_slots=self._chunk_slots,
        )
        pieces: list[ByteRangeBuffer] = []
        for parts in range(count, 1, -1):
            piece = (pieces or [buffer])[-1].split_off(_MIN_PIECE, parts)
            if piece is not None:
                self.connections.try_acquire()
                pieces.append(piece)
        return pieces

    async def run(self, is_draining: Callable[[], bool]) -> None:
        """Adapt the number of connections and rebalance the reads, until cancelled.

        Args:
            is_draining: returns True once no further chunk will be requested.
        """
        async with anyio.create_task_group() as duplicates:
            while True:
                await anyio.sleep(_INTERVAL)
                now = self._clock()
                self._adapt(now)
                # Under a bandwidth cap every request is slow, and splitting them gains nothing.
                if self._rate_limiter.rate is None and is_draining():
                    self._split_slow_reads(now)
                self.hedger.run_once(self._reads, now, duplicates)

    def _adapt(self, now: float) -> None:
        if self._controller is None:
            return
        # Short ranges are left out: what they wait for is mostly their server's work per request.
        latencies = [read.latency(now) for read in self._reads if read.split is not None]
        limit = self._controller.update(
            now,
            self._moved + sum(read.moved for read in self._reads),
            saturated=self.connections.is_saturated,
            latency=sum(latencies) / len(latencies) if latencies else 0.0,
        )
        if limit != self.connections.limit:
            self.connections.resize(limit)

    def _split_slow_reads(self, now: float) -> None:
        while self.connections.available and (read := select_split(self._reads, now)) is not None:
            assert read.split is not None
            if not read.split():
                break

    def slow_down(self) -> None:
        """Halve an adaptive number of connections, since the server asked for less."""
        if self._controller is not None:
            self.connections.resize(self._controller.slow_down(self._clock()))

    async def read(
        self,
        request: ReadRequest,
        buffer: ByteRangeBuffer,
        split: Callable[[], bool] | None = None,
    ) -> None:
        """Fill `buffer`, over a connection that the caller acquired and this releases.

        Until it is full, `run` may shorten it (by `split`) or ask for the missing bytes again.
        """
        group = id(request.source)
        read = HedgedRead(buffer, self._clock(), request=request, group=group, split=split)
        attempts = Attempts(self._retry)  # a request that is sent in place of another counts on
        self._reads.append(read)
        try:
            if isinstance(request.source, FileBackedSource):
                await self._fill_with_retries(read, attempts)  # never asked for again
                return
            while True:
                with anyio.CancelScope() as read.scope:
                    await self._fill_with_retries(read, attempts)
                    self.hedger.record(read)
                    return
                if not read.is_replaced:
                    self.hedger.take_over(read)
                    return
                read.replace()
        finally:
            await self.hedger.end_second(read)
            self._moved += max(0, read.moved)
            self._reads.remove(read)
            self.connections.release()

    async def _fill_with_retries(self, read: HedgedRead, attempts: Attempts) -> None:
        """Fill the buffer of `read`, within the limits of the `RetryPolicy`.

        This is the only layer that retries a read; `file` lists what is not a retry.
        """
        request, buffer = read.request, read.buffer

        async def attempt() -> None:
            self._moved += max(0, read.moved)
            read.begin(self._clock())
            read.is_pausing = False
            try:
                await request.source.fill(request.entry, buffer)
            except TransientError:
                read.is_pausing = True
                raise

        def on_retry(error: TransientError, delay: float) -> None:
            if isinstance(error, ThrottledError):
                self.slow_down()
            request.on_retry(error, delay)

        await retrying(
            attempt,
            self._retry,
            subject=request.entry.path,
            on_retry=on_retry,
            progress=lambda: buffer.filled,
            attempts=attempts,
        )


class _ChunkRead:
    """The reads of one chunk, which are tasks of one group: they fail and end together."""

    def __init__(
        self, scheduler: DownloadScheduler, request: ReadRequest, tasks: TaskGroup
    ) -> None:
        self._scheduler = scheduler
        self._request = request
        self._tasks = tasks

    def start(self, buffer: ByteRangeBuffer) -> None:
        """Read `buffer` over a connection that the caller acquired."""
        split = partial(self._split, buffer)
        self._tasks.start_soon(self._scheduler.read, self._request, buffer, split)

    def _split(self, buffer: ByteRangeBuffer) -> bool:
        piece = buffer.split_off(_MIN_PIECE)
        if piece is None:
            return False
        self._scheduler.connections.try_acquire()
        self.start(piece)
        return True
