"""HTTP: connections, requests and bodies.

A `HttpClient` is a connection pool with four verbs: small requests, ranged bodies into a
caller's memory, whole bodies as a stream, and bodies sent from memory. It follows no
redirect (whoever knows which credentials belong to which host does that), tries nothing
again (but replaces, once, a connection that ended before any answer, as idle ones do),
and raises errors of `hftransfer.errors` only. URLs are sent byte for byte as they are
given, since a re-quoted signed URL is refused.

Nearly all goes by `ConnectionPool`. aiohttp, which is loaded when it is needed, has bodies as
streams, and unusual URLs and proxies.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.plan import range_header
from hftransfer._core.streams import ByteStream
from hftransfer._http.loops import EventLoopPool
from hftransfer._http.pool import ConnectionPool
from hftransfer._http.settings import Proxies, tls_context
from hftransfer._http.status import check_extent, is_redirect, status_error
from hftransfer._io.file_range import Body, as_body_range
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import Response
from hftransfer.options import Timeouts

if TYPE_CHECKING:
    from hftransfer._http.aiohttp_client import AiohttpClient

__all__ = ("HttpClient",)

_ERROR_BODY = 64 * 1024
_CONTROL_BODY = 64 << 20
# Less is moved sooner than another thread would have been woken.
_LANE_MINIMUM = 1 << 20
# A core encrypts some 10 Gbit/s; what more than these bring, Python's lock takes again.
_MOST_LOOPS = 4


class HttpClient:
    """Connections to any number of hosts.

    Args:
        timeouts: limits on waiting.
        verify: TLS verification: None or True for the system's certificates (or
            ``SSL_CERT_FILE``, ``REQUESTS_CA_BUNDLE``), False for none, or the path of a
            CA bundle.
        rate_limiter: a bandwidth cap; None for none.
        loops: event loops for large bodies: the running one, and threads. None for as many as
            TLS can use, and one without it.

    Proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY``).
    """

    def __init__(
        self,
        timeouts: Timeouts,
        *,
        verify: bool | str | None = None,
        rate_limiter: RateLimiter | None = None,
        loops: int | None = 1,
    ) -> None:
        self._rate_limiter = rate_limiter or RateLimiter()
        self._timeouts = timeouts
        self._verify = verify
        self._tls: ssl.SSLContext | None = None
        self._proxies = Proxies()
        self._http1 = self._make_http1()
        self._lanes = EventLoopPool(self._http1, self._make_http1, loops or _loops_for_tls())
        self._lanes_for_all = loops is not None
        self._aiohttp: AiohttpClient | None = None

    def _make_http1(self) -> ConnectionPool:
        return ConnectionPool(self._timeouts, self._ready_tls, self._rate_limiter, self._proxies)

    def _ready_tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = tls_context(self._verify)  # reads the system's certificates: once is enough
        return self._tls

    def _ready_aiohttp(self) -> AiohttpClient:
        if self._aiohttp is None:
            from hftransfer._http.aiohttp_client import AiohttpClient, Connections

            connections = Connections(self._timeouts, self._ready_tls, self._proxies)
            self._aiohttp = AiohttpClient(self._timeouts, connections, self._rate_limiter)
        return self._aiohttp

    def _client(self, url: str) -> ConnectionPool | AiohttpClient:
        """Return what an exchange goes by."""
        return self._http1 if self._http1.takes(url) else self._ready_aiohttp()

    async def aclose(self) -> None:
        """Close all connections."""
        try:
            await self._http1.aclose()
        finally:
            try:
                await self._lanes.aclose()
            finally:
                if self._aiohttp is not None:
                    await self._aiohttp.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Response:
        """Send a request and return its whole, small answer, whatever the status.

        Args:
            method: HTTP method.
            url: sent as it is.
            headers: further request headers.
            body: sent from where it lies, in memory or in a file, without a copy where it is
                large and the connection allows it.

        Raises:
            NetworkError: if the connection fails.
            StalledError: if nothing arrives within the timeout.
            RejectedError: if the URL, a header or the host's certificate is invalid.
            SourceChangedError, TransferError: if the file of the body cannot be read.
        """
        sent = _plain(headers)
        region = None if body is None else as_body_range(body)

        def run(client: ConnectionPool | AiohttpClient) -> Awaitable[Response]:
            return client.request(method, url, sent, region, limit=_CONTROL_BODY)

        return await self._run(run, url, 0 if region is None else len(region))

    async def get_headers(self, url: str, *, headers: Mapping[str, str] | None = None) -> Response:
        """GET `url` for its status and headers alone; only the body of an error is read.

        Raises:
            NetworkError, StalledError, RejectedError: as `request`.
        """
        # A redirect's body is short: reading it keeps the connection usable.
        return await self._client(url).get_headers(url, _plain(headers), limit=_ERROR_BODY)

    async def fill(
        self,
        url: str,
        span: ByteRangeBuffer,
        *,
        size: int,
        headers: Mapping[str, str] | None = None,
        ranged: bool = True,
        on_headers: Callable[[Mapping[str, str]], object] | None = None,
    ) -> Response | None:
        """Fill what is missing of `span` with the bytes of a body, in place.

        Args:
            url: sent as it is.
            span: what is wanted; keeps what has arrived if this fails. It may be made
                shorter while this runs, which then ends when it is full.
            size: of the whole body; another size means another file.
            headers: further request headers.
            ranged: False to ask for the whole body, from its start, without a Range header.
            on_headers: told the headers of the answer before its body arrives, in whichever
                thread receives it.

        Returns:
            None when nothing is missing, or the redirect that was the answer.

        Raises:
            RangeNotSupportedError: if the answer to a Range is the whole body.
            SourceChangedError: if the size or the range is not the one expected.
            NetworkError: if the body ends early or the connection fails.
            StalledError: if nothing arrives within the timeout.
            TransferError: for any other status, by `status_error`.
        """
        if not ranged:
            span.restart()
        start, stop = span.position, span.stop
        sent = _plain(headers)
        if ranged:
            sent["Range"] = range_header(start, stop)

        def accepts(status: int, found: Mapping[str, str]) -> bool:
            if status not in (200, 206):
                return False
            check_extent(status, found, url, start, stop, size)
            if span.response_started_at is None:
                span.response_started_at = time.monotonic()
            if on_headers is not None:
                on_headers(found)
            return True

        def run(client: ConnectionPool | AiohttpClient) -> Awaitable[Response]:
            return client.fill(url, sent, span, accepts, limit=_ERROR_BODY)

        answer = await self._run(run, url, span.missing)
        if answer.status in (200, 206):
            return None
        if is_redirect(answer):
            return answer
        raise status_error(answer)

    async def _run(
        self,
        operation: Callable[[ConnectionPool | AiohttpClient], Awaitable[Response]],
        url: str,
        size: int,
    ) -> Response:
        """Run an exchange with a body of `size` bytes in whichever loop, by whichever client."""
        client = self._client(url)
        is_spread = size >= _LANE_MINIMUM and (self._lanes_for_all or url[:6] == "https:")
        if client is self._http1 and is_spread:
            return await self._lanes.run(operation)
        return await operation(client)

    @asynccontextmanager
    async def stream(
        self, url: str, *, size: int, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[ByteStream | Response]:
        """Open `url` as one body of `size` bytes, or give the redirect that was the answer.

        Raises:
            TransferError: as `fill`.
        """
        opened = self._ready_aiohttp().stream(url, _plain(headers), size=size, limit=_ERROR_BODY)
        async with opened as body:
            yield body


def _plain(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of a request whose body is wanted as it is stored.

    A compressed one has no usable ranges.
    """
    return {"Accept-Encoding": "identity", **(headers or {})}


def _loops_for_tls() -> int:
    """Return how many event loops decrypt, where nobody says: one for each usable core, at most."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    return min(cores, _MOST_LOOPS)
