"""One exchange over one connection of HTTP/1.1: an asyncio protocol, and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, cast

from hftransfer._http_answer import (
    ChunkedBody,
    Head,
    Headers,
    MalformedAnswerError,
    decoded,
    parse_head,
)
from hftransfer._spans import Span
from hftransfer._wire_errors import broke_at, cut_short, failed, no_http, reason_of, silent
from hftransfer.errors import NetworkError, Response, TransferError, redact
from hftransfer.options import Timeouts

__all__ = ("Connection", "Exchange", "Origin", "StaleError", "broken")

# An idle connection is closed after so many seconds, before most servers do it.
_KEEP = 30.0
_INBOX = 64 * 1024


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class StaleError(Exception):
    """A connection ended before the first byte of an answer."""


class Exchange:
    """One request, and what becomes of it.

    Args:
        method: HTTP method.
        url: for messages.
        limit: bytes of the body that are kept, where it goes into no span.
        span: where the body goes if `accepts` says so.
        accepts: told status and headers; returns True for a body that belongs into the
            span. What it raises ends the exchange.
        head_alone: do not read the body of an answer below 300.
    """

    __slots__ = ("accepts", "answered", "done", "head_alone", "limit", "method", "span", "url")

    def __init__(
        self,
        method: str,
        url: str,
        limit: int,
        span: Span | None = None,
        accepts: Callable[[int, Headers], bool] | None = None,
        *,
        head_alone: bool = False,
    ) -> None:
        self.head_alone = head_alone
        self.method = method
        self.url = url
        self.limit = limit
        self.span = span
        self.accepts = accepts
        self.answered = False
        """True once a byte of the answer has come."""
        self.done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()


class Connection(asyncio.BufferedProtocol):
    """One connection: idle, or with an exchange under way.

    Args:
        origin: the other end.
        timeouts: limits on waiting.
        on_lost: called when it has ended.
    """

    def __init__(
        self, origin: Origin, timeouts: Timeouts, on_lost: Callable[[Connection], None]
    ) -> None:
        self.origin = origin
        self.is_usable = False
        """True while it is idle and the next request can be sent."""
        self._timeouts = timeouts
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()
        self._inbox = memoryview(bytearray(_INBOX))
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None
        self._last = 0.0
        """When something last moved."""
        self._unsent = 0
        self._reset()

    def _reset(self) -> None:
        self._head: Head | None = None
        self._head_at = 0.0
        self._held = 0
        """Bytes in the inbox that belong to a head that is not complete."""
        self._left: int | None = None
        """Bytes of the body that are still to come, if it says so."""
        self._direct = False
        """True if the body goes into the span as it comes."""
        self._collected = bytearray()
        self._chunks: ChunkedBody | None = None

    # --- for `SmallExchanges`

    def begin(self, request: bytes, exchange: Exchange) -> None:
        """Send `request`; `exchange.done` tells the answer."""
        self._exchange = exchange
        self.is_usable = False
        self._last = self._loop.time()
        self._transport.write(request)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeouts.read, self._watch)

    def abort(self) -> None:
        self.is_usable = False
        self._exchange = None
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

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_usable = False
        if self._timer is not None:
            self._timer.cancel()
        self._lost.set()
        self._on_lost(self)
        exchange = self._exchange
        if exchange is None:
            return
        head = self._head
        if head is not None and exc is None and head.length is None and not head.chunked:
            self._finish()  # such a body ends with its connection
        elif not exchange.answered:
            stale = StaleError()
            stale.__cause__ = exc
            self._fail(stale)
        else:
            self._fail(self._cut(exchange, exc))

    def eof_received(self) -> None:
        return None  # the transport closes itself, and `connection_lost` follows

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._direct and self._exchange is not None:
            span, left = self._exchange.span, self._left
            assert span is not None
            assert left is not None
            return span.rest[:left]
        return self._inbox[self._held :]

    def buffer_updated(self, nbytes: int) -> None:
        self._last = self._loop.time()
        exchange = self._exchange
        if exchange is None:
            self.abort()  # nobody has asked for this
            return
        exchange.answered = True
        try:
            if self._direct:
                assert exchange.span is not None
                assert self._left is not None
                exchange.span.advance(nbytes)
                self._left -= nbytes
                if not self._left:
                    self._finish()
            elif self._head is None:
                self._held += nbytes
                self._look_for_head(exchange)
            else:
                self._take(exchange, self._inbox[:nbytes])
        except MalformedAnswerError as error:
            self._fail(no_http(exchange.method, exchange.url, error))
        except TransferError as error:
            self._fail(error)

    def _look_for_head(self, exchange: Exchange) -> None:
        data = self._inbox[: self._held].tobytes()
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = parse_head(data[:end], exchange.method)
            rest = len(data) - end - 4
            if head.status >= 200:
                self._head, self._head_at, self._held = head, self._last, 0
                if exchange.head_alone and head.status < 300 and head.length != 0:
                    self._finish(cut=True)
                    return
                self._start_body(exchange, head)
                self._take(exchange, self._inbox[len(data) - rest : len(data)])
                return
            data = data[end + 4 :]  # "go on" and the like, for which nobody has asked
            self._inbox[:rest] = data
            self._held = rest
        if self._held >= _INBOX:
            raise MalformedAnswerError("its head is too long")

    def _start_body(self, exchange: Exchange, head: Head) -> None:
        self._left = head.length
        if head.chunked:
            self._chunks = ChunkedBody()
        if exchange.accepts is None:
            return
        if not exchange.accepts(head.status, head.headers):
            exchange.span = None
            return
        span = exchange.span
        assert span is not None
        self._direct = (
            head.length == span.left and head.length > 0 and "content-encoding" not in head.headers
        )

    def _take(self, exchange: Exchange, data: memoryview) -> None:
        """Take bytes of the body, as many as came together with the head or one by one."""
        if self._left is not None and len(data) > self._left:
            self._surplus(exchange)
            data = data[: self._left]
        if self._direct:
            assert exchange.span is not None
            exchange.span.put(data)
        elif self._chunks is not None:
            self._chunks.feed(data)
            self._collected = self._chunks.content
        else:
            self._collected += data
        if self._left is not None:
            self._left -= len(data)
        ended = self._chunks.ended if self._chunks is not None else self._left == 0
        if ended:
            self._finish()
        elif not self._direct and len(self._collected) > exchange.limit:
            self._finish(cut=True)

    def _surplus(self, exchange: Exchange) -> None:
        """More came than was announced: an error if it is about a file, else not our business."""
        if exchange.span is not None:
            raise NetworkError("more bytes arrived than were announced")
        assert self._head is not None
        self._head = self._head._replace(keeps=False)

    def _finish(self, *, cut: bool = False) -> None:
        exchange, head = self._exchange, self._head
        assert exchange is not None
        assert head is not None
        content, direct, surplus = self._collected, self._direct, False
        if self._chunks is not None:
            surplus = self._chunks.surplus
        self._exchange = None
        self._reset()
        unsent = self._transport.get_write_buffer_size() if not self._lost.is_set() else 0
        self.is_usable = (
            head.keeps and not (cut or surplus or unsent) and not self._transport.is_closing()
        )
        if exchange.done.done():
            return
        try:
            if not direct:
                content = _settled(exchange, head, content, cut=cut)
        except TransferError as error:
            self.is_usable = False
            exchange.done.set_exception(error)
            self._transport.abort()
            return
        body = bytes(content)
        answer = Response(exchange.method, exchange.url, head.status, head.headers, body)
        exchange.done.set_result(answer)

    def _fail(self, error: Exception) -> None:
        exchange, self._exchange = self._exchange, None
        self.is_usable = False
        self._held = 0
        if exchange is not None:
            plain = self._head is not None and "content-encoding" not in self._head.headers
            if exchange.span is not None and plain and not self._direct:
                exchange.span.put(memoryview(self._collected)[: exchange.span.left])
            if not exchange.done.done():
                exchange.done.set_exception(error)
        self._transport.abort()

    def _cut(self, exchange: Exchange, exc: Exception | None) -> NetworkError:
        """Return what to say of an answer that has no end."""
        span = exchange.span
        if span is None or self._head is None:
            return broken(exchange, exc)
        position = span.position if self._direct else span.position + len(self._collected)
        return _cut_short(exchange, position, exc)

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
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._last = unsent, now
        limit = self._timeouts.read
        refused = self._head is not None and exchange.accepts is not None and exchange.span is None
        if refused and now - self._head_at >= limit:
            self._finish(cut=True)  # what there is of a refusal's words is enough
            self._transport.abort()
        elif now - self._last >= limit:
            self._fail(silent(exchange.method, exchange.url, took=unsent > 0))
        else:
            self._timer = self._loop.call_at(self._last + limit, self._watch)


def _settled(exchange: Exchange, head: Head, content: bytearray, *, cut: bool) -> bytearray:
    """Return a body without its encoding, or put it into the span.

    Raises:
        NetworkError: if it is longer or shorter than the span.
    """
    span = exchange.span
    encoding = head.headers.get("content-encoding", "identity").lower()
    if encoding != "identity" and content and not cut:
        try:
            limit = exchange.limit if span is None else span.left + 1
            content = decoded(content, encoding, limit)
        except MalformedAnswerError as error:
            raise no_http(exchange.method, exchange.url, error) from error
    if span is None:
        return content[: exchange.limit]
    if len(content) > span.left:
        raise NetworkError(f"{redact(exchange.url)}: more bytes arrived than were announced")
    span.put(memoryview(content))
    if span.left:
        raise _cut_short(exchange, span.position, None)
    return bytearray()


def _cut_short(exchange: Exchange, position: int, exc: Exception | None) -> NetworkError:
    assert exchange.span is not None
    say = cut_short if exc is None else broke_at
    return say(exchange.url, position, exchange.span.stop)


def broken(exchange: Exchange, exc: BaseException | None) -> NetworkError:
    """Return what to say of a connection that ended before its answer."""
    reason = "the server hung up" if exc is None else reason_of(exc)
    return failed(exchange.method, exchange.url, reason)
