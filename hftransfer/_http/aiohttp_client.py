"""Requests and bodies of any size by aiohttp: what `HttpClient` does not do itself.

aiohttp replaces, once, a connection that ended before any answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
from aiohttp.abc import AbstractStreamWriter

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.streams import ByteStream
from hftransfer._http.aiohttp_session import Connections, SendTimeout, translated
from hftransfer._http.errors import broke_at, cut_short, too_long
from hftransfer._http.status import check_extent, is_redirect, status_error
from hftransfer._io.file_range import BodyRange
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import NetworkError, Response
from hftransfer.options import Timeouts

__all__ = ("AiohttpClient", "Connections")

_PIECE = 64 * 1024


class AiohttpClient:
    """The verbs of `HttpClient` by aiohttp, with the errors named there.

    Args:
        timeouts: limits on waiting.
        connections: of the running event loop.
        throttle: paid for every byte of a body.
    """

    def __init__(self, timeouts: Timeouts, connections: Connections, throttle: RateLimiter) -> None:
        self._throttle = throttle
        self._timeouts = timeouts
        self._connections = connections

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.aclose()

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: BodyRange | None,
        *,
        limit: int,
    ) -> Response:
        """Send a request and return its answer, of whose body `limit` bytes are kept."""
        data = None
        if body is not None:
            data = _RangePayload(body, self._throttle, self._timeouts.read) if body else b""
        async with self._connections.open(method, url, headers, data) as answer:
            return _response(method, url, answer, await _read_limited(answer, limit))

    async def get_headers(self, url: str, headers: Mapping[str, str], *, limit: int) -> Response:
        """As `request` with GET, but the body of an answer below 300 is not read."""
        async with self._connections.open("GET", url, headers) as answer:
            wanted = answer.status >= 300
            content = await _read_limited(answer, limit) if wanted else b""
            if not wanted:
                answer.close()
            return _response("GET", url, answer, content)

    async def fill(
        self,
        url: str,
        headers: Mapping[str, str],
        span: ByteRangeBuffer,
        accepts: Callable[[int, Mapping[str, str]], bool],
        *,
        limit: int,
    ) -> Response:
        """GET `url`; the body of an accepted answer goes into `span`, that of others is kept.

        The span may be made shorter meanwhile: this then returns as soon as it is full.
        """
        stop = span.stop
        async with self._connections.open("GET", url, headers, stall=False) as answer:
            if not accepts(answer.status, answer.headers):
                content = await _read_limited(answer, limit, self._timeouts.read)
                return _response("GET", url, answer, content)
            try:
                await self._receive(url, answer, span, stop)
            except (EOFError, aiohttp.ClientPayloadError) as error:
                raise cut_short(url, span.position, stop) from error
            except ConnectionError as error:
                if isinstance(error, NetworkError):
                    raise
                raise broke_at(url, span.position, stop) from error
            return _response("GET", url, answer, b"")

    async def _receive(
        self, url: str, answer: aiohttp.ClientResponse, span: ByteRangeBuffer, stop: int
    ) -> None:
        while True:
            with anyio.fail_after(self._timeouts.read):
                data = await answer.content.readany()
            if not data:
                break
            # Data that is always there already would let nobody cancel this.
            await anyio.lowlevel.checkpoint_if_cancelled()
            if len(data) > stop - span.position:
                raise too_long(url)
            span.put(data[: span.missing])
            if not span.missing and span.stop < stop:
                answer.close()  # it was made shorter meanwhile
                return
            await self._throttle.pay(len(data))
        if span.missing:
            raise EOFError

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], *, size: int, limit: int
    ) -> AsyncIterator[ByteStream | Response]:
        """Open `url` as one body of `size` bytes, or give the redirect that was the answer."""
        async with self._connections.open("GET", url, headers) as answer:
            if answer.status != 200:
                refusal = _response("GET", url, answer, await _read_limited(answer, limit))
                if not is_redirect(refusal):
                    raise status_error(refusal)
                yield refusal
            else:
                check_extent(200, answer.headers, url, 0, size, size)
                yield _Body(answer, url, size, self._throttle)


class _RangePayload(aiohttp.Payload):
    """A request body in memory or in a file, which must not change until it was sent.

    Args:
        body: what is sent.
        throttle: paid for every byte.
        timeout: seconds for which the server may take nothing.
    """

    def __init__(self, body: BodyRange, throttle: RateLimiter, timeout: float) -> None:
        super().__init__(body)
        self._body = body
        self._throttle = throttle
        self._timeout = timeout

    @property
    def size(self) -> int:
        """Bytes, of which aiohttp makes Content-Length."""
        return len(self._body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._body.get(0, len(self._body)), encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body; aiohttp has written the head, or is about to.

        Raises:
            SendTimeout: if the server takes nothing for too long.
            OSError: if the connection breaks.
            SourceChangedError, TransferError: if the file of the body cannot be read, or changed.
        """
        for start in range(0, len(self._body), _PIECE):
            size = min(_PIECE, len(self._body) - start)
            found = self._body.get_now(start, size)
            if found is None:
                found = await anyio.to_thread.run_sync(self._body.get, start, size)
            # A copy: what a transport could not send at once it keeps, also when it is closed.
            piece = bytes(found)
            with anyio.move_on_after(self._timeout) as waiting:
                await writer.write(piece)
            if waiting.cancelled_caught:
                raise SendTimeout
            await self._throttle.pay(len(piece))
        self._body.check()


class _Body:
    """A `ByteStream` over one open response."""

    def __init__(
        self, answer: aiohttp.ClientResponse, url: str, size: int, throttle: RateLimiter
    ) -> None:
        self._answer = answer
        self._url = url
        self._size = size
        self._throttle = throttle
        self._position = 0

    async def readinto(self, buffer: memoryview) -> None:
        filled = 0
        with translated("GET", self._url):
            while filled < len(buffer):
                try:
                    data = await self._answer.content.read(len(buffer) - filled)
                except aiohttp.ClientPayloadError as error:
                    raise cut_short(self._url, self._position + filled, self._size) from error
                if not data:
                    raise cut_short(self._url, self._position + filled, self._size)
                buffer[filled : filled + len(data)] = data
                filled += len(data)
                await self._throttle.pay(len(data))
        self._position += filled


async def _read_limited(
    answer: aiohttp.ClientResponse, limit: int, patience: float | None = None
) -> bytes:
    """Read a body up to `limit` bytes, and for `patience` seconds where aiohttp has no limit.

    What is longer or slower is cut, and its connection closed.
    """
    pieces = bytearray()
    with anyio.move_on_after(patience) as waiting:
        async for data in answer.content.iter_any():
            pieces += data
            if len(pieces) > limit:
                answer.close()
                break
    if waiting.cancelled_caught:
        answer.close()
    return bytes(pieces[:limit])


def _response(method: str, url: str, answer: aiohttp.ClientResponse, body: bytes) -> Response:
    return Response(method, url, answer.status, answer.headers, body)
