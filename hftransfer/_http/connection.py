"""One connection of HTTP/1.1: an asyncio protocol with one exchange at a time.

States and what changes them::

    IDLE --begin--> AWAITING_HEADERS --head--> RECEIVING_BODY or RECEIVING_ERROR_BODY --end--> IDLE
    any state --close, abort, error, end of the connection--> CLOSED

The body of the request is sent at the same time, by `send`: a server may respond before it has
received all of it. So there is no state for sending.

One timer applies the time limit of the present state (`_on_timer`). It is not restarted by every
byte or exchange: when it fires early, it computes when the limit can be reached at the earliest,
and waits until then. Two limits have timers of their own: connecting (`pool`), and the delay that
the rate limiter demands (`read_pause`), in which the others do not count.

All of this runs in the thread of one event loop. Only the target's buffer is shared with another
thread, see `loops`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from enum import Enum
from typing import cast

from hftransfer._http.errors import not_http, stalled, too_slow
from hftransfer._http.exchange import Exchange, StaleConnectionError, connection_ended
from hftransfer._http.parser import MalformedResponseError, ReceiveBuffer
from hftransfer._http.rcvlowat import LowWaterMark
from hftransfer._http.read_pause import ReadPause
from hftransfer._http.request_body import RequestBodySender
from hftransfer._http.response_body import BodyProgress, ResponseBody
from hftransfer._http.route import Origin
from hftransfer._io.file_range import BodyRange
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import NetworkError, Response, TransferError, redact
from hftransfer.options import Timeouts

__all__ = ("Connection", "ConnectionState")

# Seconds after which an idle connection is closed, before most servers close it.
_KEEP_ALIVE = 30.0
# Read timeouts after which a response to a control request has to be complete, or arrive at the
# lowest rate of `ResponseBody`. S3 sends a space now and then while it completes an upload, which
# takes minutes.
_SLOW_BODY = 20
# Seconds for which bytes may wait in the socket below the low-water mark.
_LOW_WATER_DELAY = 0.25


class ConnectionState(Enum):
    """What a connection is doing; the module shows the transitions."""

    IDLE = "idle"
    """The next request can be sent."""
    AWAITING_HEADERS = "awaiting headers"
    """A request is being sent or was sent; the head of the response is not complete."""
    RECEIVING_BODY = "receiving body"
    RECEIVING_ERROR_BODY = "receiving error body"
    """The response is an error or a redirect."""
    CLOSED = "closed"
    """Closed or about to be: no exchange follows."""


class Connection(asyncio.BufferedProtocol):
    """One connection.

    Args:
        origin: the server.
        timeouts: limits on waiting.
        rate_limiter: counts the bytes that go into a target's buffer, and those that `send` sends.
        low_water: the low-water mark of its socket.
        on_lost: called when the connection has ended.
    """

    def __init__(
        self,
        origin: Origin,
        timeouts: Timeouts,
        rate_limiter: RateLimiter,
        low_water: LowWaterMark,
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.origin = origin
        self.state = ConnectionState.IDLE
        self._timeouts = timeouts
        self._rate_limiter = rate_limiter
        self._low_water = low_water
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._has_exact_hints = False
        """True if the `sizehint` of `get_buffer` is the exact number of bytes that follow."""
        self._lost = asyncio.Event()
        # The present exchange. `_exchange` is None in IDLE and CLOSED; `_body` is set in
        # RECEIVING_BODY and RECEIVING_ERROR_BODY only.
        self._exchange: Exchange | None = None
        self._sender: RequestBodySender | None = None
        self._body: ResponseBody | None = None
        self._receive_buffer = ReceiveBuffer()
        # The time limits.
        self._timer: asyncio.TimerHandle | None = None
        self._read_pause = ReadPause()
        self._progress_at = 0.0
        """When bytes last moved in either direction, by the clock of the event loop."""
        self._unsent = 0
        """Bytes of the request that were unsent when the timer last looked."""

    @property
    def is_idle(self) -> bool:
        """True if the next request can be sent."""
        return self.state is ConnectionState.IDLE

    @property
    def peer(self) -> tuple[str, int]:
        """The address and the port that it goes to."""
        name = self._transport.get_extra_info("peername")
        return ("", 0) if name is None else name[:2]

    # --- called by `ConnectionPool`

    def begin(self, request: bytes, exchange: Exchange) -> None:
        """Send `request`, the head and perhaps the body; `exchange.response` has the result."""
        self._exchange = exchange
        self.state = ConnectionState.AWAITING_HEADERS
        self._record_progress()
        self._transport.write(request)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeouts.read, self._on_timer)

    async def send(self, body: BodyRange) -> None:
        """Send the body of the request that was begun; `exchange.response` has the result.

        Returns early if the response arrives before the end of the body. If this is cancelled, call
        `abort`: until then the transport or the socket may still read the memory of the body.
        """
        assert self._exchange is not None
        self._sender = RequestBodySender(
            body,
            self._transport,
            self._rate_limiter,
            self._exchange.response,
            self._record_progress,
        )
        await self._sender.run()

    def _record_progress(self) -> None:
        self._progress_at = self._loop.time()

    def abort(self) -> None:
        """Close it at once, in any state. Afterwards it touches no buffer and no body."""
        self._end_exchange(ConnectionState.CLOSED)
        self._transport.abort()

    def close(self) -> asyncio.Event:
        """Close it; the event is set when it is closed."""
        if self._exchange is not None:
            request = self._exchange.request
            where = f"{request.method} {redact(request.url)}"
            self._fail(NetworkError(f"{where}: the client was closed before the response arrived"))
            return self._lost
        self.state = ConnectionState.CLOSED
        if self.origin.scheme == "http":
            self._transport.close()
        else:
            self._transport.abort()  # `close` would wait for TLS's close_notify from the server
        return self._lost

    # --- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # `cast`, not `isinstance`: uvloop's transports are not instances of asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)
        # Python 3.10's TLS decrypts a record before it asks for memory, and passes its length.
        self._has_exact_hints = (
            sys.version_info < (3, 11)
            and self.origin.scheme == "https"
            and isinstance(transport, asyncio.Transport)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._read_pause.end()
        self._lost.set()
        exchange, body = self._exchange, self._body
        if exchange is None:
            self.state = ConnectionState.CLOSED
        elif body is not None and exc is None and body.ends_with_connection:
            self._finish(exchange, body)
        elif body is not None:
            self._fail(body.broken(exc))
        elif exchange.response_started:
            self._fail(connection_ended(exchange.request, exc))
        else:
            stale = StaleConnectionError()
            stale.__cause__ = exc
            self._fail(stale)
        self._on_lost(self)

    def pause_writing(self) -> None:
        if self._sender is not None:
            self._sender.pause_writing()

    def resume_writing(self) -> None:
        if self._sender is not None:
            self._sender.resume_writing()

    def eof_received(self) -> None:
        return None  # the transport closes itself and calls `connection_lost`

    def get_buffer(self, sizehint: int) -> memoryview:
        # Without an exchange the target's buffer belongs to its caller again.
        body = self._body
        if body is not None and (space := body.space()):
            if not self._has_exact_hints or sizehint <= len(space):
                return space[: self._rate_limiter.burst_size]
            # The record holds more than the body: `ResponseBody.feed` detects the surplus. Split
            # over two buffers, it would come after the end of the exchange and be dropped.
            body.is_in_place = False
        return self._receive_buffer.space()

    def buffer_updated(self, nbytes: int) -> None:
        exchange, body = self._exchange, self._body
        if exchange is None:
            self.abort()  # no request asked for these bytes
            return
        exchange.response_started = True
        try:
            if body is None:
                self._receive_head(exchange, nbytes)
            elif body.is_in_place:
                exchange.ended_in_place = True
                now = self._loop.time()
                seconds, self._progress_at = now - self._progress_at, now
                progress = body.advance(nbytes)
                self._advance(exchange, body, progress)
                if progress is BodyProgress.INCOMPLETE:
                    self._adjust_low_water(nbytes, seconds, body.left)
            else:
                data = self._receive_buffer.received(nbytes)
                progress = body.feed(data)
                if body.has_content:
                    self._record_progress()
                self._advance(exchange, body, progress)
        except MalformedResponseError as error:
            self._fail(not_http(exchange.request.method, exchange.request.url, error))
        except TransferError as error:
            self._fail(error)

    # --- receiving

    def _receive_head(self, exchange: Exchange, count: int) -> None:
        # Of a head, only the first byte and the last one are progress: a server that sends one
        # byte per second would otherwise be waited for forever.
        received = self._receive_buffer
        is_first, interim = not received.has_partial_head, received.interim
        taken = received.take_head(count, exchange.request.method)
        if taken is not None or is_first or received.interim != interim:
            self._record_progress()
        if taken is None:
            return
        head, data = taken
        self._body = body = ResponseBody(exchange, head, self._progress_at)
        self.state = (
            ConnectionState.RECEIVING_ERROR_BODY
            if body.is_error_response
            else ConnectionState.RECEIVING_BODY
        )
        if exchange.request.headers_only and head.status < 300 and head.length != 0:
            self._finish(exchange, body, truncated=True)
        else:
            self._advance(exchange, body, body.feed(data))

    def _advance(self, exchange: Exchange, body: ResponseBody, progress: BodyProgress) -> None:
        """Count the bytes that have arrived, and end the exchange after the last ones."""
        # Bytes that were not stored are not counted, so they cause no pause either: Python 3.10's
        # TLS delivers all it has decrypted, and each delivery would replace the pause before.
        if self._rate_limiter.rate is not None and body.stored > body.counted:
            # The delay for the last bytes is waited for by the caller, not here, so that an idle
            # connection reads, and is closed when its server closes it.
            exchange.pending_delay = delay = self._rate_limiter.reserve(body.stored - body.counted)
            self._read_pause.start(self._transport, delay, self._record_progress)
        body.counted = body.stored
        if progress is not BodyProgress.INCOMPLETE:
            self._finish(exchange, body, truncated=progress is BodyProgress.ABANDONED)

    def _adjust_low_water(self, received: int, seconds: float, left: int) -> None:
        """Set the number of bytes of the body for which the kernel wakes the event loop."""
        if self._rate_limiter.rate is not None:
            self._low_water.reset()  # a cap reads small pieces, as they arrive
        elif self._low_water.adjust(received, seconds, left):
            if self._timer is not None:
                self._timer.cancel()
            delay = min(_LOW_WATER_DELAY, self._timeouts.read)
            self._timer = self._loop.call_later(delay, self._on_timer)

    # --- the end of an exchange

    def _end_exchange(self, state: ConnectionState) -> None:
        self._exchange = None
        self._sender = None
        self._body = None
        self._receive_buffer.clear()
        self._read_pause.end()
        self.state = state

    def _finish(self, exchange: Exchange, body: ResponseBody, *, truncated: bool = False) -> None:
        """End the exchange with its response.

        Args:
            exchange: the present one.
            body: of its response.
            truncated: the rest of the body was not received, so the connection has to be closed.
        """
        is_reusable = (
            body.head.keep_alive
            and not (truncated or body.has_surplus or self._unsent_bytes())
            and not self._transport.is_closing()
        )
        self._end_exchange(ConnectionState.IDLE if is_reusable else ConnectionState.CLOSED)
        self._low_water.reset()
        if exchange.response.done():
            return  # cancelled
        try:
            content = body.finish(truncated=truncated)
        except TransferError as error:
            self.state = ConnectionState.CLOSED
            exchange.response.set_exception(error)
            self._transport.abort()
            return
        request, head = exchange.request, body.head
        response = Response(request.method, request.url, head.status, head.headers, content)
        exchange.response.set_result(response)

    def _fail(self, error: Exception) -> None:
        """End the exchange with an error, and close the connection."""
        exchange = self._exchange
        self._end_exchange(ConnectionState.CLOSED)
        if exchange is not None and not exchange.response.done():
            exchange.response.set_exception(error)
        self._transport.abort()

    def _unsent_bytes(self) -> int:
        if self._lost.is_set():
            return 0
        left = 0 if self._sender is None else self._sender.left
        return left + self._transport.get_write_buffer_size()

    # --- time limits

    def _on_timer(self) -> None:
        """Apply the time limit of the present state, and look again when it can be reached."""
        self._timer = None
        now = self._loop.time()
        if self.state is ConnectionState.IDLE:
            again_at = self._check_keep_alive(now)
        elif self.state is ConnectionState.RECEIVING_ERROR_BODY:
            again_at = self._check_error_body(now)
        elif self.state is ConnectionState.CLOSED:
            again_at = None
        else:
            again_at = self._check_progress(now)
        if again_at is not None:
            self._timer = self._loop.call_at(again_at, self._on_timer)

    def _check_keep_alive(self, now: float) -> float | None:
        """Close an idle connection after `_KEEP_ALIVE` seconds."""
        if now - self._progress_at >= _KEEP_ALIVE:
            self.close()
            return None
        # The next exchange uses the running timer, so it must fire within its time limit, too.
        return min(self._progress_at + _KEEP_ALIVE, now + self._timeouts.read)

    def _check_error_body(self, now: float) -> float | None:
        """Cut the body of an error or redirect when it takes longer than the read timeout.

        The status and the headers say what happened; the body may add to that.
        """
        assert self._exchange is not None
        assert self._body is not None
        again_at = self._body.started_at + self._timeouts.read
        if now < again_at:
            return again_at
        self._finish(self._exchange, self._body, truncated=True)
        self._transport.abort()
        return None

    def _check_progress(self, now: float) -> float | None:
        """Fail the exchange when no byte has moved for the read timeout."""
        assert self._exchange is not None
        limit = self._timeouts.read
        unsent = self._unsent_bytes()
        if unsent != self._unsent:
            self._unsent, self._progress_at = unsent, now
        if self._read_pause.is_active or (self._sender is not None and self._sender.is_paused):
            return now + limit  # the rate limiter delays the bytes, not the server
        if self._body is not None and self._body.is_too_slow(now, _SLOW_BODY * limit):
            request = self._exchange.request
            self._fail(too_slow(request.method, request.url))
            return None
        silence = now - self._progress_at
        if self._low_water.is_raised:
            # Bytes below the mark may wait in the socket: read them before silence is judged.
            if silence >= _LOW_WATER_DELAY:
                self._low_water.reset()
            return now + min(_LOW_WATER_DELAY, limit)
        if silence >= limit:
            request = self._exchange.request
            if self._receive_buffer.has_partial_head:
                self._fail(too_slow(request.method, request.url))
            else:
                self._fail(stalled(request.method, request.url, sending=unsent > 0))
            return None
        return self._progress_at + limit
