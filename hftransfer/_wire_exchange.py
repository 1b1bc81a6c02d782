"""One exchange over one connection of HTTP/1.1: an asyncio protocol, and its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
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
from hftransfer._throttle import Pause, Throttle
from hftransfer._wire_errors import broke_at, cut_short, failed, no_http, reason_of, silent
from hftransfer._wire_proxy import Proxy
from hftransfer._wire_send import Sender
from hftransfer.errors import NetworkError, Response, TransferError, redact
from hftransfer.options import Timeouts

__all__ = ("Connection", "Exchange", "Origin", "StaleError", "broken")

# An idle connection is closed after so many seconds, before most servers do it.
_KEEP = 30.0
_INBOX = 64 * 1024


class Origin(NamedTuple):
    """The other end, and how it is reached."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None = None

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StaleError(Exception):
    """A connection ended before the first byte of an answer."""


class Exchange:
    """One request, and what becomes of it.

    Args:
        method: HTTP method.
        url: for messages.
        limit: bytes of the body that are kept, where it goes into no span.
        span: where the body goes if `accepts` says so. It may be made shorter meanwhile;
            then the exchange ends with it, and costs its connection.
        accepts: told status and headers; returns True for a body that belongs into the
            span. What it raises ends the exchange.
        head_alone: do not read the body of an answer below 300.
    """

    __slots__ = (
        *("accepts", "answered", "debt", "done", "head_alone", "is_direct", "limit", "method"),
        *("span", "stop", "url"),
    )

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
        self.stop = 0 if span is None else span.stop
        """Where the body ends in the file: where the span ended when this was asked for."""
        self.accepts = accepts
        self.answered = False
        """True once a byte of the answer has come."""
        self.is_direct = False
        """True if the end of the body was not read together with what may follow it."""
        self.debt: Pause | None = None
        """The pause that the last bytes cost."""
        self.done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()


class Connection(asyncio.BufferedProtocol):
    """One connection: idle, or with an exchange under way.

    Args:
        origin: the other end.
        timeouts: limits on waiting.
        throttle: paid for every byte that goes into a span, or that `send` sends.
        on_lost: called when it has ended.
    """

    def __init__(
        self,
        origin: Origin,
        timeouts: Timeouts,
        throttle: Throttle,
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.origin = origin
        self.is_usable = False
        """True while it is idle and the next request can be sent."""
        self._timeouts = timeouts
        self._throttle = throttle
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()
        self._inbox = memoryview(bytearray(_INBOX))
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._resuming: asyncio.TimerHandle | None = None
        """Set in a pause, in which nothing is read."""
        self._sender: Sender | None = None
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
        self._span: Span | None = None
        """Where the body goes as it comes; None for one that is collected."""
        self._direct = False
        """True if the body is as long as the span: the transport itself writes into it."""
        self._collected = bytearray()
        self._chunks: ChunkedBody | None = None

    # --- for `Http1Client`

    def begin(self, request: bytes, exchange: Exchange) -> None:
        """Send `request`; `exchange.done` tells the answer."""
        self._exchange = exchange
        self.is_usable = False
        self._last = self._loop.time()
        self._transport.write(request)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeouts.read, self._watch)

    async def send(self, body: memoryview) -> None:
        """Send the body of the request that was begun; `exchange.done` tells the answer.

        Returns early if the answer comes before its end. When this is cancelled, `abort` must
        follow: only then the memory is its owner's again.
        """
        assert self._exchange is not None
        done = self._exchange.done
        self._sender = Sender(body, self._transport, self._throttle, done, self._note_progress)
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
        head = self._head
        if head is not None and exc is None and head.length is None and not head.chunked:
            self._finish()  # such a body ends with its connection
        elif not exchange.answered:
            stale = StaleError()
            stale.__cause__ = exc
            self._fail(stale)
        else:
            self._fail(self._cut(exchange, exc))

    def pause_writing(self) -> None:
        if self._sender is not None:
            self._sender.pause_writing()

    def resume_writing(self) -> None:
        if self._sender is not None:
            self._sender.resume_writing()

    def eof_received(self) -> None:
        return None  # the transport closes itself, and `connection_lost` follows

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._direct and self._exchange is not None:
            assert self._span is not None
            rest = self._span.rest[: self._left]
            if piece := self._throttle.piece:
                rest = rest[:piece]
            if rest:
                return rest
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
                self._note_arrival(exchange, nbytes)
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
        if "content-encoding" in head.headers:
            exchange.limit += exchange.stop - span.position  # of no use before it is whole
            return
        self._span = span
        self._direct = head.length == exchange.stop - span.position and head.length > 0

    def _take(self, exchange: Exchange, data: memoryview) -> None:
        """Take bytes of the body from the inbox."""
        if self._left is not None:
            if len(data) > self._left:
                self._surplus(exchange)
                data = data[: self._left]
            self._left -= len(data)
        ended = self._left == 0
        if self._chunks is not None:
            self._chunks.feed(data)
            data = self._chunks.take()
            ended = self._chunks.ended
        if self._span is None:
            self._collected += data
            if not ended and len(self._collected) > exchange.limit:
                self._finish(cut=True)
                return
        elif not self._put(exchange, self._span, data):
            self._finish(cut=True)
            return
        if ended:
            self._finish()

    def _put(self, exchange: Exchange, span: Span, data: memoryview) -> bool:
        """Copy bytes of the body into the span; return False if nothing else is wanted."""
        if len(data) > exchange.stop - span.position:
            raise _too_long(exchange)
        span.put(data[: span.left])
        self._pay(exchange, len(data))
        return span.left > 0 or span.stop == exchange.stop

    def _note_arrival(self, exchange: Exchange, count: int) -> None:
        """Count bytes that the transport has written into the span."""
        span = self._span
        assert span is not None
        assert self._left is not None
        if not span.left:
            # It was made shorter while these were on their way; they are another's.
            self._finish(cut=True)
            return
        exchange.is_direct = True
        span.advance(count)
        self._left -= count
        self._pay(exchange, count)
        if not self._left:
            self._finish()
        elif not span.left:
            self._finish(cut=True)

    def _pay(self, exchange: Exchange, count: int) -> None:
        """Have the throttle count bytes, and read nothing for as long as they cost."""
        if self._throttle.rate is None:
            return
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

    def _surplus(self, exchange: Exchange) -> None:
        """More came than was announced: an error if it is about a file, else not our business."""
        if exchange.span is not None:
            raise _too_long(exchange)
        assert self._head is not None
        self._head = self._head._replace(keeps=False)

    def _finish(self, *, cut: bool = False) -> None:
        exchange, head = self._exchange, self._head
        assert exchange is not None
        assert head is not None
        content, span = self._collected, self._span
        surplus = self._chunks is not None and self._chunks.surplus
        self._exchange = None
        self._reset()
        self._end_pause()
        unsent = self._unsent_bytes()
        self._sender = None
        self.is_usable = (
            head.keeps and not (cut or surplus or unsent) and not self._transport.is_closing()
        )
        if exchange.done.done():
            return
        try:
            if span is None:
                content = _settled(exchange, head, content, cut=cut)
            elif span.left:
                raise _cut_short(exchange, None)
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
        if exchange is not None and not exchange.done.done():
            exchange.done.set_exception(error)
        self._end_pause()
        self._transport.abort()

    def _cut(self, exchange: Exchange, exc: Exception | None) -> NetworkError:
        """Return what to say of an answer that has no end."""
        if exchange.span is None or self._head is None:
            return broken(exchange, exc)
        return _cut_short(exchange, exc)

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
        refused = self._head is not None and exchange.accepts is not None and exchange.span is None
        if refused and now - self._head_at >= limit:
            self._finish(cut=True)  # what there is of a refusal's words is enough
            self._transport.abort()
        elif self._resuming is not None or (self._sender is not None and self._sender.is_paused):
            self._timer = self._loop.call_at(now + limit, self._watch)  # the silence is ours
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
    if cut or len(content) > exchange.stop - span.position:
        raise _too_long(exchange)
    span.put(memoryview(content)[: span.left])
    if span.left:
        raise _cut_short(exchange, None)
    return bytearray()


def _too_long(exchange: Exchange) -> NetworkError:
    return NetworkError(f"{redact(exchange.url)}: more bytes arrived than were announced")


def _cut_short(exchange: Exchange, exc: Exception | None) -> NetworkError:
    assert exchange.span is not None
    say = cut_short if exc is None else broke_at
    return say(exchange.url, exchange.span.position, exchange.stop)


def broken(exchange: Exchange, exc: BaseException | None) -> NetworkError:
    """Return what to say of a connection that ended before its answer."""
    reason = "the server hung up" if exc is None else reason_of(exc)
    return failed(exchange.method, exchange.url, reason)
