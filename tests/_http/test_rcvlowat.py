"""`hftransfer._http.rcvlowat`: fast bodies cause few wake-ups, and no byte is left in a socket."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.rcvlowat import LowWaterMark
from support.http import KIB, MIB, Exchange, Site, partial_head, random_bytes, until

MAX_MARK = 512 * KIB
MAX_MARK_TLS = 256 * KIB
# Bytes that asyncio's TLS may have read from a socket and not have delivered.
HELD_BY_TLS = 34 * KIB


class RecordingSocket:
    """Records every mark that is set."""

    def __init__(self) -> None:
        self.marks = [1]

    def setsockopt(self, level: int, name: int, value: int) -> None:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.marks.append(value)


@given(
    events=st.lists(
        st.tuples(st.integers(1, 4 * MIB), st.floats(0.0, 10.0), st.integers(1, 16 * MIB)),
        min_size=1,
    ),
    secure=st.booleans(),
)
def test_a_mark_is_never_above_the_missing_bytes(
    events: list[tuple[int, float, int]], secure: bool
) -> None:
    """Otherwise the end of a body would stay in the socket without a wake-up."""
    recorder = RecordingSocket()
    low_water = LowWaterMark(recorder, secure=secure)
    for received, seconds, left in events:
        before = low_water.is_raised
        was_raised_now = low_water.adjust(received, seconds, left)
        mark = recorder.marks[-1]
        assert mark == 1 or mark <= left - (HELD_BY_TLS if secure else 0)
        assert 1 <= mark <= (MAX_MARK_TLS if secure else MAX_MARK)
        assert low_water.is_raised == (mark > 1)
        assert was_raised_now == (low_water.is_raised and not before)
    low_water.reset()
    assert recorder.marks[-1] == 1
    assert not low_water.is_raised


@pytest.mark.parametrize(
    ("rate", "mark"),
    [(10 * KIB, 1), (MIB, 1), (8 * MIB, 64 * KIB), (30 * MIB, 256 * KIB), (1000 * MIB, MAX_MARK)],
)
def test_bytes_wait_for_ten_milliseconds(rate: int, mark: int) -> None:
    """Whatever the size of the pieces; on a slow connection each piece wakes the loop."""
    for seconds in (0.001, 0.01, 0.1):
        recorder = RecordingSocket()
        LowWaterMark(recorder, secure=False).adjust(int(rate * seconds), seconds, 100 * MIB)
        assert recorder.marks[-1] == mark


def test_a_steady_connection_costs_no_system_calls() -> None:
    """The mark follows the order of magnitude, not each measurement."""
    recorder = RecordingSocket()
    low_water = LowWaterMark(recorder, secure=False)
    for piece in (600, 700, 650, 900, 612, 520):
        low_water.adjust(piece * KIB, 0.005, 100 * MIB)
    assert recorder.marks == [1, MAX_MARK]


def test_a_closed_socket_is_no_error() -> None:
    """Its connection reports that by itself."""
    closed = socket.socket()
    closed.close()
    LowWaterMark(closed, secure=False).adjust(MIB, 0.001, 2 * MIB)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_single_bytes_after_many_are_received(site: Site) -> None:
    """A byte after megabytes is received although no other one follows, and then the next one."""
    size = 9 * MIB
    content = random_bytes(size)
    buffer = ByteRangeBuffer(0, memoryview(bytearray(size)))
    position = 8 * MIB

    async def reply(exchange: Exchange) -> None:
        nonlocal position
        await partial_head(exchange, 0, size, size)
        await exchange.send(content[:position])
        for _ in range(2):
            await until(lambda: buffer.filled == position)  # noqa: B023 - awaited here
            await exchange.send(content[position : position + 1])
            position += 1
        await until(lambda: buffer.filled == position)
        await exchange.send(content[position:])

    async with site.opened(reply) as (server, client):
        await client.fill(f"{server.base}/f", buffer, size=size)

    assert buffer.memory == content
