"""`hftransfer._engine.scheduler`: chunks over as many connections as pay, and a short tail."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.streams import ByteStream
from hftransfer._engine.scheduler import (
    DownloadScheduler,
    InFlightRead,
    select_split,
    select_stalled,
)
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import NetworkError, ThrottledError, TransientError
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry

MIB = 1 << 20
SIZE = 8 * MIB
ENTRY = Entry(path="file", size=SIZE)
RETRY = RetryPolicy(attempts=4, wait_initial=0.0, wait_max=0.0)

pytestmark = pytest.mark.anyio


def _content(start: int, stop: int) -> bytes:
    """The bytes of the file, which name the MiB that they are in."""
    return b"".join(
        bytes([index % 251]) * (min(stop, (index + 1) * MIB) - max(start, index * MIB))
        for index in range(start // MIB, -(-stop // MIB))
    )


class _NoStream:
    async def readinto(self, buffer: memoryview) -> None:
        raise NotImplementedError


class _Scripted:
    """A source whose requests do what a test says.

    `asked` records each as (start, stop), counted from the start of the chunk, which lies
    at `base` in its file: far from its front, if a test does not say otherwise.
    """

    base = 8 * SIZE
    location = "scripted"
    commit: str | None = None

    def __init__(self, *scripts: Callable[[ByteRangeBuffer], AsyncIterator[None]]) -> None:
        self.asked: list[tuple[int, int]] = []
        self.at_a_time = 0
        self.most_at_a_time = 0
        self._scripts = list(scripts)

    async def list(self) -> Sequence[Entry]:
        return [ENTRY]

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        self.asked.append((span.position - self.base, span.stop - self.base))
        self.at_a_time += 1
        self.most_at_a_time = max(self.most_at_a_time, self.at_a_time)
        try:
            if self._scripts:
                async for _ in self._scripts.pop(0)(span):
                    pass
            await checkpoint()
            span.put(_content(span.position - self.base, span.stop - self.base))
        finally:
            self.at_a_time -= 1

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        yield _NoStream()


def _fetcher(
    connections: int | None = 8, *, chunk_slots: int = 16, throttle: RateLimiter | None = None
) -> DownloadScheduler:
    """A fetcher whose clock shows one second more each time that it is read."""
    seconds = itertools.count()
    return DownloadScheduler(
        connections,
        start=8,
        maximum=64,
        chunk_slots=chunk_slots,
        retry=RETRY,
        throttle=throttle or RateLimiter(),
        clock=lambda: float(next(seconds)),
    )


def _ignore(error: TransientError, delay: float) -> None:
    pass


async def _fill(fetcher: DownloadScheduler, source: _Scripted, *, draining: bool = True) -> bytes:
    """Fill one chunk, the only one of the file, while the fetcher is steered."""
    buffer = bytearray(SIZE)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetcher.run, lambda: draining)
        with anyio.fail_after(30):
            await fetcher.fill(
                source, ENTRY, ByteRangeBuffer(source.base, memoryview(buffer)), _ignore
            )
        tasks.cancel_scope.cancel()
    assert fetcher.connections.in_use == 0
    return bytes(buffer)


async def test_a_chunk_is_one_request_where_memory_holds_enough_chunks() -> None:
    """With no more connections than chunks, cutting would only cost requests."""
    source = _Scripted()

    assert await _fill(_fetcher(8, chunk_slots=16), source, draining=False) == _content(0, SIZE)

    assert source.asked == [(0, SIZE)]


async def test_a_chunk_is_cut_where_there_are_more_connections_than_chunks() -> None:
    """32 connections and memory for 8 chunks: four pieces each, at the same time."""
    source = _Scripted()

    assert await _fill(_fetcher(32, chunk_slots=8), source) == _content(0, SIZE)

    quarter = SIZE // 4
    assert sorted(source.asked) == [(n * quarter, (n + 1) * quarter) for n in range(4)]
    assert source.most_at_a_time == 4


async def test_the_pieces_of_a_chunk_are_equal() -> None:
    """The largest one would decide when a chunk is there."""
    source = _Scripted()

    assert await _fill(_fetcher(24, chunk_slots=8), source) == _content(0, SIZE)

    lengths = [stop - start for start, stop in source.asked]
    assert len(lengths) == 3
    assert max(lengths) - min(lengths) <= 2


@pytest.mark.parametrize(("index", "pieces"), [(0, 8), (1, 4), (2, 2), (3, 1)])
async def test_the_front_of_a_file_is_shared_by_idle_connections(index: int, pieces: int) -> None:
    """Its digest waits for the first chunk, and half as long for each that follows."""
    source = _Scripted()
    source.base = index * SIZE

    assert await _fill(_fetcher(16), source, draining=False) == _content(0, SIZE)

    assert len(source.asked) == source.most_at_a_time == pieces


async def test_pieces_are_not_smaller_than_a_mebibyte() -> None:
    """However many connections wait for work."""
    source = _Scripted()

    await _fill(_fetcher(1000, chunk_slots=1), source)

    assert len(source.asked) == 8


async def test_what_arrived_before_an_error_is_not_asked_for_again() -> None:
    """The next try asks for the rest alone."""

    async def cut(span: ByteRangeBuffer) -> AsyncIterator[None]:
        span.put(_content(0, 3 * MIB))
        yield
        raise NetworkError("cut")

    source = _Scripted(cut)

    assert await _fill(_fetcher(), source) == _content(0, SIZE)

    assert source.asked == [(0, SIZE), (3 * MIB, SIZE)]


async def test_a_connection_that_is_cut_again_and_again_still_gets_there() -> None:
    """Failures count only as long as nothing arrives in between: 7 cuts, 4 attempts."""

    async def cut(span: ByteRangeBuffer) -> AsyncIterator[None]:
        span.put(_content(span.filled, span.filled + MIB))
        yield
        raise NetworkError("cut")

    source = _Scripted(*[cut] * 7)

    assert await _fill(_fetcher(), source, draining=False) == _content(0, SIZE)

    assert source.asked == [(index * MIB, SIZE) for index in range(8)]


async def test_who_gets_no_further_gives_up() -> None:
    """The same byte for the fourth time, and the last error is raised."""

    async def cut(span: ByteRangeBuffer) -> AsyncIterator[None]:
        span.put(_content(0, MIB - span.filled))
        yield
        raise NetworkError("cut")

    source = _Scripted(*[cut] * 5)
    fetcher = _fetcher()

    with pytest.raises(NetworkError, match="gave up after 4 tries"):
        await fetcher.fill(
            source, ENTRY, ByteRangeBuffer(source.base, memoryview(bytearray(SIZE))), _ignore
        )

    assert fetcher.connections.in_use == 0


async def test_at_the_end_idle_connections_take_over_half() -> None:
    """The rest of a slow connection is halved until it is not worth it."""
    released = anyio.Event()

    async def slow(span: ByteRangeBuffer) -> AsyncIterator[None]:
        span.put(_content(0, MIB))
        await released.wait()
        yield

    async def release_when_taken(span: ByteRangeBuffer) -> AsyncIterator[None]:
        released.set()
        yield

    source = _Scripted(slow, release_when_taken)

    assert await _fill(_fetcher(), source) == _content(0, SIZE)

    assert source.asked[0] == (0, SIZE)
    taken = sorted(source.asked[1:])
    assert taken[-1][1] == SIZE
    assert all(first[1] == second[0] for first, second in itertools.pairwise(taken))
    assert all(stop - start >= MIB for start, stop in taken)
    # At least half of what was missing went to others.
    assert MIB < taken[0][0] <= MIB + (SIZE - MIB) // 2 + 1


async def test_before_the_end_nobody_takes_over() -> None:
    """As long as further chunks come, idle connections wait for those."""
    turns = 0

    async def slow(span: ByteRangeBuffer) -> AsyncIterator[None]:
        nonlocal turns
        for _ in range(6):  # as many ticks, in which nothing happens
            await anyio.sleep(0.05)
            turns += 1
            yield

    source = _Scripted(slow)

    await _fill(_fetcher(), source, draining=False)

    assert turns == 6
    assert source.asked == [(0, SIZE)]


async def test_a_connection_that_brings_nothing_is_replaced() -> None:
    """Hung for ever, it is given up as soon as another one has shown what is possible."""

    async def hang(span: ByteRangeBuffer) -> AsyncIterator[None]:
        span.put(_content(0, 7 * MIB))  # too little is left to be shared
        await anyio.sleep_forever()
        yield

    fetcher = _fetcher()
    assert await _fill(fetcher, _Scripted()) == _content(0, SIZE)  # this is possible
    source = _Scripted(hang)

    assert await _fill(fetcher, source) == _content(0, SIZE)

    assert source.asked == [(0, SIZE), (7 * MIB, SIZE)]


async def test_under_a_bandwidth_cap_nobody_is_slow() -> None:
    """What we hold back ourselves is neither shared nor replaced."""

    async def slow(span: ByteRangeBuffer) -> AsyncIterator[None]:
        for _ in range(6):
            await anyio.sleep(0.05)
            yield

    source = _Scripted(slow)

    await _fill(_fetcher(throttle=RateLimiter(1e6)), source)

    assert source.asked == [(0, SIZE)]


async def test_a_server_that_asks_for_less_gets_less() -> None:
    """A throttled request halves the number of connections; a given number stays."""

    async def refuse(span: ByteRangeBuffer) -> AsyncIterator[None]:
        yield
        raise ThrottledError("slow down", response=None, retry_after=0.0)

    adaptive, fixed = _fetcher(None), _fetcher(6)

    await _fill(adaptive, _Scripted(refuse), draining=False)
    await _fill(fixed, _Scripted(refuse), draining=False)

    assert adaptive.connections.limit == 4
    assert fixed.connections.limit == 6


async def test_an_error_ends_all_pieces() -> None:
    """One piece that fails for good fails the chunk, as one error, and frees every slot."""

    async def fail(span: ByteRangeBuffer) -> AsyncIterator[None]:
        yield
        raise ValueError("no")

    async def hang(span: ByteRangeBuffer) -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    fetcher = _fetcher(32, chunk_slots=8)
    with pytest.raises(ValueError, match="no"):
        await fetcher.fill(
            _Scripted(hang, fail), ENTRY, ByteRangeBuffer(0, memoryview(bytearray(SIZE))), _ignore
        )

    assert fetcher.connections.in_use == 0


def _reading(left: int, *, filled: int, started: float) -> InFlightRead:
    span = ByteRangeBuffer(0, memoryview(bytearray(filled + left)))
    span.advance(filled)
    return InFlightRead(span, lambda: True, started=started)


async def test_a_reading_waits_from_its_start_until_it_is_answered() -> None:
    """What is on its way counts as far as it goes; a source without requests never waits."""
    silent, answered, local = (_reading(MIB, filled=0, started=5.0) for _ in range(3))
    answered.target.response_started_at = 5.2
    answered.target.advance(100)
    local.target.advance(100)

    assert silent.latency(9.0) == 4.0
    assert answered.latency(9.0) == pytest.approx(0.2)
    assert local.latency(9.0) == 0.0


async def test_the_slowest_is_helped_first() -> None:
    """The one with the longest way to go at its own rate, not the one with most bytes."""
    fast = _reading(6 * MIB, filled=6 * MIB, started=0.0)
    slow = _reading(4 * MIB, filled=MIB, started=0.0)

    assert select_split([fast, slow], now=1.0) is slow
    assert select_split([fast], now=1.0) is fast


async def test_who_is_done_sooner_than_asking_takes_is_left_alone() -> None:
    """Too little left, too soon done, or too young to judge: nobody is helped."""
    little = _reading(MIB, filled=MIB, started=0.0)
    soon = _reading(2 * MIB, filled=100 * MIB, started=0.0)
    young = _reading(4 * MIB, filled=0, started=0.99)

    assert select_split([little, soon, young], now=1.0) is None


async def test_only_who_brings_next_to_nothing_is_stuck() -> None:
    """A tenth of what is typical is slow; less than that, for two seconds, is stuck."""
    slow = _reading(MIB, filled=4 * MIB, started=0.0)
    stuck = _reading(MIB, filled=100, started=0.0)
    done = _reading(0, filled=100, started=0.0)

    assert select_stalled([slow, done, stuck], now=4.0, typical_rate=5.0 * MIB) is stuck
    assert select_stalled([slow, done], now=4.0, typical_rate=5.0 * MIB) is None
    assert select_stalled([stuck], now=1.0, typical_rate=5.0 * MIB) is None
