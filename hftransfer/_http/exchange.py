"""A request, the buffer for its body, and one attempt at it (RFC 9110).

A `Request` says what to send and what to do with the response. It does not change, so it can be
sent again, and may pass from one thread to another. An `Exchange` is one attempt at it on one
connection, and is used only by the thread of that connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.errors import connection_failed, failure_reason
from hftransfer._http.status import check_content_range
from hftransfer._io.file_range import BodyRange
from hftransfer._io.rate_limit import PendingDelay
from hftransfer.errors import NetworkError, Response, redact

__all__ = (
    "AnswerProgress",
    "BufferTarget",
    "Exchange",
    "Request",
    "StaleConnectionError",
    "connection_ended",
)


class StaleConnectionError(Exception):
    """Raised when a connection ends before the first byte of a response."""


class BufferTarget:
    """The buffer that a body is received into, and the check of the response that may fill it.

    Args:
        buffer: for the body. Another thread may shorten it (`ByteRangeBuffer.split_off`) while the
            response arrives; the exchange then ends when it is full, and its connection is closed.
        url: for error messages.
        size: expected bytes of the whole body; another size means that the source has changed.
        on_headers: called with the headers of the accepted response, before its body arrives, in
            the thread that receives it.
    """

    __slots__ = ("_on_accept", "_on_headers", "_size", "_url", "buffer", "start", "stop")

    def __init__(
        self,
        buffer: ByteRangeBuffer,
        url: str,
        size: int,
        on_headers: Callable[[Mapping[str, str]], object] | None = None,
    ) -> None:
        self.buffer = buffer
        self.start = buffer.position
        """Offset in the file of the first byte that is requested."""
        self.stop = buffer.stop
        """Offset after the last byte that is requested, also when the buffer is shortened later."""
        self._url = url
        self._size = size
        self._on_headers = on_headers
        self._on_accept: Callable[[], object] | None = None

    def report_acceptance(self, on_accept: Callable[[], object]) -> None:
        """Call `on_accept` in the running event loop once a response is accepted."""
        loop = asyncio.get_running_loop()
        self._on_accept = partial(loop.call_soon_threadsafe, on_accept)

    def accept(self, status: int, headers: Mapping[str, str]) -> bool:
        """Return True if the body of a response goes into the buffer.

        Raises:
            NetworkError, RangeNotSupportedError, SourceChangedError: as `check_content_range`.
        """
        if status not in (200, 206):
            return False
        check_content_range(status, headers, self._url, self.start, self.stop, self._size)
        if self.buffer.response_started_at is None:
            self.buffer.response_started_at = time.monotonic()
        if self._on_accept is not None:
            self._on_accept()
        if self._on_headers is not None:
            self._on_headers(headers)
        return True


class AnswerProgress:
    """How much of a collected answer has arrived. Used in one thread."""

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received = 0
        """Bytes of the body."""


class Request(NamedTuple):
    """What to send, and what to do with the body of the response."""

    method: str
    url: str
    """Sent byte for byte as it is."""
    headers: Mapping[str, str]
    body: BodyRange | None
    """Sent from where it is. It must not change before the response has arrived."""
    body_limit: int
    """Bytes of the response's body to keep, if it does not go into `target`."""
    target: BufferTarget | None = None
    headers_only: bool = False
    """True to skip the body of a response with a status below 300."""
    needs_new_connection: bool = False
    """True if it repeats one that is slow: it goes over a connection of its own, and to another
    address of the host if there is one."""
    progress: AnswerProgress | None = None
    """Counts the bytes of the answer, if it is not for `target`; None if nobody asks."""

    def __repr__(self) -> str:
        # asyncio's debug mode logs the arguments of slow calls; URL and headers have secrets.
        return f"<Request {self.method} {redact(self.url)}>"


class Exchange:
    """One attempt at a request on one connection."""

    __slots__ = ("ended_in_place", "pending_delay", "request", "response", "response_started")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.response_started = False
        """True once a byte of the response has arrived."""
        self.ended_in_place = False
        """True if the body was received in place, so that bytes after it were not read with it."""
        self.pending_delay: PendingDelay | None = None
        """The delay that the rate limiter demands for the last bytes."""


def connection_ended(request: Request, error: BaseException | None) -> NetworkError:
    """Return the error for a connection that ended before the response was complete.

    Args:
        request: of the exchange.
        error: what broke the connection; None if the server closed it.
    """
    reason = "the server closed the connection" if error is None else failure_reason(error)
    return connection_failed(request.method, request.url, reason)
