"""`hftransfer._io.rate_limit`: the arithmetic, and the limit in the HTTP client."""

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
from hftransfer._io.rate_limit import PendingDelay, RateLimiter
from hftransfer.errors import OptionsError, Response
from support.http import KIB, LOOPS, MIB, Exchange, Site, random_bytes, ranged, until

SIZE = 3 * MIB


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- arithmetic


@given(
    rate=st.floats(1.0, 1e10),
    moves=st.lists(st.tuples(st.integers(0, 10 * MIB), st.floats(0, 10)), max_size=50),
)
def test_no_more_than_the_rate_and_one_burst_moves(
    rate: float, moves: list[tuple[int, float]]
) -> None:
    """With the delays obeyed, at most the rate times the time plus 50 ms of the rate."""
    clock = Clock()
    limiter = RateLimiter(rate, clock=clock)
    start, moved = clock.now, 0
    for count, idle in moves:
        clock.now += idle
        moved += count
        clock.now += limiter.charge(count)

        assert moved <= rate * (clock.now - start + 0.05) * (1 + 1e-6) + 1


@given(
    rate=st.floats(1.0, 1e10), counts=st.lists(st.integers(1, 10 * MIB), min_size=1, max_size=50)
)
def test_the_rate_is_reached(rate: float, counts: list[int]) -> None:
    """A transfer that never idles takes no longer than the rate requires."""
    clock = Clock()
    limiter = RateLimiter(rate, clock=clock)
    start = clock.now
    for count in counts:
        clock.now += limiter.charge(count)

    assert clock.now - start <= sum(counts) / rate + 1e-3


@given(rates=st.lists(st.none() | st.floats(1.0, 1e10), min_size=1, max_size=20))
def test_a_new_rate_cancels_delays_of_the_old_one(rates: list[float | None]) -> None:
    """The delay after the first bytes follows from the new rate only."""
    clock = Clock()
    limiter = RateLimiter(1.0, clock=clock)
    limiter.charge(10**9)
    for rate in rates:
        limiter.rate = rate
        delay = limiter.charge(10_000)

        assert limiter.rate == rate
        assert delay <= (0.0 if rate is None else 10_000 / rate + 1e-6)


@given(rate=st.none() | st.floats(1e-3, 1e300))
def test_the_burst_size_is_between_16_and_256_kib(rate: float | None) -> None:
    """Large enough for a system call, small enough for a short delay."""
    size = RateLimiter(rate).burst_size

    assert size is None if rate is None else 16 * KIB <= size <= 256 * KIB  # type: ignore[operator]


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, -math.inf])
def test_an_invalid_rate_is_rejected(rate: float) -> None:
    """It must be positive and finite; the old rate stays."""
    with pytest.raises(OptionsError, match="must be positive"):
        RateLimiter(rate)
    limiter = RateLimiter(5.0)
    with pytest.raises(OptionsError, match="must be positive"):
        limiter.rate = rate

    assert limiter.rate == 5.0


def test_a_delay_is_slept_in_steps_that_notice_a_new_rate() -> None:
    """A delay of an hour ends within one step after the rate is set, even to the same value."""
    clock = Clock()
    limiter = RateLimiter(1.0, clock=clock)
    delay = limiter.reserve(3600)

    for _ in range(5):
        assert 0 < delay.next_sleep() <= 0.1
        clock.now += 0.1
    limiter.rate = 1.0
    assert delay.next_sleep() == 0


@given(lags=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=100))
def test_late_timers_do_not_lengthen_a_delay(lags: list[float]) -> None:
    """Only the last step can exceed the delay."""
    clock = Clock()
    delay = RateLimiter(1.0, clock=clock).reserve(5)
    for lag in lags:
        if not (step := delay.next_sleep()):
            break
        clock.now += step + lag

    assert clock.now <= 1000 + 5 + 1.0 + 1e-6


# --- with the HTTP client


class Recording(RateLimiter):
    """A limiter that records its calls, and returns delays that end after three steps."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.charged: list[int] = []
        self.delays: list[CountedDelay] = []

    def charge(self, count: int) -> float:
        self.charged.append(count)
        return 0.0

    def reserve(self, count: int) -> PendingDelay:
        self.charge(count)
        self.delays.append(CountedDelay(self))
        return self.delays[-1]


class CountedDelay(PendingDelay):
    """A delay of three steps."""

    __slots__ = ("left",)

    def __init__(self, rate_limiter: RateLimiter) -> None:
        super().__init__(rate_limiter, Clock(), 0, 0.0)
        self.left = 3

    def next_sleep(self) -> float:
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
async def test_every_received_byte_is_charged(site: Site, how: str) -> None:
    """Bytes with the headers, in the middle and at the end; all delays are waited for."""
    limiter = Recording()
    reply = chunked if how == "chunked" else ranged(random_bytes(SIZE))
    memory = bytearray(SIZE)
    async with site.opened(reply, rate_limiter=limiter) as (server, client):
        buffer = ByteRangeBuffer(0, memoryview(memory))
        await client.fill(f"{server.base}/f", buffer, size=SIZE, ranged=how == "direct")

    assert memory == random_bytes(SIZE)
    assert sum(limiter.charged) == SIZE
    if sys.version_info >= (3, 11) or not site.tls:
        # The delay of the bytes that came with the headers is added to that of the next ones.
        assert all(not delay.left for delay in limiter.delays[1:])
    # Python 3.10 also delivers TLS data during a delay: a later delay then includes both.
    assert limiter.delays[-1].left == 0
    if how == "direct":
        assert max(limiter.charged[1:]) <= 16 * KIB


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 1000, 30 * KIB])
async def test_the_delay_of_a_small_body_precedes_the_next_request(site: Site, size: int) -> None:
    """The limit also holds for many small files: the delay at the end is not skipped."""
    limiter = Recording()
    async with site.opened(ranged(random_bytes(SIZE)), rate_limiter=limiter) as (server, client):
        for _ in range(3):
            buffer = ByteRangeBuffer(0, memoryview(bytearray(size)))
            await client.fill(f"{server.base}/f", buffer, size=SIZE)
            assert limiter.delays[-1].left == 0

    assert sum(limiter.charged) == 3 * size
    assert server.connections == 1


@pytest.mark.anyio
async def test_streams_and_sent_bodies_are_charged(site: Site) -> None:
    """One limit for both directions."""
    limiter = Recording()
    content = random_bytes(SIZE)

    async def reply(exchange: Exchange) -> None:
        await exchange.head("200 OK", f"Content-Length: {SIZE}")
        await exchange.send(content)

    async with site.opened(reply, rate_limiter=limiter) as (server, client):
        async with client.stream(f"{server.base}/f", size=SIZE) as body:
            assert not isinstance(body, Response)
            await body.readinto(memoryview(bytearray(SIZE)))
        assert sum(limiter.charged) == SIZE
        await client.request("PUT", f"{server.base}/f", body=content)
        assert sum(limiter.charged) == 2 * SIZE

    assert all(not delay.left for delay in limiter.delays)


@pytest.mark.anyio
@pytest.mark.parametrize("direction", ["down", "down, plain path", "up"])
async def test_a_new_rate_ends_delays_that_have_begun(site: Site, direction: str) -> None:
    """A transfer with a delay of hours continues at once when the limit is removed."""
    content = random_bytes(SIZE)
    limiter = RateLimiter(1.0)
    got: list[bytes] = []

    async def reply(exchange: Exchange) -> None:
        if direction == "up":
            got.append(await exchange.reader.readexactly(SIZE))
            await exchange.head("200 OK", "Content-Length: 0")
        else:
            await (ranged(content) if direction == "down" else chunked)(exchange)

    memory = bytearray(SIZE)
    buffer = ByteRangeBuffer(0, memoryview(memory))
    async with site.opened(reply, rate_limiter=limiter, reads_body=False) as (server, client):
        url = f"{server.base}/f"
        async with anyio.create_task_group() as tasks:
            if direction == "up":
                tasks.start_soon(lambda: client.request("PUT", url, body=content))
                await until(lambda: bool(server.requests))
                for _ in range(100):
                    await asyncio.sleep(0)
            else:
                ranges = direction == "down"
                tasks.start_soon(lambda: client.fill(url, buffer, size=SIZE, ranged=ranges))
                await until(lambda: buffer.filled > 0)
            assert not got
            assert buffer.filled < SIZE
            limiter.rate = None

    assert (got[0] if direction == "up" else memory) == content


@pytest.mark.anyio
async def test_a_delay_longer_than_the_read_timeout_is_not_a_stall(site: Site) -> None:
    """The timeout only counts time spent waiting for the server."""
    content = random_bytes(256 * KIB)
    size = len(content)
    limiter = RateLimiter(320 * KIB)  # 16 KiB in 50 ms
    memory = bytearray(size)
    async with site.opened(ranged(content), rate_limiter=limiter, read=0.6) as (server, client):
        limiter.charge(320 * KIB)  # another transfer has used up the next second
        await client.fill(f"{server.base}/f", ByteRangeBuffer(0, memoryview(memory)), size=size)

    assert memory == content
