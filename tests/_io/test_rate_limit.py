"""`hftransfer._io.rate_limit`: the cap as arithmetic, and on the wire."""

from __future__ import annotations

import asyncio
import math
import sys
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._io.rate_limit import Pause, RateLimiter
from hftransfer.errors import OptionsError, Response
from support.http import KIB, LOOPS, MIB, Exchange, Site, random_bytes, ranged, until

SIZE = 3 * MIB


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- the arithmetic


@given(
    rate=st.floats(1.0, 1e10),
    moves=st.lists(st.tuples(st.integers(0, 10 * MIB), st.floats(0, 10)), max_size=50),
)
def test_no_more_passes_than_the_cap_and_a_small_burst(
    rate: float, moves: list[tuple[int, float]]
) -> None:
    """Whoever pauses as told moves at most the rate times the time, and a twentieth second's."""
    clock = Clock()
    throttle = RateLimiter(rate, clock=clock)
    start, moved = clock.now, 0
    for count, idle in moves:
        clock.now += idle
        moved += count
        clock.now += throttle.take(count)

        assert moved <= rate * (clock.now - start + 0.05) * (1 + 1e-6) + 1


@given(
    rate=st.floats(1.0, 1e10), counts=st.lists(st.integers(1, 10 * MIB), min_size=1, max_size=50)
)
def test_the_cap_is_used_up(rate: float, counts: list[int]) -> None:
    """Without a silence of its own, a transfer takes no longer than the cap demands."""
    clock = Clock()
    throttle = RateLimiter(rate, clock=clock)
    start = clock.now
    for count in counts:
        clock.now += throttle.take(count)

    assert clock.now - start <= sum(counts) / rate + 1e-3


@given(rates=st.lists(st.none() | st.floats(1.0, 1e10), min_size=1, max_size=20))
def test_a_new_cap_forgives_what_was_owed(rates: list[float | None]) -> None:
    """After each setting the first bytes cost what the new cap says, whatever came before."""
    clock = Clock()
    throttle = RateLimiter(1.0, clock=clock)
    throttle.take(10**9)
    for rate in rates:
        throttle.rate = rate
        pause = throttle.take(10_000)

        assert throttle.rate == rate
        assert pause <= (0.0 if rate is None else 10_000 / rate + 1e-6)


@given(rate=st.none() | st.floats(1e-3, 1e300))
def test_pieces_are_neither_tiny_nor_large(rate: float | None) -> None:
    """A capped transfer moves in pieces that are worth a system call and a short pause."""
    piece = RateLimiter(rate).piece

    assert piece is None if rate is None else 16 * KIB <= piece <= 256 * KIB  # type: ignore[operator]


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, -math.inf])
def test_an_impossible_cap_is_refused(rate: float) -> None:
    """What is no positive, finite number is refused at once, and changes nothing."""
    with pytest.raises(OptionsError, match="must be positive"):
        RateLimiter(rate)
    throttle = RateLimiter(5.0)
    with pytest.raises(OptionsError, match="must be positive"):
        throttle.rate = rate

    assert throttle.rate == 5.0


def test_a_pause_is_taken_in_steps_that_notice_a_new_cap() -> None:
    """An hour that is owed ends within a step of the cap being set, to whatever."""
    clock = Clock()
    throttle = RateLimiter(1.0, clock=clock)
    pause = throttle.owe(3600)

    for _ in range(5):
        assert 0 < pause.step() <= 0.1
        clock.now += 0.1
    throttle.rate = 1.0
    assert pause.step() == 0


@given(lags=st.lists(st.floats(0.0, 1.0), max_size=100))
def test_a_late_timer_does_not_lengthen_a_pause(lags: list[float]) -> None:
    """Steps that take longer than they should are not made up for."""
    clock = Clock()
    pause = RateLimiter(1.0, clock=clock).owe(5)
    for lag in lags:
        if not (step := pause.step()):
            break
        clock.now += step + lag

    assert clock.now <= 1000 + 5 + 1.0 + 1e-6


# --- on the wire


class Recording(RateLimiter):
    """A cap that keeps what it was asked, and hands out pauses without length."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.taken: list[int] = []
        self.pauses: list[Counted] = []

    def take(self, count: int) -> float:
        self.taken.append(count)
        return 0.0

    def owe(self, count: int) -> Pause:
        self.take(count)
        self.pauses.append(Counted(self))
        return self.pauses[-1]


class Counted(Pause):
    """A pause of three steps."""

    __slots__ = ("left",)

    def __init__(self, throttle: RateLimiter) -> None:
        super().__init__(throttle, Clock(), 0, 0.0)
        self.left = 3

    def step(self) -> float:
        self.left -= self.left > 0
        return 1e-9 if self.left else 0.0


async def chunked(exchange: Exchange) -> None:
    await exchange.head("200 OK", "Transfer-Encoding: chunked")
    for start in range(0, SIZE, 100_000):
        piece = random_bytes(SIZE)[start : start + 100_000]
        await exchange.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    await exchange.send(b"0\r\n\r\n")


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["direct", "chunked"])
async def test_every_received_byte_is_paid_for(site: Site, how: str) -> None:
    """Bytes with the head, in the middle and at the end: all are counted, all pauses waited."""
    throttle = Recording()
    reply = chunked if how == "chunked" else ranged(random_bytes(SIZE))
    buffer = bytearray(SIZE)
    async with site.opened(reply, rate_limiter=throttle) as (server, wire):
        span = ByteRangeBuffer(0, memoryview(buffer))
        await wire.fill(f"{server.base}/f", span, size=SIZE, ranged=how == "direct")

    assert buffer == random_bytes(SIZE)
    assert sum(throttle.taken) == SIZE
    if sys.version_info >= (3, 11) or not site.tls:
        # That of what came with the head is added to that of the first piece.
        assert all(not pause.left for pause in throttle.pauses[1:])
    # Python 3.10's TLS delivers in a pause, too: a later one then stands for both.
    assert throttle.pauses[-1].left == 0
    if how == "direct":
        assert max(throttle.taken[1:]) <= 16 * KIB


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 1000, 30 * KIB])
async def test_a_small_body_is_paid_for_before_the_next_one(site: Site, size: int) -> None:
    """A cap holds for many small files, too: their pauses are not skipped at the end."""
    throttle = Recording()
    async with site.opened(ranged(random_bytes(SIZE)), rate_limiter=throttle) as (server, wire):
        for _ in range(3):
            span = ByteRangeBuffer(0, memoryview(bytearray(size)))
            await wire.fill(f"{server.base}/f", span, size=SIZE)
            assert throttle.pauses[-1].left == 0

    assert sum(throttle.taken) == 3 * size
    assert server.connections == 1


@pytest.mark.anyio
async def test_streams_and_sent_bodies_are_paid_for(site: Site) -> None:
    """The one cap is for both directions."""
    throttle = Recording()
    content = random_bytes(SIZE)

    async def reply(exchange: Exchange) -> None:
        await exchange.head("200 OK", f"Content-Length: {SIZE}")
        await exchange.send(content)

    async with site.opened(reply, rate_limiter=throttle) as (server, wire):
        async with wire.stream(f"{server.base}/f", size=SIZE) as body:
            assert not isinstance(body, Response)
            await body.readinto(memoryview(bytearray(SIZE)))
        assert sum(throttle.taken) == SIZE
        await wire.request("PUT", f"{server.base}/f", body=content)
        assert sum(throttle.taken) == 2 * SIZE

    assert all(not pause.left for pause in throttle.pauses)


@pytest.mark.anyio
@pytest.mark.parametrize("direction", ["down", "down, plain path", "up"])
async def test_a_raised_cap_ends_pauses_under_way(site: Site, direction: str) -> None:
    """A transfer that owes hours goes on at once when the cap is lifted."""
    content = random_bytes(SIZE)
    throttle = RateLimiter(1.0)
    got: list[bytes] = []

    async def reply(exchange: Exchange) -> None:
        if direction == "up":
            got.append(await exchange.reader.readexactly(SIZE))
            await exchange.head("200 OK", "Content-Length: 0")
        else:
            await (ranged(content) if direction == "down" else chunked)(exchange)

    buffer = bytearray(SIZE)
    span = ByteRangeBuffer(0, memoryview(buffer))
    async with site.opened(reply, rate_limiter=throttle, reads_body=False) as (server, wire):
        url = f"{server.base}/f"
        async with anyio.create_task_group() as tasks:
            if direction == "up":
                tasks.start_soon(lambda: wire.request("PUT", url, body=content))
                await until(lambda: bool(server.requests))
                for _ in range(100):
                    await asyncio.sleep(0)
            else:
                ranges = direction == "down"
                tasks.start_soon(lambda: wire.fill(url, span, size=SIZE, ranged=ranges))
                await until(lambda: span.filled > 0)
            assert not got
            assert span.filled < SIZE
            throttle.rate = None

    assert (got[0] if direction == "up" else buffer) == content


@pytest.mark.anyio
async def test_a_pause_longer_than_the_time_limit_is_no_stall(site: Site) -> None:
    """The time limit is the server's, the pauses are ours."""
    content = random_bytes(256 * KIB)
    size = len(content)
    throttle = RateLimiter(320 * KIB)  # 16 KiB in 50 ms
    buffer = bytearray(size)
    async with site.opened(ranged(content), rate_limiter=throttle, read=0.6) as (server, wire):
        throttle.take(320 * KIB)  # another transfer has used up the next second
        await wire.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(buffer)), size=size)

    assert buffer == content
