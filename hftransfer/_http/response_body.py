"""The body of an answer as it comes over a connection: into a span, or collected."""

from __future__ import annotations

from enum import Enum

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.errors import broke_at, cut_short, no_http, too_long
from hftransfer._http.exchange import Exchange, broken
from hftransfer._http.parser import ChunkedBody, Head, MalformedResponseError, decoded
from hftransfer.errors import NetworkError

__all__ = ("Progress", "ResponseBody")


class Progress(Enum):
    """What is to be done after some bytes of a body."""

    MORE = "wait for more"
    ENDED = "the body is there"
    CUT = "nothing else of it is wanted"


class ResponseBody:
    """What becomes of the body of one answer.

    Args:
        exchange: whose answer it is; its `accepts` is asked now.
        head: of the answer.

    Raises:
        TransferError: what `accepts` raises.
    """

    def __init__(self, exchange: Exchange, head: Head) -> None:
        self.head = head
        self.is_error_response = False
        """True if the exchange has a span, and this is not what belongs there."""
        self.is_direct = False
        """True if the body is as long as the span: the transport itself may write into it."""
        self.stored = 0
        """Bytes that went into the span."""
        self.has_surplus = False
        """True if bytes came after the end of the body."""
        self._exchange = exchange
        self._left = head.length
        self._chunks = ChunkedBody() if head.chunked else None
        self._collected = bytearray()
        self._limit = exchange.limit
        self._target: ByteRangeBuffer | None = None
        """Where the body belongs, if it does not belong to whoever asked."""
        self._is_encoded = head.headers.get("content-encoding", "identity").lower() != "identity"
        if exchange.accepts is None:
            return
        if exchange.span is None or not exchange.accepts(head.status, head.headers):
            self.is_error_response = True
            return
        self._target = exchange.span
        missing = exchange.stop - exchange.span.position
        if self._is_encoded:
            self._limit += missing  # of no use before it is whole
        else:
            self.is_direct = head.length == missing and missing > 0

    @property
    def ends_with_connection(self) -> bool:
        """True if nothing else tells the end of the body."""
        return self.head.length is None and not self.head.chunked

    @property
    def left(self) -> int:
        """Bytes that are still to come, if the head said how many there are."""
        return self._left or 0

    def room(self) -> memoryview:
        """Return the memory into which the transport may write; none if nothing is wanted."""
        if not self.is_direct or self._target is None:
            return memoryview(b"")
        return self._target.remaining[: self._left]

    def arrived(self, count: int) -> Progress:
        """Note that the transport has written `count` bytes, into `room` or instead of it."""
        span = self._target
        assert span is not None
        assert self._left is not None
        if not span.missing:
            # It was made shorter while these were on their way; they are another's.
            return Progress.CUT
        span.advance(count)
        self.stored += count
        self._left -= count
        if not self._left:
            return Progress.ENDED
        return Progress.MORE if span.missing else Progress.CUT

    def take(self, data: memoryview) -> Progress:
        """Take bytes of the body that lie elsewhere.

        Raises:
            NetworkError: if more comes than belongs into the span.
            MalformedResponseError: if the body is none.
        """
        if self._left is not None:
            if len(data) > self._left:
                if self._target is not None:
                    raise too_long(self._exchange.url)
                self.has_surplus = True  # after what is not about a file: not our business
                data = data[: self._left]
            self._left -= len(data)
        ended = self._left == 0
        if self._chunks is not None:
            self._chunks.feed(data)
            data = self._chunks.take()
            ended, self.has_surplus = self._chunks.ended, self._chunks.surplus
        if self._target is not None and not self._is_encoded:
            is_wanted = self._put(self._target, data)
        else:
            self._collected += data
            is_wanted = ended or len(self._collected) <= self._limit
        if not is_wanted:
            return Progress.CUT
        return Progress.ENDED if ended else Progress.MORE

    def _put(self, span: ByteRangeBuffer, data: memoryview) -> bool:
        """Copy into the span; return False if nothing else is wanted."""
        if len(data) > self._exchange.stop - span.position:
            raise too_long(self._exchange.url)
        span.append(data[: span.missing])
        self.stored += len(data)
        return span.missing > 0 or span.stop == self._exchange.stop

    def settle(self, *, cut: bool) -> bytes:
        """Return what was collected, without its encoding; what belongs into the span is put there.

        Args:
            cut: the body is not whole.

        Raises:
            NetworkError: if the span is not full now, or an encoding is none.
        """
        content = self._collected
        span = self._target
        if self._is_encoded and content and not cut:
            limit = self._exchange.limit if span is None else span.missing + 1
            content = self._decoded(content, limit)
        if span is None:
            return bytes(content[: self._exchange.limit])
        if self._is_encoded:
            if cut or len(content) > self._exchange.stop - span.position:
                raise too_long(self._exchange.url)
            span.append(memoryview(content)[: span.missing])
        if span.missing:
            raise cut_short(self._exchange.url, span.position, self._exchange.stop)
        return b""

    def broken(self, exc: Exception | None) -> NetworkError:
        """Return what to say of a body whose connection ended before it."""
        exchange, span = self._exchange, self._target
        if span is None:
            return broken(exchange, exc)
        say = cut_short if exc is None else broke_at
        return say(exchange.url, span.position, exchange.stop)

    def _decoded(self, content: bytearray, limit: int) -> bytearray:
        encoding = self.head.headers["content-encoding"].lower()
        try:
            return decoded(content, encoding, limit)
        except MalformedResponseError as error:
            raise no_http(self._exchange.method, self._exchange.url, error) from error
