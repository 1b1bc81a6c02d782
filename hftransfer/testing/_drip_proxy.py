"""A proxy in front of any HTTP server that lets chosen requests or responses trickle."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from typing_extensions import Self

__all__ = ("DripHandle", "DripProxy", "ProxiedRequest")

_READ_BYTES = 1 << 18
_MAX_HEAD = 1 << 18
# A trickling body is sent in this many steps per second.
_STEPS_PER_SECOND = 20


@dataclass(frozen=True)
class ProxiedRequest:
    """The head of a request, as the client sent it.

    Attributes:
        method: HTTP method.
        target: percent-encoded path and query.
        headers: by their names in lower case.
        connection: number of the client's connection, counted from 1.
        number: of the request, counted from 1 over all connections.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    connection: int
    number: int


class DripHandle:
    """Counts the requests that one drip has hit. May be read in any thread."""

    def __init__(
        self,
        bytes_per_second: float,
        when: Callable[[ProxiedRequest], bool],
        after: int,
        times: int | None,
        direction: Literal["response", "request"],
        after_bytes: int,
    ) -> None:
        self.count = 0
        """Requests that were hit so far."""
        self._bytes_per_second = bytes_per_second
        self._when = when
        self._skip = after
        self._times = times
        self._direction = direction
        self._after_bytes = after_bytes

    def claim(self, request: ProxiedRequest) -> _Rate | None:
        """Return the rate for a request that this hits; called by the proxy."""
        if not self._when(request):
            return None
        if self._skip > 0:
            self._skip -= 1
            return None
        if self._times is not None and self.count >= self._times:
            return None
        self.count += 1
        return _Rate(self._bytes_per_second, self._direction, self._after_bytes)


@dataclass
class _Rate:
    bytes_per_second: float
    direction: Literal["response", "request"]
    left: int
    """Bytes that pass at once."""


class DripProxy:
    """Forwards connections to an HTTP server without changing a byte; a context manager.

    Signed requests stay valid, so that it can stand in front of any S3 server. Plain HTTP only.
    Example::

        with start_minio() as server, DripProxy(server.endpoint) as proxy:
            # The first request for the third part of an upload is read at 2,000 bytes/s.
            proxy.add_drip(
                2000, when=lambda request: "partNumber=3" in request.target, direction="request"
            )
            ...  # boto3.client("s3", endpoint_url=proxy.endpoint)

    Args:
        upstream: URL of the server, ``http://HOST:PORT``.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"upstream must be http://HOST:PORT, not {upstream!r}")
        self._upstream = parts.hostname, parts.port or 80
        self._handles: list[DripHandle] = []
        self._requests: list[ProxiedRequest] = []
        self._lock = threading.Lock()  # guards both lists
        self._connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="drip-proxy")
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        try:
            self._server = started.result(10)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._stop()

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``, without a trailing slash."""
        assert self._server is not None, "the proxy is not running"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def requests(self) -> list[ProxiedRequest]:
        """All requests so far, in order of arrival."""
        with self._lock:
            return list(self._requests)

    def add_drip(
        self,
        bytes_per_second: float,
        *,
        when: Callable[[ProxiedRequest], bool] = lambda request: True,
        after: int = 0,
        times: int | None = 1,
        direction: Literal["response", "request"] = "response",
        after_bytes: int = 0,
    ) -> DripHandle:
        """Let requests, or the responses to them, trickle.

        Args:
            bytes_per_second: of a connection, from the bytes named by `after_bytes` on, until its
                next request.
            when: hits only requests for which this returns True; called in the proxy's thread.
                Default: any.
            after: matching requests that are forwarded normally first. Default 0.
            times: matching requests that are then hit; None for all. Default 1.
            direction: what trickles, `"response"` or `"request"`. Default the response.
            after_bytes: bytes of the response, its head included, or of the request's body, that
                are forwarded at once. Default 0.

        Returns:
            A handle that counts the requests.
        """
        if bytes_per_second <= 0:
            raise ValueError("bytes_per_second must be positive")
        handle = DripHandle(bytes_per_second, when, after, times, direction, after_bytes)
        with self._lock:
            self._handles.append(handle)
        return handle

    # --- in the proxy's thread

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        number = self._connections
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection(*self._upstream)
            connection = _Connection(number, self._claim)
            forwarding = {
                asyncio.ensure_future(connection.forward_requests(reader, upstream)),
                asyncio.ensure_future(connection.forward_responses(answers, writer)),
            }
            try:
                await asyncio.wait(forwarding, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in forwarding:
                    direction.cancel()
                await asyncio.gather(*forwarding, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the client sees a closed connection
        finally:
            self._tasks.discard(task)
            for each in (writer, upstream):
                if each is not None:
                    each.transport.abort()

    def _claim(self, connection: int, head: bytes) -> tuple[ProxiedRequest, _Rate | None]:
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        fields = [field.partition(":") for field in lines if field]
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        with self._lock:
            number = len(self._requests) + 1
            request = ProxiedRequest(method, target, headers, connection, number)
            self._requests.append(request)
            handles = list(self._handles)
        rates = (handle.claim(request) for handle in handles)
        return request, next((rate for rate in rates if rate is not None), None)


class _Connection:
    """One connection of a client, and the one to the server for it."""

    def __init__(
        self, number: int, claim: Callable[[int, bytes], tuple[ProxiedRequest, _Rate | None]]
    ) -> None:
        self._number = number
        self._claim = claim
        self._rate: _Rate | None = None
        """Of the present request."""

    async def forward_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        buffered = b""
        while True:
            while b"\r\n\r\n" not in buffered and len(buffered) < _MAX_HEAD:
                if not (data := await reader.read(_READ_BYTES)):
                    return
                buffered += data
            head, _, buffered = buffered.partition(b"\r\n\r\n")
            request, self._rate = self._claim(self._number, head)
            await _write(writer, head + b"\r\n\r\n")
            left = int(request.headers.get("content-length", "0"))
            while left:
                if not buffered and not (buffered := await reader.read(_READ_BYTES)):
                    return
                body, buffered = buffered[:left], buffered[left:]
                left -= len(body)
                await self._forward(writer, body, "request")

    async def forward_responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_READ_BYTES):
            await self._forward(writer, data, "response")

    async def _forward(self, writer: asyncio.StreamWriter, data: bytes, direction: str) -> None:
        rate = self._rate
        if rate is None or rate.direction != direction:
            await _write(writer, data)
            return
        await _write(writer, data[: rate.left])
        data, rate.left = data[rate.left :], max(0, rate.left - len(data))
        step = max(1, int(rate.bytes_per_second / _STEPS_PER_SECOND))
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            await asyncio.sleep(len(piece) / rate.bytes_per_second)
            await _write(writer, piece)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        writer.write(data)
        with suppress(ConnectionError):
            await writer.drain()
