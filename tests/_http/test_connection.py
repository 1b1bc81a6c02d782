"""`hftransfer._http.connection`: every order of events, and a clock that jumps."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.connection import Connection
from hftransfer._http.exchange import BufferTarget, Exchange, Request
from hftransfer._http.rcvlowat import LowWaterMark
from hftransfer._http.route import Origin
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import StalledError
from hftransfer.options import Timeouts
from support.http import MIB, open_client, partial_head, random_bytes, raw_server, until
from support.http import Exchange as Served

SIZE = 1000


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock a test can put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Transport:
    """Keeps what was asked of it."""

    def __init__(self) -> None:
        self.closing = False
        self.reading = True

    def write(self, data: bytes) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    close = abort

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class MarkedSocket:
    """Keeps for how many bytes it would wake anybody."""

    mark = 1

    def setsockopt(self, level: int, name: int, value: int) -> None:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.mark = value


class Case:
    """A connection over which the head of a body of `SIZE` bytes has come."""

    def __init__(self, throttle: RateLimiter, read: float = 30.0) -> None:
        self.memory = bytearray(SIZE)
        self.buffer = ByteRangeBuffer(0, memoryview(self.memory))
        self.transport = Transport()
        self.losses: list[Connection] = []
        self.socket = MarkedSocket()
        self.connection = Connection(
            Origin("http", "h", 80),
            Timeouts(read=read),
            throttle,
            LowWaterMark(self.socket, secure=False),
            self.losses.append,
        )
        self.connection.connection_made(cast("asyncio.Transport", self.transport))
        target = BufferTarget(self.buffer, "http://h/f", SIZE)
        self.exchange = Exchange(Request("GET", "http://h/f", {}, None, 0, target))
        self.connection.begin(b"GET", self.exchange)
        self.receive(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)

    def receive(self, data: bytes) -> int:
        """Let as much of `data` arrive as is asked for; return how many bytes."""
        into = self.connection.get_buffer(-1)
        count = min(len(data), len(into))
        into[:count] = data[:count]
        self.connection.buffer_updated(count)
        return count


async def play(events: list[tuple[str, int]]) -> None:
    """Let events come in this order, in one round of the loop, and check what must hold."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    case = Case(RateLimiter())
    connection, exchange, buffer = case.connection, case.exchange, case.buffer
    sent = 0
    for event, number in events:
        if event == "bytes" and not case.losses:
            is_over = exchange.response.done()
            before = bytes(case.memory)
            sent += case.receive(b"\xff" * number)
            assert not is_over or case.memory == before
        elif event == "lost" and not case.losses:
            case.transport.closing = True
            connection.connection_lost(ConnectionResetError() if number % 2 else None)
        elif event == "cancel":
            exchange.response.cancel()
            connection.abort()
        elif event == "late":
            loop.ahead += number
            connection._on_timer()
        elif event == "split":
            buffer.split(1)

    assert len(case.losses) <= 1
    filled = min(buffer.filled, buffer.limit)
    assert case.memory[:filled] == b"\xff" * filled
    if connection.is_idle:
        assert sent == SIZE
        assert not case.transport.closing
    done = exchange.response
    if done.done() and not done.cancelled() and done.exception() is None:
        assert buffer.missing == 0
    connection.abort()


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["bytes", "bytes", "bytes", "lost", "cancel", "late", "split"]),
            st.integers(1, SIZE),
        ),
        max_size=12,
    )
)
def test_no_order_of_events_breaks_an_exchange(events: list[tuple[str, int]]) -> None:
    """End, loss, silence, cancellation and a split may coincide.

    Memory is written only while it is wanted, success means that the buffer is full, and the
    connection is used again only behind exactly the whole body.
    """
    _run(play(events))


def test_a_trickle_is_not_a_stall_and_silence_is_one() -> None:
    """Twenty bytes, each just before time is up, are fine; then the time limit passes."""
    loop = JumpingLoop()
    content = random_bytes(MIB)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(MIB)))

    async def reply(exchange: Served) -> None:
        await partial_head(exchange, 0, MIB, MIB)
        for number in range(20):
            await exchange.send(content[number : number + 1])
            await until(lambda: buffer.filled > number)  # noqa: B023 - awaited here
            loop.ahead += 25.0
        loop.ahead += 10.0
        await exchange.reader.read()

    async def main() -> None:
        async with raw_server(reply) as server, open_client(read=30.0) as client:
            with pytest.raises(StalledError):
                await client.fill(f"{server.base}/f", buffer, size=MIB)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert buffer.filled == 20


def test_a_pause_for_the_cap_is_not_a_stall() -> None:
    """While the connection itself does not read, silence is not the server's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        throttle = RateLimiter(1.0, clock=loop.time)
        case = Case(throttle, read=5.0)
        case.receive(bytes(100))  # owes 100 seconds
        for _ in range(19):
            loop.ahead += 5.0
            await turns()
            assert not case.exchange.response.done()
            assert not case.transport.reading
        throttle.rate = None  # the pause is over, and now the server is silent
        loop.ahead += 1.0
        await turns()
        assert case.transport.reading
        loop.ahead += 6.0
        await turns()
        loop.ahead += 6.0
        await turns()
        assert isinstance(case.exchange.response.exception(), StalledError)

    _run(main())


async def turns() -> None:
    """Let all timers that are due run, and those that they start."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_bytes_that_come_in_a_pause_lengthen_it() -> None:
    """Python 3.10's TLS delivers what it has decrypted even when it was told to pause."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        case = Case(RateLimiter(100.0, clock=loop.time))
        start = loop.time()
        for _ in range(3):
            case.receive(bytes(100))
        while not case.transport.reading:
            loop.ahead += 0.1
            await turns()
        assert loop.time() - start > 2.9
        case.connection.abort()

    _run(main())


def test_the_last_bytes_leave_a_connection_that_reads() -> None:
    """What they cost is waited for by whoever asked, so that a closed connection is noticed."""

    async def main() -> None:
        case = Case(RateLimiter(100.0))
        for _ in range(2):
            case.receive(bytes(SIZE // 2))
        assert case.exchange.response.done()
        assert case.exchange.pending_delay is not None
        assert case.exchange.pending_delay.step() > 0
        assert case.transport.reading
        assert case.connection.is_idle
        case.connection.abort()

    _run(main())


def _run(main: Any) -> None:
    loop = JumpingLoop()
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()
