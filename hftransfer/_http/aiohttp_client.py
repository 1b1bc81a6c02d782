"""aiohttp carries what is not a body of known length to or from memory.

That is bodies that are read as a stream, and requests to URLs that have to be quoted and by proxies
of unusual kinds. `pool` says why the rest does not use it.

As `ConnectionPool.send`, aiohttp replays an idempotent request once if a reused connection ends
before the response.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import anyio
import anyio.lowlevel
import anyio.to_thread
from aiohttp.abc import AbstractStreamWriter

from hftransfer._core.streams import ByteStream
from hftransfer._http.aiohttp_session import AiohttpSession, SendTimeout, translated_errors
from hftransfer._http.errors import broken_body, surplus_bytes, truncated_body
from hftransfer._http.exchange import BufferTarget, Request
from hftransfer._http.status import check_content_range, is_redirect, status_error
from hftransfer._io.file_range import BodyRange
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import NetworkError, Response
from hftransfer.options import Timeouts

__all__ = ("AiohttpClient",)

# Read timeouts for the body of a response to a control request.
_SLOW_BODY = 20
# Bytes per write of a request's body.
_PIECE = 64 * 1024


class AiohttpClient:
    """Sends requests by aiohttp, and opens bodies as streams.

    Args:
        timeouts: limits on waiting.
        session: of the running event loop; closed by this client.
        rate_limiter: counts every byte of a body.
    """

    def __init__(
        self, timeouts: Timeouts, session: AiohttpSession, rate_limiter: RateLimiter
    ) -> None:
        self._timeouts = timeouts
        self._session = session
        self._rate_limiter = rate_limiter

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.aclose()

    async def send(self, request: Request) -> Response:
        """Send a request and return the response, as `ConnectionPool.send`."""
        method, url, body = request.method, request.url, request.body
        if request.target is not None:
            return await self._fill(request, request.target)
        data = None
        if body is not None:
            data = _RangePayload(body, self._rate_limiter, self._timeouts.read) if body else b""
        async with self._session.open(method, url, request.headers, data) as response:
            if request.headers_only and response.status < 300:
                response.close()
                return _response(method, url, response, b"")
            # As in `Connection`: an error is cut soon, and any other response may take minutes.
            seconds = self._timeouts.read * (1 if response.status >= 300 else _SLOW_BODY)
            content = await _read_limited(response, request.body_limit, seconds)
            return _response(method, url, response, content)

    async def _fill(self, request: Request, target: BufferTarget) -> Response:
        """Send a request with a target, and receive the body of an accepted response into it."""
        method, url, buffer = request.method, request.url, target.buffer
        opened = self._session.open(method, url, request.headers, limit_body_silence=False)
        async with opened as response:
            if not target.accept(response.status, response.headers):
                limit = request.body_limit
                content = await _read_limited(response, limit, self._timeouts.read)
                return _response(method, url, response, content)
            try:
                await self._receive(url, response, target)
            except (EOFError, aiohttp.ClientPayloadError) as error:
                raise truncated_body(url, buffer.position, target.stop) from error
            except ConnectionError as error:
                if isinstance(error, NetworkError):
                    raise
                raise broken_body(url, buffer.position, target.stop) from error
            return _response(method, url, response, b"")

    async def _receive(
        self, url: str, response: aiohttp.ClientResponse, target: BufferTarget
    ) -> None:
        buffer = target.buffer
        while True:
            with anyio.fail_after(self._timeouts.read):
                data = await response.content.readany()
            if not data:
                break
            # `readany` does not yield to the event loop while it has data.
            await anyio.lowlevel.checkpoint_if_cancelled()
            if len(data) > target.stop - buffer.position:
                raise surplus_bytes(url)
            buffer.append(data[: buffer.missing])
            if not buffer.missing and buffer.stop < target.stop:
                response.close()  # the buffer was shortened: the rest is not wanted
                return
            await self._rate_limiter.throttle(len(data))
        if buffer.missing:
            raise EOFError

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], *, size: int, limit: int
    ) -> AsyncIterator[ByteStream | Response]:
        """GET `url` as one body of `size` bytes; yield the body, or a redirect.

        Args:
            url: sent as it is.
            headers: of the request.
            size: expected bytes of the body.
            limit: bytes of the body of an error or redirect to keep.

        Raises:
            TransferError: as `HttpClient.fill`.
        """
        async with self._session.open("GET", url, headers) as response:
            if response.status != 200:
                content = await _read_limited(response, limit)
                error_or_redirect = _response("GET", url, response, content)
                if not is_redirect(error_or_redirect):
                    raise status_error(error_or_redirect)
                yield error_or_redirect
            else:
                check_content_range(200, response.headers, url, 0, size, size)
                yield _BodyStream(response, url, size, self._rate_limiter)


class _RangePayload(aiohttp.Payload):
    """A request body in memory or in a file, which must not change until it was sent.

    Args:
        body: the bytes to send.
        rate_limiter: counts every byte.
        timeout: seconds for which the server may accept nothing.
    """

    def __init__(self, body: BodyRange, rate_limiter: RateLimiter, timeout: float) -> None:
        super().__init__(body)
        self._body = body
        self._rate_limiter = rate_limiter
        self._timeout = timeout

    @property
    def size(self) -> int:
        """Bytes; aiohttp makes Content-Length of it."""
        return len(self._body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._body.get(0, len(self._body)), encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body; aiohttp has written the head, or is about to.

        Raises:
            SendTimeout: if the server accepts nothing for too long.
            OSError: if the connection breaks.
            SourceChangedError, TransferError: if the file of the body cannot be read, or changed.
        """
        for start in range(0, len(self._body), _PIECE):
            size = min(_PIECE, len(self._body) - start)
            found = self._body.get_nowait(start, size)
            if found is None:
                found = await anyio.to_thread.run_sync(self._body.get, start, size)
            # A copy, because a transport keeps the bytes that it cannot send at once, even after
            # it was closed, and the memory is the caller's again by then.
            piece = bytes(found)
            with anyio.move_on_after(self._timeout) as waiting:
                await writer.write(piece)
            if waiting.cancelled_caught:
                raise SendTimeout
            await self._rate_limiter.throttle(len(piece))
        self._body.check_unchanged()


class _BodyStream:
    """The body of an open response, as a `ByteStream`."""

    def __init__(
        self, response: aiohttp.ClientResponse, url: str, size: int, rate_limiter: RateLimiter
    ) -> None:
        self._response = response
        self._url = url
        self._size = size
        self._rate_limiter = rate_limiter
        self._position = 0

    async def readinto(self, buffer: memoryview) -> None:
        filled = 0
        with translated_errors("GET", self._url):
            while filled < len(buffer):
                try:
                    data = await self._response.content.read(len(buffer) - filled)
                except aiohttp.ClientPayloadError as error:
                    raise self._truncated(filled) from error
                if not data:
                    raise self._truncated(filled)
                buffer[filled : filled + len(data)] = data
                filled += len(data)
                await self._rate_limiter.throttle(len(data))
        self._position += filled

    def _truncated(self, filled: int) -> NetworkError:
        return truncated_body(self._url, self._position + filled, self._size)


async def _read_limited(
    response: aiohttp.ClientResponse, limit: int, seconds: float | None = None
) -> bytes:
    """Read a body up to `limit` bytes, for at most `seconds`.

    A longer or slower body is cut, and its connection closed.

    Args:
        response: whose body to read.
        limit: bytes.
        seconds: None if aiohttp limits the waiting for each piece.
    """
    pieces = bytearray()
    with anyio.move_on_after(seconds) as waiting:
        async for data in response.content.iter_any():
            pieces += data
            if len(pieces) > limit:
                response.close()
                break
    if waiting.cancelled_caught:
        response.close()
    return bytes(pieces[:limit])


def _response(method: str, url: str, response: aiohttp.ClientResponse, body: bytes) -> Response:
    return Response(method, url, response.status, response.headers, body)
