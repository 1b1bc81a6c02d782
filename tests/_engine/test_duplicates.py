"""`hftransfer._engine.duplicates`: second requests, their memory and their connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import pytest
from anyio.lowlevel import checkpoint

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.streams import ByteStream
from hftransfer._engine import scheduler as scheduler_module
from hftransfer._engine.scheduler import DownloadScheduler
from hftransfer._io.buffers import BufferPool
from hftransfer._io.origins import Origins
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import (
    ExpiredError,
    NetworkError,
    ServerError,
    ThrottledError,
    TransientError,
)
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry, FillStream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_interval")]

SIZE = 1 << 20
CHUNK = 8 * SIZE
RANGE, WHOLE = Entry(path="file", size=100 * SIZE), Entry(path="file", size=SIZE)

_Step = Callable[[ByteRangeBuffer], Awaitable[None]]


@pytest.fixture
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scheduler decide in every iteration of the event loop, without an interval."""
    monkeypatch.setattr(scheduler_module, "_INTERVAL", 0.0)


_PATTERN = bytes(range(251)) * (2 + SIZE // 251)


def _content(start: int, stop: int) -> bytes:
    """Return the bytes of the file."""
    first = start % 251
    return _PATTERN[first : first + stop - start]


class _Source:
    """The requests follow the steps, in order; further ones deliver everything."""

    location = "scripted"
    commit: str | None = None

    def __init__(self, *steps: _Step) -> None:
        self.requests: list[tuple[int, bool]] = []
        """Of each, the position and whether it demands a new connection."""
        self.memories: list[memoryview] = []
        self.in_flight = 0
        self._steps = list(steps)

    async def list(self) -> Sequence[Entry]:
        return [RANGE]

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        self.requests.append((buffer.position, buffer.needs_new_connection))
        self.memories.append(buffer.memory)
        self.in_flight += 1
        try:
            await checkpoint()
            if self._steps:
                await self._steps.pop(0)(buffer)
            buffer.append(_content(buffer.position, buffer.stop))
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        yield FillStream(self, entry)


async def _trickle(buffer: ByteRangeBuffer) -> None:
    """Deliver 1000 bytes, and nothing more."""
    buffer.append(_content(buffer.position, buffer.position + 1000))
    await anyio.sleep_forever()


class _Clock:
    """Advances by a quarter of a second each time it is read, as every decision does."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def _scheduler(
    connections: int = 4, pool: BufferPool | None = None, clock: _Clock | None = None
) -> DownloadScheduler:
    return DownloadScheduler(
        connections,
        start=8,
        maximum=64,
        chunk_slots=16,
        retry=RetryPolicy(attempts=2, wait_initial=0.0, wait_max=0.0),
        rate_limiter=RateLimiter(),
        buffer_pool=pool,
        clock=clock or _Clock(),
    )


def _ignore(error: TransientError, delay: float) -> None:
    pass


async def _fill(scheduler: DownloadScheduler, source: _Source, entry: Entry = RANGE) -> None:
    """Read one range, or a whole file, while the scheduler runs; compare its bytes."""
    buffer = ByteRangeBuffer(0 if entry is WHOLE else CHUNK, memoryview(bytearray(SIZE)))
    start, stop = buffer.start, buffer.stop
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run, lambda: False)
        with anyio.fail_after(20):
            await scheduler.fill(source, entry, buffer, _ignore)
        tasks.cancel_scope.cancel()
    assert buffer.memory == _content(start, stop)
    assert not buffer.missing
    assert source.in_flight == scheduler.connections.in_use == 0


async def test_second_request_reads_the_missing_bytes_into_the_same_memory() -> None:
    """It needs no buffer, since all may be held by chunks that wait for this one."""
    source = _Source(_trickle)

    await _fill(_scheduler(), source)

    assert source.requests == [(CHUNK, False), (CHUNK + 1000, True)]


async def test_first_request_may_win() -> None:
    """The second one is then cancelled, and has ended when the read returns."""
    hedged = anyio.Event()

    async def slow(buffer: ByteRangeBuffer) -> None:
        await hedged.wait()

    async def hang(buffer: ByteRangeBuffer) -> None:
        hedged.set()
        await anyio.sleep_forever()

    source = _Source(slow, hang)

    await _fill(_scheduler(), source)

    assert len(source.requests) == 2


async def test_second_request_that_trickles_is_replaced() -> None:
    """The third continues where the second ended."""
    source = _Source(_trickle, _trickle)

    await _fill(_scheduler(), source)

    assert [position - CHUNK for position, _ in source.requests] == [0, 1000, 2000]


async def test_request_is_replaced_if_no_connection_is_free() -> None:
    """The option `connections` is kept; the bytes that have arrived are, too."""
    source = _Source(_trickle)

    await _fill(_scheduler(connections=1), source)

    assert source.requests == [(CHUNK, False), (CHUNK + 1000, True)]


async def test_whole_file_is_read_into_memory_of_its_own() -> None:
    """Its source compares the bytes with a checksum while the slow request may write."""
    source, pool = _Source(_trickle), BufferPool(4 * SIZE)

    await _fill(_scheduler(pool=pool), source, WHOLE)

    assert source.requests == [(0, False), (0, True)]
    assert source.memories[0].obj is not source.memories[1].obj
    assert pool.in_use == 0


async def test_whole_file_is_requested_anew_if_there_is_no_memory() -> None:
    """In place of the slow request, from its start."""
    source, pool = _Source(_trickle), BufferPool(SIZE)
    held = await pool.acquire(SIZE)

    await _fill(_scheduler(pool=pool), source, WHOLE)

    assert source.requests == [(0, False), (0, True)]
    pool.release(held)


@pytest.mark.parametrize(
    "error", [NetworkError("broken"), ThrottledError("slow", response=None, retry_after=0.0)]
)
async def test_failure_of_the_second_request_is_no_failure_of_the_read(
    error: TransientError,
) -> None:
    """The first one goes on, and is asked for again later."""

    async def fail(buffer: ByteRangeBuffer) -> None:
        raise error

    source, pool = _Source(_trickle, fail), BufferPool(4 * SIZE)

    await _fill(_scheduler(pool=pool), source, WHOLE)

    assert len(source.requests) == 3
    assert pool.in_use == 0


async def test_second_requests_that_an_outage_ends_do_not_delay_the_next_one() -> None:
    """After 30 s of outage, too, a slow read is asked for again within the window."""
    times: list[float] = []

    async def fail(buffer: ByteRangeBuffer) -> None:
        times.append(clock.now)
        raise NetworkError("refused")

    clock = _Clock()
    scheduler = _scheduler(clock=clock)
    source = _Source(_trickle, *[fail] * 10)

    await _fill(scheduler, source)

    assert len(times) == 10
    assert max(after - before for before, after in pairwise(times)) < 4


async def test_second_request_whose_url_has_expired_is_sent_again_at_once() -> None:
    """The source has a fresh URL for the next attempt."""

    async def expire(buffer: ByteRangeBuffer) -> None:
        raise ExpiredError("expired")

    source, scheduler = _Source(_trickle, expire), _scheduler()

    await _fill(scheduler, source)

    assert len(source.requests) == 3
    assert scheduler.hedger.count == 1


async def test_read_that_waits_for_a_server_is_not_asked_for_again() -> None:
    """Its request was refused without being sent: the server is known to be down."""
    origins = Origins(clock=lambda: 0.0)
    origin = origins.find("http://host")
    origin.record_failure(ServerError("down", retry_after=50), started=0.0)
    looks = 0

    async def refuse(buffer: ByteRangeBuffer) -> None:
        refusal = origin.refusal()
        assert refusal is not None
        raise refusal

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks == 100:
            origin.record_success()
        return False

    source, scheduler = _Source(refuse), _scheduler()
    buffer = ByteRangeBuffer(CHUNK, memoryview(bytearray(SIZE)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run, look)
        with anyio.fail_after(20):
            await scheduler.fill(source, RANGE, buffer, _ignore)
        tasks.cancel_scope.cancel()

    assert looks >= 100
    assert scheduler.hedger.count == 0
    assert len(source.requests) == 2


async def test_request_in_place_of_another_does_not_begin_a_new_count_of_failures() -> None:
    """Two attempts are allowed: the failure before the replacement counts."""

    async def fail(buffer: ByteRangeBuffer) -> None:
        raise NetworkError("reset")

    async def hang(buffer: ByteRangeBuffer) -> None:
        await anyio.sleep_forever()

    source, scheduler = _Source(fail, hang, fail), _scheduler(connections=1)
    buffer = ByteRangeBuffer(CHUNK, memoryview(bytearray(SIZE)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run, lambda: False)
        with anyio.fail_after(20), pytest.raises(NetworkError, match="gave up after 2 attempts"):
            await scheduler.fill(source, RANGE, buffer, _ignore)
        tasks.cancel_scope.cancel()

    assert scheduler.hedger.count == 1


async def test_cancellation_ends_both_requests() -> None:
    """Their connections and memory are free again when the read has ended."""
    both = anyio.Event()

    async def hang(buffer: ByteRangeBuffer) -> None:
        both.set()
        await anyio.sleep_forever()

    source, pool = _Source(_trickle, hang), BufferPool(4 * SIZE)
    scheduler = _scheduler(pool=pool)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(SIZE)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run, lambda: False)
        async with anyio.create_task_group() as reading:
            reading.start_soon(scheduler.fill, source, WHOLE, buffer, _ignore)
            with anyio.fail_after(20):
                await both.wait()
            assert scheduler.connections.in_use == source.in_flight == 2
            reading.cancel_scope.cancel()
        assert scheduler.connections.in_use == source.in_flight == pool.in_use == 0
        tasks.cancel_scope.cancel()


async def test_end_of_the_transfer_whose_task_it_is_ends_only_the_second_request() -> None:
    """Another transfer of the same client may own the read; its own run asks again."""
    both, ended = anyio.Event(), anyio.Event()

    async def hang(buffer: ByteRangeBuffer) -> None:
        both.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    source = _Source(_trickle, hang)
    scheduler = _scheduler()
    buffer = ByteRangeBuffer(CHUNK, memoryview(bytearray(SIZE)))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as reading:
            reading.start_soon(scheduler.fill, source, RANGE, buffer, _ignore)
            async with anyio.create_task_group() as first:
                first.start_soon(scheduler.run, lambda: False)
                await both.wait()
                first.cancel_scope.cancel()
            assert ended.is_set()
            assert source.in_flight == 1
            async with anyio.create_task_group() as second:
                second.start_soon(scheduler.run, lambda: False)
                while buffer.missing:
                    await checkpoint()
                second.cancel_scope.cancel()
    assert buffer.memory == _content(CHUNK, CHUNK + SIZE)
