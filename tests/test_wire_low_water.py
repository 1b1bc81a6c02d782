"""`hftransfer._wire_low_water`: bytes gather in the socket while they come quickly."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer import _wire, _wire_low_water, _wire_receive
from hftransfer._spans import Span
from hftransfer._wire_low_water import LowWater
from wire_support import (
    KIB,
    LOOPS,
    MIB,
    QUIET,
    Exchange,
    Site,
    partial_head,
    random_bytes,
    ranged,
    until,
)

pytestmark = [
    *QUIET,
    pytest.mark.skipif(not hasattr(socket, "SO_RCVLOWAT"), reason="no low-water marks here"),
]

BODY = 3 * MIB


class RecordingSocket:
    """Keeps the marks that it is given."""

    def __init__(self) -> None:
        self.marks: list[int] = []

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.marks.append(value)


class Transport(asyncio.BaseTransport):
    def __init__(self, **extra: Any) -> None:
        super().__init__(extra)


steps = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 4 * MIB)), min_size=1, max_size=30)


@given(steps=steps, is_tls=st.booleans(), surplus=st.integers(0, MIB))
def test_never_more_is_waited_for_than_comes(
    steps: list[tuple[float, int]], is_tls: bool, surplus: int
) -> None:
    """A mark is at most what is still to come through the socket, and nothing once dropped."""
    own = RecordingSocket()
    water = LowWater(Transport(socket=own, ssl_object=object() if is_tls else None), 0.0)
    now, left = 0.0, sum(count for _, count in steps) + surplus
    held = 16 * KIB if is_tls else 0  # one record
    for elapsed, count in steps:
        now += elapsed
        left -= count
        water.follow(now, count, left)
        mark = own.marks[-1] if own.marks else 1
        assert mark == 1 or 32 * KIB <= mark <= min(256 * KIB, left - held)
    water.drop()
    water.follow(now, MIB, MIB)
    assert not own.marks or own.marks[-1] == 1


def test_the_mark_is_what_comes_in_five_milliseconds() -> None:
    """At 20 MB/s it is 64 KiB, at 5 MB/s there is none, and a steady rate sets it once."""
    own = RecordingSocket()
    water = LowWater(Transport(socket=own), 0.0)
    for second in range(1, 10):
        water.follow(second, 20_000_000, 1 << 30)
    assert own.marks == [64 * KIB]
    water = LowWater(Transport(socket=own), 0.0)
    water.follow(1.0, 5_000_000, 1 << 30)
    assert own.marks == [64 * KIB]


@pytest.mark.parametrize("extra", [{}, {"socket": object()}])
def test_a_transport_without_marks_is_left_alone(extra: dict[str, object]) -> None:
    water = LowWater(Transport(**extra), 0.0)
    water.follow(0.1, MIB, MIB)
    water.drop()


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The marks of all sockets, of which every quick or slow body gets one."""
    seen: list[int] = []
    real = LowWater._set

    def recorded(self: LowWater, mark: int) -> None:
        if mark != self._mark:
            seen.append(mark)
        real(self, mark)

    monkeypatch.setattr(_wire_low_water, "_GATHER", 1000.0)
    monkeypatch.setattr(LowWater, "_set", recorded)
    return seen


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_a_connection_goes_back_without_a_mark(
    site: Site, marks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a body with a mark, a short answer on the same connection is heard at once."""
    content = random_bytes(BODY)
    buffer = bytearray(BODY)
    monkeypatch.setattr(_wire, "_SMALL_BODY", 0)  # small bodies have connections of their own
    async with site.opened(ranged(content)) as (server, wire):
        for size in (BODY, 10, BODY):
            await wire.fill(f"{server.base}/f", Span(0, memoryview(buffer)[:size]), size=BODY)
            assert marks[-1] == 1

    assert max(marks) == 256 * KIB
    assert buffer == content
    assert server.connections == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_bytes_that_trickle_in_are_no_stall(
    site: Site, marks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that becomes slow is heard byte by byte, before it is taken for a silent one."""
    monkeypatch.setattr(_wire_receive, "_SLOW", 0.05)
    content = random_bytes(BODY)
    span = Span(0, memoryview(bytearray(BODY)))

    async def arrival(count: int) -> None:
        await until(lambda: span.filled == count)

    async def reply(exchange: Exchange) -> None:
        await partial_head(exchange, 0, BODY, BODY)
        await exchange.send(content[: BODY // 2])
        for sent in range(BODY // 2, BODY // 2 + 5):
            await arrival(sent)
            await exchange.send(content[sent : sent + 1])
        await exchange.send(content[BODY // 2 + 5 :])

    async with site.opened(reply) as (server, wire):
        await wire.fill(f"{server.base}/f", span, size=BODY)

    assert span.buffer == content
    assert max(marks) == 256 * KIB
