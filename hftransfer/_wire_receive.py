"""Receiving a body straight into the memory where it is wanted.

aiohttp parses the head of an answer. For a body of known length the transport is then
lent to a `_Receiver`, a `BufferedProtocol` that hands out the span's own memory: the
kernel, or OpenSSL, writes into it and no `bytes` object is made. With the last byte the
transport goes back to aiohttp's own protocol, the payload is marked as ended, and the
connection returns to its pool as if aiohttp had read the body.

Only public names of aiohttp are used. An answer whose body has no known length or is
encoded, or a transport that does not play along, is read through aiohttp's stream
instead, with the same result.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import aiohttp
import anyio

from hftransfer._spans import Span
from hftransfer._throttle import Pause, Throttle
from hftransfer.errors import NetworkError

__all__ = ("StallTimeout", "receive")


class StallTimeout(TimeoutError):  # noqa: N818 - a kind of timeout, and named like one
    """Nothing arrived for too long."""


class _Lease(NamedTuple):
    """A transport that can be lent, and the protocol that it is to be given back to."""

    transport: asyncio.Transport
    owner: asyncio.Protocol


async def receive(
    answer: aiohttp.ClientResponse, span: Span, stop: int, *, throttle: Throttle, timeout: float
) -> None:
    """Fill what is missing of `span` with the body of `answer`.

    Returns early, and has the connection closed, if the span is made shorter meanwhile.

    Args:
        answer: its head was read; its body begins with what is missing of `span`.
        span: keeps what has arrived, also if this fails.
        stop: where the body ends in the file: where the span ended when this was asked for.
        throttle: paid for every byte.
        timeout: seconds without a byte after which to give up.

    Raises:
        StallTimeout: if nothing arrived for `timeout` seconds.
        NetworkError: if more arrives than was announced.
        aiohttp.ClientError: if the connection breaks.
        EOFError: if the body ends early.
    """
    content = answer.content
    # Of another length than is expected, the end of the body is aiohttp's to find.
    is_known = answer.content_length == stop - span.position
    arrived = 0  # together with the head
    while span.position < stop and (data := content.read_nowait()):
        _take(span, data, stop)
        arrived += len(data)
    debt = throttle.owe(arrived)
    lease = _lease(answer) if is_known and span.position < stop else None
    if lease is None:
        await debt.wait()
        await _read_through(answer, span, stop, throttle, timeout)
        return
    receiver = _Receiver(lease, span, stop - span.position, throttle, timeout)
    try:
        receiver.attach()
        await receiver.finished
        # What follows the body, and is here already, comes within one round of the loop.
        await asyncio.sleep(0)
    finally:
        receiver.detach()
    if receiver.is_clean:
        content.feed_eof()
    else:
        answer.close()
    if receiver.debt is not None:
        await receiver.debt.wait()


def _take(span: Span, data: bytes, stop: int) -> None:
    """Copy `data` into `span`, as much of it as is still wanted."""
    if len(data) > stop - span.position:
        raise NetworkError("more bytes arrived than were announced")
    span.put(data[: span.left])


def _lease(answer: aiohttp.ClientResponse) -> _Lease | None:
    """Return the transport of `answer` if all is as it must be for lending it, else None."""
    if "Content-Encoding" in answer.headers or "Transfer-Encoding" in answer.headers:
        return None
    connection = getattr(answer, "connection", None)
    transport = getattr(connection, "transport", None)
    owner = getattr(connection, "protocol", None)
    if not isinstance(owner, asyncio.Protocol) or transport is None:
        return None
    try:
        usable = (
            not answer.content.is_eof()
            and answer.content.exception() is None
            and transport.get_protocol() is owner
            # aiohttp holds back what it has received and not parsed only while it is paused.
            and transport.is_reading()
            and hasattr(transport, "set_protocol")
        )
    except (AttributeError, NotImplementedError, RuntimeError):
        return None  # it cannot be lent, or was closed: aiohttp says so, if so
    return _Lease(transport, owner) if usable else None


async def _read_through(
    answer: aiohttp.ClientResponse, span: Span, stop: int, throttle: Throttle, timeout: float
) -> None:
    """Fill `span` from aiohttp's own stream: one more copy, for any kind of body."""
    while True:
        with anyio.move_on_after(timeout) as waiting:
            data = await answer.content.readany()
        if waiting.cancelled_caught:
            raise StallTimeout
        if not data:
            break
        _take(span, data, stop)
        if not span.left and span.stop < stop:
            answer.close()  # it was made shorter meanwhile
            return
        await throttle.pay(len(data))
    if span.left:
        raise EOFError


class _Receiver(asyncio.BufferedProtocol):
    """Holds a transport for the length of one body.

    Args:
        lease: what was borrowed.
        span: where the bytes go.
        left: bytes of the body that are still to come.
        throttle: paid for every byte.
        timeout: seconds without a byte after which to give up.
    """

    def __init__(
        self, lease: _Lease, span: Span, left: int, throttle: Throttle, timeout: float
    ) -> None:
        self._transport, self._owner = lease
        self._span = span
        self._left = left
        self._throttle = throttle
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._resuming: asyncio.TimerHandle | None = None
        self._last = 0.0
        # Where bytes go that nobody asked for: an empty buffer is an error in every loop.
        self._surplus = bytearray(4096)
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self.is_clean = False
        """True once the body was read to its last byte, and nothing came after it."""
        self.debt: Pause | None = None
        """The pause that the last bytes cost."""

    def attach(self) -> None:
        """Borrow the transport."""
        self._last = self._loop.time()
        self._timer = self._loop.call_at(self._last + self._timeout, self._watch)
        self._pass_to(self)

    def detach(self) -> None:
        """Give the transport back; a body that is not at its end costs the connection."""
        for handle in (self._timer, self._resuming):
            if handle is not None:
                handle.cancel()
        if not self.finished.done():
            self.finished.cancel()
        elif not self.finished.cancelled():
            self.finished.exception()  # seen, also where a cancellation came first
        if not self.is_clean:
            # It stays ours until it is closed, and its owner learns of that from us.
            self._transport.abort()
            return
        try:
            self._pass_to(self._owner)
        except (AttributeError, RuntimeError):
            pass  # it was closed meanwhile, which its owner learns from us, too

    def _pass_to(self, protocol: asyncio.BaseProtocol) -> None:
        # uvloop takes notice of another kind of protocol only when it starts to read.
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.finished.done():
            return memoryview(self._surplus)  # the span may be another's by now
        rest = self._span.rest[: self._left]
        if piece := self._throttle.piece:
            rest = rest[:piece]
        return rest if rest else memoryview(self._surplus)

    def buffer_updated(self, nbytes: int) -> None:
        if self.finished.done():
            self.is_clean = False
            return
        self._last = self._loop.time()
        span = self._span
        if not span.left:
            # It was made shorter while this was on its way; the rest is another's.
            self._end(None, clean=False)
            return
        span.advance(nbytes)
        self._left -= nbytes
        pause = self._throttle.owe(nbytes)
        if self._left <= 0 or not span.left:
            self.debt = pause
            self._end(None, clean=self._left == 0)
        elif step := pause.step():
            self._transport.pause_reading()
            if self._resuming is not None:
                self._resuming.cancel()  # what was decrypted before arrives in a pause, too
            self._resuming = self._loop.call_later(step, self._resume, pause)

    def eof_received(self) -> None:
        return None  # the transport closes itself, and `connection_lost` follows

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.finished.done():
            self._end(exc or EOFError(), clean=False)
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()

    def _resume(self, pause: Pause) -> None:
        self._resuming = None
        if self.finished.done() or self._transport.is_closing():
            return
        if step := pause.step():
            self._resuming = self._loop.call_later(step, self._resume, pause)
            return
        self._last = self._loop.time()
        try:
            self._transport.resume_reading()
        except (AttributeError, RuntimeError):
            pass  # it was lost in the pause, and `connection_lost` is on its way

    def _watch(self) -> None:
        """Give up if nothing has arrived for too long; a pause of our own does not count."""
        if self.finished.done():
            return
        idle = 0.0 if self._resuming is not None else self._loop.time() - self._last
        if idle >= self._timeout:
            self._end(StallTimeout(), clean=False)
            return
        self._timer = self._loop.call_later(self._timeout - idle, self._watch)

    def _end(self, error: Exception | None, *, clean: bool) -> None:
        self.is_clean = clean
        if error is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(error)
