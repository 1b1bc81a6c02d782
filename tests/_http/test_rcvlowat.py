"""`hftransfer._http.rcvlowat`: fast bodies wake nobody for little, and nothing is left lying."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.rcvlowat import LowWaterMark
from support.http import KIB, MIB, Exchange, Site, partial_head, random_bytes, until

MOST = 512 * KIB
MOST_TLS = 256 * KIB
RECORDS = 34 * KIB  # so much asyncio may have taken from a socket and not have told of


class Marks:
    """Keeps every mark that was set."""

    def __init__(self) -> None:
        self.all = [1]

    def setsockopt(self, level: int, name: int, value: int) -> None:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.all.append(value)


@given(
    events=st.lists(
        st.tuples(st.integers(1, 4 * MIB), st.floats(0.0, 10.0), st.integers(1, 16 * MIB))
    ),
    secure=st.booleans(),
)
def test_a_mark_is_never_above_what_is_still_to_come(
    events: list[tuple[int, float, int]], secure: bool
) -> None:
    """Else the end of a body would lie in the socket and nobody be told."""
    marks = Marks()
    water = LowWaterMark(marks, secure=secure)
    for arrived, seconds, left in events:
        before = water.is_raised
        began = water.adjust(arrived, seconds, left)
        mark = marks.all[-1]
        assert mark == 1 or mark <= left - (RECORDS if secure else 0)
        assert 1 <= mark <= (MOST_TLS if secure else MOST)
        assert water.is_raised == (mark > 1)
        assert began == (water.is_raised and not before)
    water.reset()
    assert marks.all[-1] == 1
    assert not water.is_raised


@pytest.mark.parametrize(
    ("rate", "mark"),
    [(10 * KIB, 1), (MIB, 1), (8 * MIB, 64 * KIB), (30 * MIB, 256 * KIB), (1000 * MIB, MOST)],
)
def test_bytes_lie_there_for_ten_milliseconds(rate: int, mark: int) -> None:
    """Whatever the size of the pieces; on a slow connection each piece is told of."""
    for seconds in (0.001, 0.01, 0.1):
        marks = Marks()
        LowWaterMark(marks, secure=False).adjust(int(rate * seconds), seconds, 100 * MIB)
        assert marks.all[-1] == mark


def test_a_steady_connection_costs_no_system_calls() -> None:
    """The mark follows the order of magnitude, not each measurement."""
    marks = Marks()
    water = LowWaterMark(marks, secure=False)
    for piece in (600, 700, 650, 900, 612, 520):
        water.adjust(piece * KIB, 0.005, 100 * MIB)
    assert marks.all == [1, MOST]


def test_a_closed_socket_is_no_error() -> None:
    """Its connection finds that out by itself."""
    closed = socket.socket()
    closed.close()
    LowWaterMark(closed, secure=False).adjust(MIB, 0.001, 2 * MIB)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})], ids=["asyncio"])
async def test_what_comes_slowly_after_much_is_told_of(site: Site) -> None:
    """A byte behind megabytes is taken although no other one follows, and then the next one."""
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

    assert buffer.buffer == content
