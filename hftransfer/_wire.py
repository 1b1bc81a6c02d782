"""HTTP: the one module that touches aiohttp.

A `Wire` is a connection pool with four verbs: small requests, ranged bodies into a
caller's buffer, whole bodies as a stream, and bodies sent from a buffer. It follows no
redirect (whoever knows which credentials belong to which host does that), tries nothing
again (aiohttp itself replaces, once, a connection that ended before any answer, as idle
ones do), and raises errors of `hftransfer.errors` only. URLs are sent byte for byte as
they are given, since a re-quoted signed URL is refused.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from hftransfer._plan import parse_content_range, range_header
from hftransfer._spans import Span
from hftransfer.errors import (
    AccessError,
    NetworkError,
    NotFoundError,
    RangeNotSupportedError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    StalledError,
    ThrottledError,
    TransferError,
    redact,
)
from hftransfer.options import Timeouts
from hftransfer.stores.base import ByteStream

__all__ = ("Wire", "is_redirect", "status_error")

_SEND_PIECE = 256 * 1024
_READ_BUFFER = 256 * 1024
_ERROR_BODY = 64 * 1024
_CONTROL_BODY = 64 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_RATE_LIMIT = re.compile(r'"[^"]*"\s*;\s*r=(?P<remaining>\d+)\s*;\s*t=(?P<reset>\d+)')


def is_redirect(response: Response) -> bool:
    """Return True if `response` sends the client elsewhere."""
    return response.status in _REDIRECTS and "Location" in response.headers


def status_error(response: Response, what: str = "") -> TransferError:
    """Return the error that the status of `response` means.

    Args:
        response: the refusal.
        what: what was being done, for the message. Default: method and URL.
    """
    status = response.status
    subject = what or f"{response.method} {redact(response.url)}"
    message = f"{subject}: the server answered {status}{_excerpt(response)}"
    if status in (401, 403):
        return AccessError(message, response=response)
    if status in (404, 410):
        return NotFoundError(message, response=response)
    if status == 412:
        return SourceChangedError(
            f"{subject}: it was replaced while it was being read", response=response
        )
    if status == 429:
        return ThrottledError(message, response=response, retry_after=retry_after(response.headers))
    if status == 408 or status >= 500:
        return ServerError(message, response=response, retry_after=retry_after(response.headers))
    return RejectedError(message, response=response)


def _excerpt(response: Response) -> str:
    """Return the start of a textual body, for an error message."""
    kind = response.headers.get("Content-Type", "")
    if not response.body or "html" in kind:
        return ""
    text = " ".join(response.body[:300].decode("utf-8", errors="replace").split())
    return f": {text}" if text.isprintable() else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: Retry-After, else an exhausted RateLimit.

    Retry-After is seconds or a date (RFC 9110, 10.2.3). A Hub sends RateLimit
    (draft-ietf-httpapi-ratelimit-headers) on every answer, so it counts only when
    nothing remains.
    """
    if value := headers.get("Retry-After", "").strip():
        if value.isascii() and value.isdigit():
            return float(value)
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    matched = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    if matched and matched["remaining"] == "0":
        return float(matched["reset"]) + 1
    return None


class Wire:
    """Connections to any number of hosts, for one event loop.

    Args:
        timeouts: limits on waiting.
        verify: TLS verification: None or True for the system's certificates (or
            ``SSL_CERT_FILE``, ``REQUESTS_CA_BUNDLE``), False for none, or the path of a
            CA bundle.

    Proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY``).
    """

    def __init__(self, timeouts: Timeouts, *, verify: bool | str | None = None) -> None:
        self._timeouts = timeouts
        self._verify = verify
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: memoryview | bytes | None = None,
    ) -> Response:
        """Send a request and return its whole, small answer, whatever the status.

        Args:
            method: HTTP method.
            url: sent as it is.
            headers: further request headers.
            body: sent from this memory in pieces, without a copy of the whole.

        Raises:
            NetworkError: if the connection fails.
            StalledError: if nothing arrives within the timeout.
            RejectedError: if the URL or the host's certificate is invalid.
        """
        sent = dict(headers or {})
        data = None
        if body is not None:
            # With a length given, aiohttp sends an iterator's pieces without chunked framing.
            sent["Content-Length"] = str(len(body))
            data = _pieces(memoryview(body)) if len(body) else b""
        async with self._open(method, url, sent, data) as answer:
            content = await _read_limited(answer, _CONTROL_BODY)
            return _response(method, url, answer, content)

    async def locate(self, url: str, *, headers: Mapping[str, str] | None = None) -> Response:
        """GET `url` for its status and headers alone; only the body of an error is read.

        Raises:
            NetworkError, StalledError, RejectedError: as `request`.
        """
        async with self._open("GET", url, headers) as answer:
            # A redirect's body is short: reading it keeps the connection usable.
            wanted = answer.status >= 300
            content = await _read_limited(answer, _ERROR_BODY) if wanted else b""
            if not wanted:
                answer.close()
            return _response("GET", url, answer, content)

    async def fill(
        self,
        url: str,
        span: Span,
        *,
        size: int,
        headers: Mapping[str, str] | None = None,
        ranged: bool = True,
    ) -> Response | None:
        """Fill what is missing of `span` with the bytes of a body.

        Args:
            url: sent as it is.
            span: what is wanted; keeps what has arrived if this fails.
            size: of the whole body; another size means another file.
            headers: further request headers.
            ranged: False to ask for the whole body, from its start, without a Range header.

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
        sent = dict(headers or {})
        if ranged:
            sent["Range"] = range_header(start, stop)
        async with self._open("GET", url, sent) as answer:
            if answer.status not in (200, 206):
                refusal = _response("GET", url, answer, await _read_limited(answer, _ERROR_BODY))
                if is_redirect(refusal):
                    return refusal
                raise status_error(refusal)
            _check_extent(answer, url, start, stop, size)
            try:
                async for data in answer.content.iter_any():
                    if len(data) > span.left:
                        raise NetworkError(f"{redact(url)}: more bytes arrived than were announced")
                    span.put(data)
            except aiohttp.ClientPayloadError as error:
                raise _cut_short(url, span.position, stop) from error
            if span.left:
                raise _cut_short(url, span.position, stop)
            return None

    @asynccontextmanager
    async def stream(
        self, url: str, *, size: int, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[ByteStream | Response]:
        """Open `url` as one body of `size` bytes, or give the redirect that was the answer.

        Raises:
            TransferError: as `fill`.
        """
        async with self._open("GET", url, headers) as answer:
            if answer.status != 200:
                refusal = _response("GET", url, answer, await _read_limited(answer, _ERROR_BODY))
                if not is_redirect(refusal):
                    raise status_error(refusal)
                yield refusal
            else:
                _check_extent(answer, url, 0, size, size)
                yield _Body(answer, url, size)

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        data: AsyncIterator[memoryview] | bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = self._ready_session()
        # The bodies are wanted as they are stored: a compressed one has no usable ranges.
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        with _translated(method, url):
            async with session.request(
                method, URL(url, encoded=True), headers=sent, data=data, allow_redirects=False
            ) as answer:
                yield answer

    def _ready_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                # The engine's limiters bound what is in flight; a second limit would only hide it.
                limit=0,
                ssl=_tls(self._verify),
                ttl_dns_cache=300,
                keepalive_timeout=30,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=None,
                    sock_connect=self._timeouts.connect,
                    sock_read=self._timeouts.read,
                ),
                trust_env=True,
                read_bufsize=_READ_BUFFER,
                skip_auto_headers=("User-Agent", "Content-Type"),
            )
        return self._session


class _Body:
    """A `ByteStream` over one open response."""

    def __init__(self, answer: aiohttp.ClientResponse, url: str, size: int) -> None:
        self._answer = answer
        self._url = url
        self._size = size
        self._position = 0

    async def readinto(self, buffer: memoryview) -> None:
        filled = 0
        with _translated("GET", self._url):
            while filled < len(buffer):
                try:
                    data = await self._answer.content.read(len(buffer) - filled)
                except aiohttp.ClientPayloadError as error:
                    raise _cut_short(self._url, self._position + filled, self._size) from error
                if not data:
                    raise _cut_short(self._url, self._position + filled, self._size)
                buffer[filled : filled + len(data)] = data
                filled += len(data)
        self._position += filled


def _cut_short(url: str, position: int, stop: int) -> NetworkError:
    return NetworkError(f"{redact(url)}: the body ended at byte {position} of {stop}")


def _check_extent(
    answer: aiohttp.ClientResponse, url: str, start: int, stop: int, size: int
) -> None:
    """Check that a 200 or 206 answer is exactly ``[start, stop)`` of a body of `size` bytes."""
    if answer.status == 206:
        extent = parse_content_range(answer.headers.get("Content-Range", ""))
        if extent is None or extent[:2] != (start, stop):
            raise NetworkError(
                f"{redact(url)}: bytes {start}-{stop - 1} were asked for, "
                f"{answer.headers.get('Content-Range', 'an unnamed range')!r} was answered"
            )
        if extent[2] not in (None, size):
            raise SourceChangedError(
                f"{redact(url)}: it has {extent[2]} bytes now, {size} were listed"
            )
        return
    if "Content-Encoding" not in answer.headers and answer.content_length not in (None, size):
        raise SourceChangedError(
            f"{redact(url)}: it has {answer.content_length} bytes now, {size} were listed"
        )
    if (start, stop) != (0, size):
        raise RangeNotSupportedError(f"{redact(url)}: the server ignores ranges")


async def _read_limited(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body up to `limit` bytes; what is longer is cut, and its connection closed."""
    pieces = bytearray()
    async for data in answer.content.iter_any():
        pieces += data
        if len(pieces) > limit:
            answer.close()
            break
    return bytes(pieces[:limit])


async def _pieces(body: memoryview) -> AsyncIterator[memoryview]:
    for start in range(0, len(body), _SEND_PIECE):
        yield body[start : start + _SEND_PIECE]


def _response(method: str, url: str, answer: aiohttp.ClientResponse, body: bytes) -> Response:
    return Response(method, url, answer.status, answer.headers, body)


def _tls(verify: bool | str | None) -> ssl.SSLContext | bool:
    if verify is False:
        return False
    if isinstance(verify, str):
        return ssl.create_default_context(cafile=verify)
    context = ssl.create_default_context()  # heeds SSL_CERT_FILE and SSL_CERT_DIR
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        context.load_verify_locations(cafile=bundle)
    return context


@contextmanager
def _translated(method: str, url: str) -> Iterator[None]:
    """Raise our errors for aiohttp's, most specific first."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    try:
        yield
    except TransferError:
        # Some of ours are OSErrors and TimeoutErrors, too; so are those of whoever reads a stream.
        raise
    except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
        raise RejectedError(
            f"the certificate of {host} is not trusted ({error}); "
            "name its CA bundle in REQUESTS_CA_BUNDLE or SSL_CERT_FILE"
        ) from error
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise RejectedError(f"{method} {redact(url)}: not a valid URL") from error
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise StalledError(f"{method} {redact(url)}: {host} sent nothing for too long") from error
    except aiohttp.ClientConnectorError as error:
        raise NetworkError(f"cannot connect to {host}: {error.os_error}") from error
    except aiohttp.ClientResponseError as error:
        # What it prints of itself contains the whole URL.
        raise NetworkError(
            f"{method} {redact(url)}: the answer is not HTTP: {error.message}"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise NetworkError(f"{method} {redact(url)}: the connection failed: {reason}") from error
