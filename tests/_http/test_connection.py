"""`hftransfer._http.connection`: states, time limits and any order of events.

Most tests call the protocol as a transport would, in an event loop whose clock they move.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.connection import Connection, ConnectionState
from hftransfer._http.exchange import BufferTarget, Exchange, Request
from hftransfer._http.rcvlowat import LowWaterMark
from hftransfer._http.route import Origin
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import StalledError
from hftransfer.options import Timeouts
from support.http import MIB, open_client, partial_head, random_bytes, raw_server, until
from support.http import Exchange as ServedExchange

SIZE = 1000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test can advance."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Transport:
    """A transport that records whether the connection reads and whether it was closed."""

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


class RecordingSocket:
    """Records the low-water mark."""

    mark = 1

    def setsockopt(self, level: int, name: int, value: int) -> None:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.mark = value


class Case:
    """A connection that has sent a request for a body of `SIZE` bytes.

    Args:
        rate_limiter: of the connection.
        read: seconds of the read timeout.
        has_target: False for a request whose response is collected.
    """

    def __init__(
        self,
        rate_limiter: RateLimiter | None = None,
        *,
        read: float = 30.0,
        has_target: bool = True,
    ) -> None:
        self.memory = bytearray(SIZE)
        self.buffer = ByteRangeBuffer(0, memoryview(self.memory))
        self.transport = Transport()
        self.losses: list[Connection] = []
        self.connection = Connection(
            Origin("http", "h", 80),
            Timeouts(read=read),
            rate_limiter or RateLimiter(),
            LowWaterMark(RecordingSocket(), secure=False),
            self.losses.append,
        )
        self.connection.connection_made(cast("asyncio.Transport", self.transport))
        target = BufferTarget(self.buffer, "http://h/f", SIZE) if has_target else None
        self.exchange = Exchange(Request("GET", "http://h/f", {}, None, SIZE, target))
        self.connection.begin(b"GET", self.exchange)

    def receive(self, data: bytes) -> int:
        """Let as much of `data` arrive as the connection has memory for; return how many bytes."""
        into = self.connection.get_buffer(-1)
        count = min(len(data), len(into))
        into[:count] = data[:count]
        self.connection.buffer_updated(count)
        return count


def run(main: Coroutine[object, object, None]) -> None:
    loop = JumpingLoop()
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


async def advance(seconds: float) -> None:
    """Advance the clock; let all timers that are due run, and those that they start."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.ahead += seconds
    for _ in range(5):
        await asyncio.sleep(0)


# --- states


def test_an_exchange_passes_through_the_states() -> None:
    """From one request to the state in which the next one can be sent."""

    async def main() -> None:
        case = Case()
        states = [case.connection.state]
        for data in (HEAD[:10], HEAD[10:], bytes(SIZE - 1), bytes(1)):
            case.receive(data)
            states.append(case.connection.state)
        assert case.exchange.response.result().status == 200
        case.connection.abort()
        states.append(case.connection.state)
        assert states == [
            ConnectionState.AWAITING_HEADERS,
            ConnectionState.AWAITING_HEADERS,
            ConnectionState.RECEIVING_BODY,
            ConnectionState.RECEIVING_BODY,
            ConnectionState.IDLE,
            ConnectionState.CLOSED,
        ]

    run(main())


def test_an_idle_connection_is_closed_when_bytes_arrive() -> None:
    """No request asked for them, so the next response could not be recognised."""

    async def main() -> None:
        case = Case()
        case.receive(HEAD)
        case.receive(bytes(SIZE))
        assert case.connection.is_idle
        case.receive(b"x")
        assert case.connection.state is ConnectionState.CLOSED
        assert case.transport.closing

    run(main())


async def play(events: list[tuple[str, int]]) -> None:
    """Let events occur in this order, in one iteration of the loop, and check the invariants."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    case = Case()
    case.receive(HEAD)
    connection, response, buffer = case.connection, case.exchange.response, case.buffer
    sent = 0
    for event, number in events:
        if event == "bytes" and not case.losses:
            is_over = response.done()
            before = bytes(case.memory)
            sent += case.receive(b"\xff" * number)
            assert not is_over or case.memory == before
        elif event == "lost" and not case.losses:
            case.transport.closing = True
            connection.connection_lost(ConnectionResetError() if number % 2 else None)
        elif event == "cancel":
            response.cancel()
            connection.abort()
        elif event == "late":
            loop.ahead += number
            connection._on_timer()
        elif event == "split":
            buffer.split_off(1)

    assert len(case.losses) <= 1
    filled = min(buffer.filled, buffer.limit)
    assert case.memory[:filled] == b"\xff" * filled
    if connection.is_idle:
        assert sent == SIZE
        assert not case.transport.closing
    if response.done() and not response.cancelled() and response.exception() is None:
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
    """The end of a body, loss, silence, cancellation and a split may coincide.

    Memory is written only during the exchange, success means that the buffer is full, and the
    connection is reused only after exactly the whole body.
    """
    run(play(events))


# --- time limits


def test_a_slow_body_is_not_a_stall_and_silence_is_one() -> None:
    """Twenty bytes, each shortly before the read timeout, are accepted; then silence is not."""
    loop = JumpingLoop()
    content = random_bytes(MIB)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(MIB)))

    async def reply(exchange: ServedExchange) -> None:
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


def test_the_body_of_an_error_has_one_time_limit() -> None:
    """It is cut at the read timeout after the head, although each byte of it arrives earlier."""

    async def main() -> None:
        case = Case(read=30.0)
        case.receive(b"HTTP/1.1 500 Oh\r\nContent-Length: 100\r\n\r\n")
        states = [case.connection.state]
        for _ in range(2):
            await advance(14.0)
            case.receive(b"a")
            assert not case.exchange.response.done()
        await advance(14.0)
        response = case.exchange.response.result()
        assert (response.status, response.body) == (500, b"aa")
        states.append(case.connection.state)
        assert states == [ConnectionState.RECEIVING_ERROR_BODY, ConnectionState.CLOSED]
        assert case.transport.closing

    run(main())


def test_an_idle_connection_is_closed_after_30_seconds() -> None:
    """Before most servers close it, perhaps while the next request is on its way."""

    async def main() -> None:
        case = Case(read=10.0)
        case.receive(HEAD)
        case.receive(bytes(SIZE))
        await advance(29.0)
        assert case.connection.is_idle
        await advance(2.0)
        assert case.connection.state is ConnectionState.CLOSED
        assert case.transport.closing

    run(main())


# --- the rate limiter


def test_a_delay_of_the_rate_limiter_is_not_a_stall() -> None:
    """While the connection itself does not read, the silence is not the server's."""

    async def main() -> None:
        rate_limiter = RateLimiter(1.0, clock=asyncio.get_running_loop().time)
        case = Case(rate_limiter, read=5.0)
        case.receive(HEAD)
        case.receive(bytes(100))  # a delay of 100 seconds
        for _ in range(19):
            await advance(5.0)
            assert not case.exchange.response.done()
            assert not case.transport.reading
        rate_limiter.rate = None  # ends the delay; now the server is silent
        await advance(1.0)
        assert case.transport.reading
        await advance(6.0)
        await advance(6.0)
        assert isinstance(case.exchange.response.exception(), StalledError)

    run(main())


def test_bytes_that_arrive_in_a_delay_lengthen_it() -> None:
    """Python 3.10's TLS delivers what it has decrypted although reading is paused."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        case = Case(RateLimiter(100.0, clock=loop.time))
        case.receive(HEAD)
        start = loop.time()
        for _ in range(3):
            case.receive(bytes(100))
        while not case.transport.reading:
            await advance(0.1)
        assert loop.time() - start > 2.9
        case.connection.abort()

    run(main())


def test_bytes_that_are_not_counted_cause_no_delay() -> None:
    """The rate limiter counts the bytes that go into a target, and this request has none."""

    async def main() -> None:
        rate_limiter = RateLimiter(1.0)
        rate_limiter.charge(1000)  # another transfer has used up the next seconds
        case = Case(rate_limiter, has_target=False)
        case.receive(HEAD)
        case.receive(bytes(100))
        assert case.transport.reading
        assert case.exchange.pending_delay is None
        case.connection.abort()

    run(main())


def test_the_last_bytes_leave_a_connection_that_reads() -> None:
    """The caller waits for their delay, so that the pool notices when the server closes."""

    async def main() -> None:
        case = Case(RateLimiter(100.0))
        case.receive(HEAD)
        for _ in range(2):
            case.receive(bytes(SIZE // 2))
        assert case.exchange.response.done()
        assert case.exchange.pending_delay is not None
        assert case.exchange.pending_delay.next_sleep() > 0
        assert case.transport.reading
        assert case.connection.is_idle
        case.connection.abort()

    run(main())


# --- servers that send by drops


async def drip(case: Case, data: bytes, *, seconds: float) -> int:
    """Let one byte arrive every `seconds` until the exchange ends; return how many arrived."""
    for count in range(len(data)):
        if case.exchange.response.done():
            return count
        case.receive(data[count : count + 1])
        await advance(seconds)
    return len(data)


def test_a_head_that_arrives_byte_by_byte_is_a_stall() -> None:
    """The head has to be complete a read timeout after its first byte."""

    async def main() -> None:
        case = Case(read=30.0)
        count = await drip(case, b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000, seconds=1.0)
        assert count <= 40
        error = case.exchange.response.exception()
        assert isinstance(error, StalledError)
        assert "did not end it in time" in str(error)

    run(main())


def test_interim_responses_end() -> None:
    """A server can delay its response by some of them, not forever."""

    async def main() -> None:
        case = Case(read=30.0)
        interim = b"HTTP/1.1 102 Processing\r\n\r\n"
        for _ in range(3):
            case.receive(interim)
            await advance(20.0)
        assert not case.exchange.response.done()
        for _ in range(20):
            if not case.exchange.response.done():
                case.receive(interim)
        assert "interim" in str(case.exchange.response.exception())

    run(main())


@pytest.mark.parametrize("part", ["X-Trailer: " + "x" * 900, "a;" + "e" * 900])
def test_the_framing_of_chunks_is_no_progress(part: str) -> None:
    """Trailers and extensions of chunks, byte by byte."""

    async def main() -> None:
        case = Case(read=30.0)
        case.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        case.receive(b"1\r\na\r\n" + (b"0\r\n" if part.startswith("X") else b""))
        assert await drip(case, part.encode(), seconds=1.0) <= 40
        assert isinstance(case.exchange.response.exception(), StalledError)

    run(main())


def test_a_control_response_that_arrives_byte_by_byte_ends() -> None:
    """After twenty read timeouts; at 1 KiB/s it may go on, as may the space that S3 sends."""

    async def main() -> None:
        case = Case(read=2.0, has_target=False)
        case.receive(HEAD)
        count = await drip(case, bytes(SIZE - 1), seconds=1.0)
        assert 35 <= count <= 50
        assert "did not end it in time" in str(case.exchange.response.exception())

    run(main())


def test_the_body_of_an_error_is_cut_after_the_read_timeout() -> None:
    """Also that of a control request; the error keeps what has arrived."""

    async def main() -> None:
        case = Case(read=5.0, has_target=False)
        case.receive(HEAD.replace(b"200 OK", b"503 Busy"))
        assert await drip(case, b"because" + bytes(900), seconds=1.0) <= 12
        assert case.exchange.response.result().status == 503
        assert case.exchange.response.result().body.startswith(b"becau")

    run(main())
