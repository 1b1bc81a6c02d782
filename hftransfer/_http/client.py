"""HTTP for the stores: connections, requests and bodies.

An `HttpClient` has four methods: small requests, headers alone, ranges of a body received into the
caller's memory, and whole bodies as a stream. It follows no redirects, because only the caller
knows which credentials belong to which host. It does not retry: failures are retried by the engine
(`_io.retry`). Only a connection that the server closed while it was idle is replaced, once, before
the response (`ConnectionPool.send`). A small request whose answer is late is sent again beside the
first (`hedging`). It raises errors of `hftransfer.errors` only. URLs are sent byte for byte as they
are given, because quoting a signed URL again would invalidate it.

Nearly every request is sent by a `ConnectionPool`. aiohttp, imported when it is first needed,
carries what is not a body of known length to or from memory: streams, unusual URLs and proxies.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.plan import range_header
from hftransfer._core.streams import ByteStream
from hftransfer._http.errors import is_unknown_host, is_wrong_protocol
from hftransfer._http.exchange import BufferTarget, Request
from hftransfer._http.hedging import RequestHedger
from hftransfer._http.loops import EventLoopPool
from hftransfer._http.pool import ConnectionPool
from hftransfer._http.proxy import ProxyEnvironment
from hftransfer._http.status import is_outage_status, is_redirect, status_error
from hftransfer._http.tls import ENVIRONMENT_BUNDLES, TrustedCertificates
from hftransfer._io.file_range import Body, as_body_range
from hftransfer._io.origins import Origin, Origins
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import Response, TransientError
from hftransfer.options import Timeouts

if TYPE_CHECKING:
    from hftransfer._http.aiohttp_client import AiohttpClient

__all__ = ("HttpClient",)

# Bytes of a response's body to keep: of errors and redirects, and of control requests.
_MAX_ERROR_BODY = 64 * 1024
# A page of a listing has at most a few MiB.
_MAX_CONTROL_BODY = 16 << 20
# Smaller bodies stay in the running loop: they are moved sooner than another thread wakes up.
_MIN_SPREAD_BODY = 1 << 20
# One core encrypts about 10 Gbit/s. Beyond four loops, contention for the GIL cancels the gain.
_MAX_LOOPS = 4


class HttpClient:
    """Connections to any number of hosts, for use in one event loop.

    Args:
        timeouts: limits on waiting.
        verify: TLS verification: None or True for the system's certificates (or
            ``SSL_CERT_FILE``, ``REQUESTS_CA_BUNDLE``), False for none, or the path of a
            CA bundle.
        verify_setting: what the user sets to change `verify`, for messages.
        rate_limiter: a bandwidth cap; None for none.
        loops: event loops for bodies of 1 MiB and more: the running one, and threads. None for
            one without TLS, and one per usable core, up to four, with TLS.
        origins: record which servers fail, and refuse requests to those that are down. Default:
            of this client alone.

    Proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY``).
    """

    def __init__(
        self,
        timeouts: Timeouts,
        *,
        verify: bool | str | None = None,
        verify_setting: str = ENVIRONMENT_BUNDLES,
        rate_limiter: RateLimiter | None = None,
        loops: int | None = 1,
        origins: Origins | None = None,
    ) -> None:
        self._origins = origins or Origins()
        self._rate_limiter = rate_limiter or RateLimiter()
        self._timeouts = timeouts
        self._trusted = TrustedCertificates(verify, setting=verify_setting)
        self._proxies = ProxyEnvironment()
        self._pool = self._make_pool()
        self._loops = EventLoopPool(self._pool, self._make_pool, loops or _loops_for_tls())
        self._spreads_plain = loops is not None
        """True if bodies are spread over the loops without TLS, too."""
        self._aiohttp: AiohttpClient | None = None
        self._hedger = RequestHedger(lambda request: self._send(request, _body_size(request)))

    def _make_pool(self) -> ConnectionPool:
        return ConnectionPool(self._timeouts, self._trusted, self._rate_limiter, self._proxies)

    def _ready_aiohttp(self) -> AiohttpClient:
        if self._aiohttp is None:
            from hftransfer._http.aiohttp_client import AiohttpClient
            from hftransfer._http.aiohttp_session import AiohttpSession

            session = AiohttpSession(self._timeouts, self._trusted, self._proxies)
            self._aiohttp = AiohttpClient(self._timeouts, session, self._rate_limiter)
        return self._aiohttp

    async def aclose(self) -> None:
        """Close all connections."""
        try:
            await self._pool.aclose()
        finally:
            try:
                await self._loops.aclose()
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
        repeatable: bool = False,
    ) -> Response:
        """Send a request and return the response, whatever its status.

        Args:
            method: HTTP method.
            url: sent as it is.
            headers: further request headers.
            body: in memory or in a file; sent from there, without a copy if it is large and the
                connection is not encrypted.
            repeatable: True if it may be sent again while its response is late, as GET and HEAD
                without a body always may.

        Returns:
            The response with its body, of which at most 16 MiB are kept.

        Raises:
            NetworkError: if the connection fails.
            StalledError: if nothing arrives within the timeout.
            RejectedError: if the URL, a header or the host's certificate is invalid.
            SourceChangedError, TransferError: if the file of the body cannot be read.
        """
        content = None if body is None else as_body_range(body)
        request = Request(method, url, _request_headers(headers), content, _MAX_CONTROL_BODY)
        if repeatable or (method in ("GET", "HEAD") and content is None):
            return await self._hedger.send(request)
        return await self._send(request, _body_size(request))

    async def get_headers(self, url: str, *, headers: Mapping[str, str] | None = None) -> Response:
        """GET `url` for its status and headers; only the body of an error or redirect is read.

        Raises:
            NetworkError, StalledError, RejectedError: as `request`.
        """
        sent = _request_headers(headers)
        # Redirects and errors are short: reading their body keeps the connection usable.
        request = Request("GET", url, sent, None, _MAX_ERROR_BODY, headers_only=True)
        return await self._hedger.send(request)

    async def fill(
        self,
        url: str,
        buffer: ByteRangeBuffer,
        *,
        size: int,
        headers: Mapping[str, str] | None = None,
        ranged: bool = True,
        on_headers: Callable[[Mapping[str, str]], object] | None = None,
    ) -> Response | None:
        """Receive the missing bytes of `buffer` from `url`, in place.

        Args:
            url: sent as it is.
            buffer: keeps what has arrived if this fails. It may be shortened during the call,
                which then returns when it is full.
            size: expected bytes of the whole body; another size means another file.
            headers: further request headers.
            ranged: False to request the whole body, from its start, without a Range header.
            on_headers: called with the headers of the response before its body arrives, in
                the thread that receives it.

        Returns:
            None when nothing is missing, or a redirect.

        Raises:
            RangeNotSupportedError: if the response to a Range is the whole body.
            SourceChangedError: if the size or the range is not the expected one.
            NetworkError: if the body ends early or the connection fails.
            StalledError: if nothing arrives within the timeout.
            TransferError: for any other status, by `status_error`.
        """
        if not ranged:
            buffer.reset()
        target = BufferTarget(buffer, url, size, on_headers)
        sent = _request_headers(headers)
        if ranged:
            sent["Range"] = range_header(target.start, target.stop)
        request = Request(
            "GET",
            url,
            sent,
            None,
            _MAX_ERROR_BODY,
            target,
            needs_new_connection=buffer.needs_new_connection,
        )
        response = await self._send(request, buffer.missing)
        if response.status in (200, 206):
            return None
        if is_redirect(response):
            return response
        raise status_error(response)

    async def _send(self, request: Request, size: int) -> Response:
        """Send a request by the client and in the event loop for it.

        Args:
            request: to send.
            size: bytes of its body, or of the one that it receives.
        """
        origin = self._origins.find(request.url)
        if (refusal := origin.refusal()) is not None:
            raise refusal
        if origin.is_failing and request.target is not None:
            request.target.report_acceptance(origin.record_success)
        started = self._origins.clock()
        try:
            if not self._pool.supports(request.url):
                response = await self._ready_aiohttp().send(request)
            elif size >= _MIN_SPREAD_BODY and (self._spreads_plain or request.url[:6] == "https:"):
                response = await self._loops.send(request)
            else:
                response = await self._pool.send(request)
        except TransientError as error:
            _record_error(origin, error, started, request.target)
            raise
        return _record_status(origin, response, started)

    @asynccontextmanager
    async def stream(
        self, url: str, *, size: int, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[ByteStream | Response]:
        """GET `url` as one body of `size` bytes; yield the body, or a redirect.

        Raises:
            TransferError: as `fill`.
        """
        sent = _request_headers(headers)
        origin = self._origins.find(url)
        if (refusal := origin.refusal()) is not None:
            raise refusal
        opened = self._ready_aiohttp().stream(url, sent, size=size, limit=_MAX_ERROR_BODY)
        started = self._origins.clock()
        async with AsyncExitStack() as stack:
            # Only opening is inside the `try`: an error of the caller's block must pass.
            try:
                body = await stack.enter_async_context(opened)
            except TransientError as error:
                if error.response is None:
                    _record_error(origin, error, started, None)
                else:
                    _record_status(origin, error.response, started)
                    error.origin = origin
                raise
            origin.record_success()
            yield body


def _record_error(
    origin: Origin, error: TransientError, started: float, target: BufferTarget | None
) -> None:
    """Record a request without a complete response, unless a part of its body arrived."""
    error.origin = origin
    if target is not None and target.buffer.position > target.start:
        origin.record_success()
        return
    if is_wrong_protocol(error) or (is_unknown_host(error) and not origin.has_answered):
        error.is_outage = False  # more likely a wrong URL than an outage
    if error.is_outage:
        origin.record_failure(error, started)


def _record_status(origin: Origin, response: Response, started: float) -> Response:
    """Record a response; return it, with its origin if its status is one of an outage."""
    if not is_outage_status(response.status):
        if origin.is_failing or not origin.has_answered:
            origin.record_success()
        return response
    response = replace(response, origin=origin)
    error = status_error(response)
    assert isinstance(error, TransientError)
    origin.record_failure(error, started, reason=f"it answered {response.status}")
    return response


def _request_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return `headers` and those of every request."""
    # A compressed body has no usable ranges.
    return {"Accept-Encoding": "identity", **(headers or {})}


def _body_size(request: Request) -> int:
    return 0 if request.body is None else len(request.body)


def _loops_for_tls() -> int:
    """Return the default number of event loops with TLS: one per usable core, at most four."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    return min(cores, _MAX_LOOPS)
