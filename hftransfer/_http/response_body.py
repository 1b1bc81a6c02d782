"""The body of a response as it arrives: into the caller's buffer, or collected."""

from __future__ import annotations

from enum import Enum

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.errors import broken_body, not_http, surplus_bytes, truncated_body
from hftransfer._http.exchange import Exchange, connection_ended
from hftransfer._http.parser import (
    ChunkedDecoder,
    MalformedResponseError,
    ResponseHead,
    decode_content,
)
from hftransfer.errors import NetworkError

__all__ = ("BodyProgress", "ResponseBody")


# Bytes per second below which a collected body may not last.
_MIN_RATE = 1024


class BodyProgress(Enum):
    """What the connection does next, after bytes of a body have arrived."""

    INCOMPLETE = "receive more"
    COMPLETE = "the body has arrived"
    ABANDONED = "the rest is not wanted: close the connection"


class ResponseBody:
    """The body of one response.

    Args:
        exchange: whose response it is; its target accepts or refuses the response here.
        head: of the response.
        started_at: when the head arrived, by the clock of the event loop.

    Raises:
        TransferError: as `BufferTarget.accept`.
    """

    def __init__(self, exchange: Exchange, head: ResponseHead, started_at: float) -> None:
        self.head = head
        self.started_at = started_at
        self.is_error_response = False
        """True if this is an error or a redirect, or not the body that the target needs."""
        self.is_in_place = False
        """True while the transport writes into the target's buffer itself.

        That needs a body as long as what is missing there.
        """
        self.has_content = False
        """True if the last call of `feed` brought content: the framing of chunks is none."""
        self.stored = 0
        """Bytes that went into the target's buffer."""
        self.counted = 0
        """Bytes of these that the rate limiter has counted."""
        self.has_surplus = False
        """True if bytes came after the end of the body."""
        self._request = request = exchange.request
        self._left = head.length
        """Bytes of the body that have not arrived, if its length is known."""
        self._decoder = ChunkedDecoder() if head.chunked else None
        self._collected = bytearray()
        self._limit = request.body_limit
        self._buffer: ByteRangeBuffer | None = None
        """Where the body goes; None to collect it."""
        self._stop = 0
        """Where the body ends in the file, if it goes into the buffer."""
        self._is_encoded = head.headers.get("content-encoding", "identity").lower() != "identity"
        target = request.target
        if target is None:
            self.is_error_response = head.status >= 300
            return
        if not target.accept(head.status, head.headers):
            self.is_error_response = True
            return
        self._buffer, self._stop = target.buffer, target.stop
        missing = target.stop - target.buffer.position
        if self._is_encoded:
            self._limit += missing  # collected, because it can be decoded only when it is complete
        else:
            self.is_in_place = head.length == missing and missing > 0

    @property
    def ends_with_connection(self) -> bool:
        """True if neither a length nor chunks tell where the body ends."""
        return self.head.length is None and not self.head.chunked

    @property
    def left(self) -> int:
        """Bytes that have not arrived; 0 if the length is not known."""
        return self._left or 0

    def is_too_slow(self, now: float, limit: float) -> bool:
        """Return True if a body that is collected arrives at less than 1 KiB/s.

        Not so for bytes of a file: its connections may share a slow line.

        Args:
            now: by the clock of the event loop.
            limit: seconds that are allowed at any rate.
        """
        seconds = now - self.started_at
        collected = len(self._collected)
        return self._buffer is None and seconds > limit and collected < seconds * _MIN_RATE

    def space(self) -> memoryview:
        """Return the memory for the transport to write into; empty if not in place."""
        if not self.is_in_place or self._buffer is None:
            return memoryview(b"")
        return self._buffer.remaining[: self._left]

    def advance(self, count: int) -> BodyProgress:
        """Record that the transport has written `count` bytes into `space`."""
        buffer = self._buffer
        assert buffer is not None
        assert self._left is not None
        if not buffer.missing:
            # The buffer was shortened before these bytes arrived, so they went elsewhere.
            return BodyProgress.ABANDONED
        buffer.advance(count)
        self.stored += count
        self._left -= count
        if not self._left:
            return BodyProgress.COMPLETE
        return BodyProgress.INCOMPLETE if buffer.missing else BodyProgress.ABANDONED

    def feed(self, data: memoryview) -> BodyProgress:
        """Copy bytes of the body that were received elsewhere.

        Raises:
            NetworkError: if more bytes arrive than fit into the buffer.
            MalformedResponseError: if the chunks are malformed.
        """
        if self._left is not None:
            if len(data) > self._left:
                if self._buffer is not None:
                    raise surplus_bytes(self._request.url)
                self.has_surplus = True  # no bytes of a file: closing the connection is enough
                data = data[: self._left]
            self._left -= len(data)
        ended = self._left == 0
        if self._decoder is not None:
            self._decoder.feed(data)
            data = self._decoder.take()
            ended, self.has_surplus = self._decoder.ended, self._decoder.has_surplus
        self.has_content = bool(data) or ended
        if self._buffer is not None and not self._is_encoded:
            is_wanted = self._put(self._buffer, data)
        else:
            self._collected += data
            if self._request.progress is not None:
                self._request.progress.received += len(data)
            is_wanted = ended or len(self._collected) <= self._limit
        if not is_wanted:
            return BodyProgress.ABANDONED
        return BodyProgress.COMPLETE if ended else BodyProgress.INCOMPLETE

    def _put(self, buffer: ByteRangeBuffer, data: memoryview) -> bool:
        """Copy into the buffer; return False if the rest of the body is not wanted."""
        if len(data) > self._stop - buffer.position:
            raise surplus_bytes(self._request.url)
        buffer.append(data[: buffer.missing])
        self.stored += len(data)
        return buffer.missing > 0 or buffer.stop == self._stop

    def finish(self, *, truncated: bool) -> bytes:
        """Return the collected body, decoded; put it into the buffer if it belongs there.

        Args:
            truncated: the rest of the body was not received.

        Raises:
            NetworkError: if the buffer is not full now, or the body cannot be decoded.
        """
        content = self._collected
        buffer = self._buffer
        if self._is_encoded and content and not truncated:
            limit = self._request.body_limit if buffer is None else buffer.missing + 1
            content = self._decoded(content, limit)
        if buffer is None:
            return bytes(content[: self._request.body_limit])
        if self._is_encoded:
            if truncated or len(content) > self._stop - buffer.position:
                raise surplus_bytes(self._request.url)
            buffer.append(memoryview(content)[: buffer.missing])
        if buffer.missing:
            raise truncated_body(self._request.url, buffer.position, self._stop)
        return b""

    def broken(self, error: Exception | None) -> NetworkError:
        """Return the error for a connection that ended before the body did.

        Args:
            error: what broke the connection; None if the server closed it.
        """
        if self._buffer is None:
            return connection_ended(self._request, error)
        make_error = truncated_body if error is None else broken_body
        return make_error(self._request.url, self._buffer.position, self._stop)

    def _decoded(self, content: bytearray, limit: int) -> bytearray:
        encoding = self.head.headers["content-encoding"].lower()
        try:
            return decode_content(content, encoding, limit)
        except MalformedResponseError as error:
            raise not_http(self._request.method, self._request.url, error) from error
