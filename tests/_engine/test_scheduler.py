"""`hftransfer._engine.scheduler`: requests on several connections, and a short end."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.streams import ByteStream
from hftransfer._engine import scheduler as scheduler_module
from hftransfer._engine.hedging import HedgePolicy
from hftransfer._engine.pace import InFlightRead
from hftransfer._engine.scheduler import DownloadScheduler, piece_count, select_split
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import NetworkError, ThrottledError, TransientError
from hftransfer.options import RetryPolicy
from hftransfer.stores.base import Entry

MIB = 1 << 20
SIZE = 8 * MIB
ENTRY = Entry(path="file", size=SIZE)
RETRY = RetryPolicy(attempts=4, wait_initial=0.0, wait_max=0.0)


@pytest.fixture
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scheduler decide in every iteration of the event loop, without an interval."""
    monkeypatch.setattr(scheduler_module, "_INTERVAL", 0.0)


def _content(start: int, stop: int) -> bytes:
    """Return bytes of the file; each has the index of its MiB as its value."""
    return b"".join(
        bytes([index % 251]) * (min(stop, (index + 1) * MIB) - max(start, index * MIB))
        for index in range(start // MIB, -(-stop // MIB))
    )


class _NoStream:
    async def readinto(self, buffer: memoryview) -> None:
        raise NotImplementedError


_Script = Callable[[ByteRangeBuffer], AsyncIterator[None]]


class _ScriptedSource:
    """A source whose first requests follow scripts; the others fill what is missing.

    `requests` records each as (start, stop), relative to the chunk. The chunk starts at `base`
    in its file: behind the first chunks, which are cut into pieces, unless a test changes it.
    """

    base = 8 * SIZE
    location = "scripted"
    commit: str | None = None

    def __init__(self, *scripts: _Script) -> None:
        self.requests: list[tuple[int, int]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._scripts = list(scripts)

    async def list(self) -> Sequence[Entry]:
        return [ENTRY]

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        self.requests.append((buffer.position - self.base, buffer.stop - self.base))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self._scripts:
                async for _ in self._scripts.pop(0)(buffer):
                    pass
            await checkpoint()
            buffer.append(_content(buffer.position - self.base, buffer.stop - self.base))
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        yield _NoStream()


class _Clock:
    """Advances by one second each time it is read, as every decision of the scheduler does."""

    def __init__(self) -> None:
        self._now = 0
        self._waiting: list[tuple[int, anyio.Event]] = []

    def __call__(self) -> float:
        self._now += 1
        for reading, event in self._waiting:
            if reading <= self._now:
                event.set()
        return float(self._now)

    async def wait_for_decisions(self, count: int) -> None:
        """Wait until the scheduler has read the clock `count` more times."""
        event = anyio.Event()
        self._waiting.append((self._now + count, event))
        await event.wait()


def _scheduler(
    connections: int | None = 8,
    *,
    chunk_slots: int = 16,
    rate_limiter: RateLimiter | None = None,
    clock: Callable[[], float] | None = None,
) -> DownloadScheduler:
    return DownloadScheduler(
        connections,
        start=8,
        maximum=64,
        chunk_slots=chunk_slots,
        retry=RETRY,
        rate_limiter=rate_limiter or RateLimiter(),
        clock=clock or _Clock(),
        hedging=HedgePolicy(window=float("inf")),  # not here: see test_duplicates
    )


def _ignore(error: TransientError, delay: float) -> None:
    pass


async def _fill(
    scheduler: DownloadScheduler, source: _ScriptedSource, *, draining: bool = False
) -> bytes:
    """Fill one chunk while the scheduler runs; return its bytes."""
    buffer = bytearray(SIZE)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scheduler.run, lambda: draining)
        with anyio.fail_after(30):
            await scheduler.fill(
                source, ENTRY, ByteRangeBuffer(source.base, memoryview(buffer)), _ignore
            )
        tasks.cancel_scope.cancel()
    assert scheduler.connections.in_use == 0
    return bytes(buffer)


# --- pieces of a chunk


@pytest.mark.anyio
async def test_chunk_is_one_request_if_memory_holds_enough_chunks() -> None:
    """With no more connections than chunks, cutting would only cost requests."""
    source = _ScriptedSource()

    content = await _fill(_scheduler(8, chunk_slots=16), source)

    assert content == _content(0, SIZE)
    assert source.requests == [(0, SIZE)]


@pytest.mark.anyio
async def test_chunk_is_cut_if_there_are_more_connections_than_chunks() -> None:
    """32 connections and memory for 8 chunks: four concurrent requests per chunk."""
    source = _ScriptedSource()

    assert await _fill(_scheduler(32, chunk_slots=8), source) == _content(0, SIZE)

    quarter = SIZE // 4
    assert sorted(source.requests) == [(n * quarter, (n + 1) * quarter) for n in range(4)]
    assert source.most_in_flight == 4


@pytest.mark.anyio
async def test_pieces_of_a_chunk_are_equal() -> None:
    """The largest one would decide when the chunk is complete."""
    source = _ScriptedSource()

    assert await _fill(_scheduler(24, chunk_slots=8), source) == _content(0, SIZE)

    lengths = [stop - start for start, stop in source.requests]
    assert len(lengths) == 3
    assert max(lengths) - min(lengths) <= 2


@pytest.mark.anyio
@pytest.mark.parametrize(("index", "pieces"), [(0, 8), (1, 4), (2, 2), (3, 1)])
async def test_first_chunks_of_a_file_are_cut_for_idle_connections(index: int, pieces: int) -> None:
    """The file's digest waits for the first chunk, and less for each that follows."""
    source = _ScriptedSource()
    source.base = index * SIZE

    assert await _fill(_scheduler(16), source) == _content(0, SIZE)

    assert len(source.requests) == source.most_in_flight == pieces


@pytest.mark.anyio
async def test_pieces_have_a_mebibyte_at_least() -> None:
    """However many connections are idle."""
    source = _ScriptedSource()

    await _fill(_scheduler(1000, chunk_slots=1), source)

    assert len(source.requests) == 8


@given(
    index=st.integers(0, 100),
    connections=st.integers(1, 1000),
    idle=st.integers(0, 1000),
    chunk_slots=st.integers(1, 1000),
)
def test_number_of_pieces(index: int, connections: int, idle: int, chunk_slots: int) -> None:
    """Never more than there are connections for; all chunks together can use all of them."""
    count = piece_count(index, connections=connections, idle=idle, chunk_slots=chunk_slots)

    assert 1 <= count <= 1 + idle
    if count < 1 + idle:
        assert count * chunk_slots >= connections
    later = piece_count(index + 1, connections=connections, idle=idle, chunk_slots=chunk_slots)
    assert later <= count


# --- retries


@pytest.mark.anyio
async def test_retry_requests_only_missing_bytes() -> None:
    """Bytes that arrived before an error stay."""

    async def cut(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        buffer.append(_content(0, 3 * MIB))
        yield
        raise NetworkError("cut")

    source = _ScriptedSource(cut)

    assert await _fill(_scheduler(), source) == _content(0, SIZE)

    assert source.requests == [(0, SIZE), (3 * MIB, SIZE)]


@pytest.mark.anyio
async def test_progress_resets_the_number_of_tries() -> None:
    """A connection that is cut after each MiB completes: 7 cuts, and 4 attempts allowed."""

    async def cut(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        buffer.append(_content(buffer.filled, buffer.filled + MIB))
        yield
        raise NetworkError("cut")

    source = _ScriptedSource(*[cut] * 7)

    assert await _fill(_scheduler(), source) == _content(0, SIZE)

    assert source.requests == [(index * MIB, SIZE) for index in range(8)]


@pytest.mark.anyio
async def test_tries_without_progress_end() -> None:
    """After the fourth one the last error is raised, and the connection released."""

    async def cut(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        buffer.append(_content(0, MIB - buffer.filled))
        yield
        raise NetworkError("cut")

    source = _ScriptedSource(*[cut] * 5)
    scheduler = _scheduler()

    with pytest.raises(NetworkError, match="gave up after 4 attempts"):
        await scheduler.fill(
            source, ENTRY, ByteRangeBuffer(source.base, memoryview(bytearray(SIZE))), _ignore
        )

    assert scheduler.connections.in_use == 0


@pytest.mark.anyio
async def test_throttled_request_halves_adaptive_connections() -> None:
    """A number that the options set stays."""

    async def refuse(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        yield
        raise ThrottledError("slow down", response=None, retry_after=0.0)

    adaptive, fixed = _scheduler(None), _scheduler(6)

    await _fill(adaptive, _ScriptedSource(refuse))
    await _fill(fixed, _ScriptedSource(refuse))

    assert adaptive.connections.limit == 4
    assert fixed.connections.limit == 6


@pytest.mark.anyio
async def test_failed_piece_fails_the_chunk() -> None:
    """The others are cancelled, one error is raised, and every connection is released."""

    async def fail(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        yield
        raise ValueError("no")

    async def hang(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    scheduler = _scheduler(32, chunk_slots=8)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(SIZE)))

    with pytest.raises(ValueError, match="no"):
        await scheduler.fill(_ScriptedSource(hang, fail), ENTRY, buffer, _ignore)

    assert scheduler.connections.in_use == 0


# --- rebalancing at the end of a transfer


@pytest.mark.anyio
async def test_idle_connections_take_half_of_a_slow_read_while_draining() -> None:
    """The read is split repeatedly, until its rest is too short."""
    released = anyio.Event()

    async def slow(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        buffer.append(_content(0, MIB))
        await released.wait()
        yield

    async def release_slow(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        released.set()
        yield

    source = _ScriptedSource(slow, release_slow)

    assert await _fill(_scheduler(), source, draining=True) == _content(0, SIZE)

    assert source.requests[0] == (0, SIZE)
    taken = sorted(source.requests[1:])
    assert taken[-1][1] == SIZE
    assert all(first[1] == second[0] for first, second in itertools.pairwise(taken))
    assert all(stop - start >= MIB for start, stop in taken)
    # At least half of the missing bytes went to others.
    assert MIB < taken[0][0] <= MIB + (SIZE - MIB) // 2 + 1


def _slow_for(clock: _Clock, decisions: int) -> _Script:
    """Return a script that delivers nothing while the scheduler decides `decisions` times."""

    async def slow(buffer: ByteRangeBuffer) -> AsyncIterator[None]:
        await clock.wait_for_decisions(decisions)
        yield

    return slow


@pytest.mark.anyio
@pytest.mark.usefixtures("no_interval")
async def test_slow_read_is_left_alone_until_the_transfer_drains() -> None:
    """As long as further chunks follow, idle connections wait for those."""
    clock = _Clock()
    source = _ScriptedSource(_slow_for(clock, 6))

    await _fill(_scheduler(clock=clock), source, draining=False)

    assert source.requests == [(0, SIZE)]


@pytest.mark.anyio
@pytest.mark.usefixtures("no_interval")
async def test_slow_read_is_left_alone_under_a_bandwidth_cap() -> None:
    """The cap is what slows it down."""
    clock = _Clock()
    source = _ScriptedSource(_slow_for(clock, 6))

    await _fill(_scheduler(rate_limiter=RateLimiter(1e6), clock=clock), source, draining=True)

    assert source.requests == [(0, SIZE)]


# --- the decisions


def _read(left: int, *, filled: int, started: float) -> InFlightRead:
    buffer = ByteRangeBuffer(0, memoryview(bytearray(filled + left)))
    buffer.advance(filled)
    return InFlightRead(buffer, started, split=lambda: True)


def test_latency_lasts_from_the_request_to_its_response() -> None:
    """Or until now, if there is none; a source that sends no requests has no latency."""
    silent, answered, local = (_read(MIB, filled=0, started=5.0) for _ in range(3))
    answered.buffer.response_started_at = 5.2
    answered.buffer.advance(100)
    local.buffer.advance(100)

    assert silent.latency(9.0) == 4.0
    assert answered.latency(9.0) == pytest.approx(0.2)
    assert local.latency(9.0) == 0.0


def test_read_with_most_time_to_go_is_split_first() -> None:
    """The read with the most missing bytes may be faster, and end sooner."""
    fast = _read(6 * MIB, filled=6 * MIB, started=0.0)
    slow = _read(4 * MIB, filled=MIB, started=0.0)

    assert select_split([fast, slow], now=1.0) is slow
    assert select_split([fast], now=1.0) is fast


def test_read_that_ends_soon_is_not_split() -> None:
    """Nor is one with few bytes left, or one that is too young to have a rate."""
    short = _read(MIB, filled=MIB, started=0.0)
    soon = _read(2 * MIB, filled=100 * MIB, started=0.0)
    young = _read(4 * MIB, filled=0, started=0.99)

    assert select_split([short, soon, young], now=1.0) is None


class _Range(ByteRangeBuffer):
    """A range of any length, without the memory for it."""

    def __init__(self, filled: int, left: int) -> None:
        super().__init__(0, memoryview(b""))
        self.limit = filled + left
        self.filled = filled


_READS = st.lists(
    st.builds(
        lambda filled, left, started: InFlightRead(
            _Range(filled, left), started, split=lambda: True
        ),
        filled=st.integers(0, 100 * MIB),
        left=st.integers(0, 100 * MIB),
        started=st.floats(0.0, 10.0),
    ),
    max_size=8,
)


@given(reads=_READS)
def test_split_gains_time(reads: list[InFlightRead]) -> None:
    """The selected read can be split, has most time to go, and none qualifies if none is."""

    def seconds_left(read: InFlightRead) -> float:
        rate = read.rate(10.0)
        return read.buffer.missing / rate if rate else float("inf")

    selected = select_split(reads, now=10.0)

    divisible = [
        read
        for read in reads
        if read.buffer.missing >= 2 * MIB and 10.0 - read.started >= 0.05  # seconds
    ]
    if selected is None:
        assert all(seconds_left(read) <= 0.2 for read in divisible)
    else:
        assert selected in divisible
        assert seconds_left(selected) == max(map(seconds_left, divisible))
