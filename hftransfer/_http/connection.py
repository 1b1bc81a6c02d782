"""One connection of HTTP/1.1: an asyncio protocol with one exchange at a time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from hftransfer._http.errors import no_http, silent
from hftransfer._http.exchange import Exchange, Origin, StaleError, broken
from hftransfer._http.parser import MalformedResponseError, parse_head
from hftransfer._http.rcvlowat import LowWaterMark
from hftransfer._http.request_body import RequestBodySender
from hftransfer._http.response_body import Progress, ResponseBody
from hftransfer._io.file_range import BodyRange
from hftransfer._io.rate_limit import Pause, RateLimiter
from hftransfer.errors import NetworkError, Response, TransferError, redact
from hftransfer.options import Timeouts

__all__ = ("Connection",)

# An idle connection is closed after so many seconds, before most servers do it.
_KEEP = 30.0
_INBOX = 64 * 1024
# Seconds for which bytes may lie there while it is waited for more of them.
_LOOK = 0.25


class Connection(asyncio.BufferedProtocol):
    """One connection: idle, or with an exchange under way.

    Args:
        origin: the other end.
        timeouts: limits on waiting.
        throttle: paid for every byte that goes into a span, or that `send` sends.
        low_water: of its socket.
        on_lost: called when it has ended.
    """

    def __init__(
        self,
        origin: Origin,
        timeouts: Timeouts,
        throttle: RateLimiter,
        low_water: LowWaterMark,
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.origin = origin
        self.is_usable = False
        """True while it is idle and the next request can be sent."""
        self._timeouts = timeouts
        self._throttle = throttle
        self._low_water = low_water
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()
        self._inbox = memoryview(bytearray(_INBOX))
        self._transport: asyncio.Transport
        self._is_told_sizes = False
        """True if the `sizehint` of `get_buffer` is the exact number of bytes that follow."""
        self._timer: asyncio.TimerHandle | None = None
        self._resuming: asyncio.TimerHandle | None = None
        """Set in a pause, in which nothing is read."""
        self._sender: RequestBodySender | None = None
        self._exchange: Exchange | None = None
        self._last = 0.0
        """When something last moved."""
        self._unsent = 0
        self._reset()

    def _reset(self) -> None:
        self._held = 0
        """Bytes in the inbox that belong to a head that is not complete."""
        self._body: ResponseBody | None = None
        """Of the answer, once its head was read."""
        self._body_at = 0.0
        """When its head was read."""
        self._paid = 0
        """Bytes of it that the throttle has counted."""

    # --- for `ConnectionPool`

    def begin(self, request: bytes, exchange: Exchange) -> None:
        """Send `request`; `exchange.done` tells the answer."""
        self._exchange = exchange
        self.is_usable = False
        self._last = self._loop.time()
        self._transport.write(request)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeouts.read, self._watch)

    async def send(self, body: BodyRange) -> None:
        """Send the body of the request that was begun; `exchange.done` tells the answer.

        Returns early if the answer comes before its end. When this is cancelled, `abort` must
        follow: only then the memory is its owner's again.
        """
        assert self._exchange is not None
        done = self._exchange.done
        self._sender = RequestBodySender(
            body, self._transport, self._throttle, done, self._note_progress
        )
        await self._sender.run()

    def _note_progress(self) -> None:
        self._last = self._loop.time()

    def abort(self) -> None:
        """Close it at once, whatever is under way; no span or body is touched any more."""
        self.is_usable = False
        self._exchange = None
        self._end_pause()
        self._transport.abort()

    def close(self) -> asyncio.Event:
        """Close it; the event is set when it is closed."""
        self.is_usable = False
        if self._exchange is not None:
            exchange = self._exchange
            where = f"{exchange.method} {redact(exchange.url)}"
            self._fail(NetworkError(f"{where}: it was closed here meanwhile"))
        elif self.origin.scheme == "http":
            self._transport.close()
        else:
            self._transport.abort()  # a farewell of TLS would have to be waited for
        return self._lost

    # --- for the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not `isinstance`: uvloop's transports are no asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        # Python 3.10's TLS decrypts a record before it asks for memory, and passes its length.
        self._is_told_sizes = (
            sys.version_info < (3, 11)
            and self.origin.scheme == "https"
            and isinstance(transport, asyncio.Transport)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_usable = False
        if self._timer is not None:
            self._timer.cancel()
        self._end_pause()
        self._lost.set()
        self._on_lost(self)
        exchange = self._exchange
        if exchange is None:
            return
        body = self._body
        if body is not None and exc is None and body.ends_with_connection:
            self._finish()
        elif body is not None:
            self._fail(body.broken(exc))
        elif exchange.answered:
            self._fail(broken(exchange, exc))
        else:
            stale = StaleError()
            stale.__cause__ = exc
            self._fail(stale)

    def pause_writing(self) -> None:
        if self._sender is not None:
            self._sender.pause_writing()

    def resume_writing(self) -> None:
        if self._sender is not None:
            self._sender.resume_writing()

    def eof_received(self) -> None:
        return None  # the transport closes itself, and `connection_lost` follows

    def get_buffer(self, sizehint: int) -> memoryview:
        # Without an exchange the memory is another's.
        if self._exchange and self._body and (room := self._body.room()):
            if not self._is_told_sizes or sizehint <= len(room):
                return room[: self._throttle.piece]
            # The record holds more than the body: `ResponseBody.take` detects the surplus. Split
            # over two buffers, it would come after the end of the exchange and be dropped.
            self._body.is_direct = False
        return self._inbox[self._held :]

    def buffer_updated(self, nbytes: int) -> None:
        now = self._loop.time()
        pause, self._last = now - self._last, now
        exchange = self._exchange
        if exchange is None:
            self.abort()  # nobody has asked for this
            return
        exchange.answered = True
        try:
            if self._body is None:
                self._held += nbytes
                self._look_for_head(exchange)
            elif self._body.is_direct:
                exchange.is_direct = True
                body = self._body
                progress = body.arrived(nbytes)
                self._advance(exchange, progress)
                if progress is Progress.MORE:
                    self._follow(nbytes, pause, body.left)
            else:
                self._advance(exchange, self._body.take(self._inbox[:nbytes]))
        except MalformedResponseError as error:
            self._fail(no_http(exchange.method, exchange.url, error))
        except TransferError as error:
            self._fail(error)

    def _follow(self, arrived: int, pause: float, left: int) -> None:
        """Decide how much of a body has to lie there before it is taken."""
        if self._throttle.rate is not None:
            self._low_water.lower()  # a cap takes what it lets pass, as it comes
        elif self._low_water.follow(arrived, pause, left):
            self._look_soon()

    def _look_for_head(self, exchange: Exchange) -> None:
        data = self._inbox[: self._held].tobytes()
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = parse_head(data[:end], exchange.method)
            rest = len(data) - end - 4
            if head.status >= 200:
                self._body_at, self._held = self._last, 0
                self._body = body = ResponseBody(exchange, head)
                if exchange.head_alone and head.status < 300 and head.length != 0:
                    self._finish(cut=True)
                else:
                    self._advance(exchange, body.take(self._inbox[len(data) - rest : len(data)]))
                return
            data = data[end + 4 :]  # "go on" and the like, for which nobody has asked
            self._inbox[:rest] = data
            self._held = rest
        if self._held >= _INBOX:
            raise MalformedResponseError("its head is too long")

    def _advance(self, exchange: Exchange, progress: Progress) -> None:
        """Pay for what has come of the body, and end the exchange if nothing else is to come."""
        assert self._body is not None
        stored = self._body.stored
        # Bytes that were not stored are not counted, so they cause no pause either: Python 3.10's
        # TLS delivers all it has decrypted, and each delivery would replace the pause before.
        if self._throttle.rate is not None and stored > self._paid:
            self._pay(exchange, stored - self._paid)
        self._paid = stored
        if progress is not Progress.MORE:
            self._finish(cut=progress is Progress.CUT)

    def _pay(self, exchange: Exchange, count: int) -> None:
        """Have the throttle count bytes, and read nothing for as long as they cost."""
        exchange.debt = pause = self._throttle.owe(count)
        if step := pause.step():
            self._transport.pause_reading()
            if self._resuming is not None:
                self._resuming.cancel()  # what was decrypted before arrives in a pause, too
            self._resuming = self._loop.call_later(step, self._resume, pause)

    def _resume(self, pause: Pause) -> None:
        if step := pause.step():
            self._resuming = self._loop.call_later(step, self._resume, pause)
            return
        self._last = self._loop.time()
        self._end_pause()

    def _end_pause(self) -> None:
        if self._resuming is None:
            return
        self._resuming.cancel()
        self._resuming = None
        if not self._transport.is_closing():
            with suppress(AttributeError, RuntimeError):  # it is being lost: we are told soon
                self._transport.resume_reading()

    def _finish(self, *, cut: bool = False) -> None:
        exchange, body = self._exchange, self._body
        assert exchange is not None
        assert body is not None
        self._exchange = None
        self._reset()
        self._end_pause()
        self._low_water.lower()
        keeps = body.head.keeps and not (cut or body.has_surplus or self._unsent_bytes())
        self._sender = None
        self.is_usable = keeps and not self._transport.is_closing()
        if exchange.done.done():
            return
        try:
            content = body.settle(cut=cut)
        except TransferError as error:
            self.is_usable = False
            exchange.done.set_exception(error)
            self._transport.abort()
            return
        head = body.head
        answer = Response(exchange.method, exchange.url, head.status, head.headers, content)
        exchange.done.set_result(answer)

    def _fail(self, error: Exception) -> None:
        exchange, self._exchange = self._exchange, None
        self.is_usable = False
        self._held = 0
        if exchange is not None and not exchange.done.done():
            exchange.done.set_exception(error)
        self._end_pause()
        self._transport.abort()

    def _unsent_bytes(self) -> int:
        if self._lost.is_set():
            return 0
        left = 0 if self._sender is None else self._sender.left
        return left + self._transport.get_write_buffer_size()

    def _watch(self) -> None:
        """End what has waited too long: for the server, or in vain for another request."""
        self._timer = None
        now = self._loop.time()
        exchange = self._exchange
        if exchange is None:
            if now - self._last >= _KEEP:
                self.close()
                return
            # Not later than the next exchange may have to be given up.
            soon = min(self._last + _KEEP, now + self._timeouts.read)
            self._timer = self._loop.call_at(soon, self._watch)
            return
        unsent = self._unsent_bytes()
        if unsent != self._unsent:
            self._unsent, self._last = unsent, now
        limit = self._timeouts.read
        refused = self._body is not None and self._body.is_error_response
        if refused and now - self._body_at >= limit:
            self._finish(cut=True)  # what there is of a refusal's words is enough
            self._transport.abort()
        elif self._resuming is not None or (self._sender is not None and self._sender.is_paused):
            self._timer = self._loop.call_at(now + limit, self._watch)  # the silence is ours
        elif self._low_water.is_raised:
            if now - self._last >= _LOOK:
                self._low_water.lower()  # what lies there is taken before the next look
            self._look_soon()
        elif now - self._last >= limit:
            self._fail(silent(exchange.method, exchange.url, took=unsent > 0))
        else:
            self._timer = self._loop.call_at(self._last + limit, self._watch)

    def _look_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(min(_LOOK, self._timeouts.read), self._watch)
