"""The protocol that borrows a transport: every order of events, and a clock that jumps."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._spans import Span
from hftransfer._throttle import Throttle
from hftransfer._wire_receive import StallTimeout, _Lease, _Receiver
from hftransfer.errors import StalledError
from wire_support import (
    KIB,
    MIB,
    Exchange,
    open_wire,
    partial_head,
    random_bytes,
    raw_server,
    until,
)

SIZE = 1000


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock a test can put forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Owner(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost: list[Exception | None] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Transport:
    """Keeps what was asked of it, as strictly as real ones do."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default  # no socket lies under it

    def abort(self) -> None:
        self.closing = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def play(events: list[tuple[str, int]]) -> None:
    """Let events come in this order, in one round of the loop, and check what must hold."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    buffer = bytearray(SIZE)
    span = Span(0, memoryview(buffer))
    owner = Owner()
    transport = Transport(owner)
    lease = _Lease(cast("asyncio.Transport", transport), owner)
    receiver = _Receiver(lease, span, SIZE, Throttle(), 30.0)
    receiver.attach()
    sent = losses = 0
    for event, number in events:
        if event == "bytes" and not losses:
            into = receiver.get_buffer(-1)
            count = min(number, len(into))
            is_over = receiver.finished.done()
            before = bytes(buffer)
            into[:count] = b"\xff" * count
            receiver.buffer_updated(count)
            sent += count
            assert not is_over or bytes(buffer) == before
        elif event == "lost" and not losses:
            losses += 1
            transport.closing = True
            receiver.connection_lost(ConnectionResetError() if number % 2 else None)
        elif event == "cancel":
            receiver.finished.cancel()
        elif event == "late":
            loop.ahead += number
            receiver._watch()
        elif event == "split":
            span.split(1)
    receiver.detach()

    assert owner.lost == owner.lost[:1]
    assert len(owner.lost) == losses
    assert buffer == b"\xff" * span.filled + bytes(SIZE - span.filled) or not receiver.is_clean
    if receiver.is_clean:
        assert sent == SIZE
        assert transport.protocol is owner
        await receiver.finished
    else:
        assert transport.closing
        assert receiver.finished.done()


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["bytes", "bytes", "bytes", "lost", "cancel", "late", "split"]),
            st.integers(1, SIZE),
        ),
        max_size=12,
    )
)
def test_no_order_of_events_breaks_a_receiver(events: list[tuple[str, int]]) -> None:
    """End, loss, silence, cancellation and a split may coincide.

    The owner learns of a loss once, memory is written only while it is wanted, and the
    transport goes back only behind exactly the whole body.
    """
    loop = JumpingLoop()
    try:
        loop.run_until_complete(play(events))
    finally:
        loop.close()


def test_a_trickle_is_not_a_stall_and_silence_is_one() -> None:
    """Twenty bytes, each just before time is up, are fine; then the time limit passes."""
    loop = JumpingLoop()
    content = random_bytes(MIB)
    span = Span(0, memoryview(bytearray(MIB)))

    async def reply(exchange: Exchange) -> None:
        await partial_head(exchange, 0, MIB, MIB)
        for number in range(20):
            await exchange.send(content[number : number + 1])
            await until(lambda: span.filled > number)  # noqa: B023 - awaited here
            loop.ahead += 25.0
        loop.ahead += 10.0
        await exchange.reader.read()

    async def main() -> None:
        async with raw_server(reply) as server, open_wire(read=30.0) as wire:
            with pytest.raises(StalledError):
                await wire.fill(f"{server.base}/f", span, size=MIB)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert span.filled == 20


def test_a_pause_for_the_cap_is_not_a_stall() -> None:
    """While the receiver itself does not read, silence is not the server's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        transport = Transport(Owner())
        lease = _Lease(cast("asyncio.Transport", transport), Owner())
        throttle = Throttle(1.0, clock=loop.time)
        receiver = _Receiver(lease, Span(0, memoryview(bytearray(SIZE))), SIZE, throttle, 5.0)
        receiver.attach()
        receiver.get_buffer(-1)
        receiver.buffer_updated(100)  # owes 100 seconds
        for _ in range(19):
            loop.ahead += 5.0
            await turns(loop)
            assert not receiver.finished.done()
        throttle.rate = None  # the pause is over, and now the server is silent
        loop.ahead += 1.0
        await turns(loop)
        loop.ahead += 6.0
        await turns(loop)
        assert isinstance(receiver.finished.exception(), StallTimeout)
        receiver.detach()

    loop = JumpingLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


async def turns(loop: Any) -> None:
    """Let all timers that are due run, and those that they start."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_bytes_that_come_in_a_pause_lengthen_it() -> None:
    """Python 3.10's TLS delivers what it has decrypted even when it was told to pause."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        resumed: list[float] = []
        transport = Transport(Owner())
        lease = _Lease(cast("asyncio.Transport", transport), Owner())
        receiver = _Receiver(
            lease, Span(0, memoryview(bytearray(KIB))), KIB, Throttle(100.0, clock=loop.time), 60.0
        )
        receiver.attach()
        transport.resume_reading = lambda: resumed.append(loop.time())  # type: ignore[method-assign]
        start = loop.time()
        for _ in range(3):
            receiver.get_buffer(-1)
            receiver.buffer_updated(100)
        while not resumed:
            loop.ahead += 0.1
            await turns(loop)
        assert resumed[0] - start > 2.9
        receiver.detach()

    loop = JumpingLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
