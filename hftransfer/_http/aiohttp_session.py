"""The aiohttp session of one event loop, and the translation of its errors."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import anyio
from yarl import URL

from hftransfer._http.errors import (
    authority_of,
    cannot_connect,
    connection_failed,
    failure_reason,
    invalid_header,
    not_http,
    proxy_refused,
    stalled,
)
from hftransfer._http.proxy import ProxyEnvironment
from hftransfer._http.tls import TrustedCertificates
from hftransfer.errors import RejectedError, TransferError, redact
from hftransfer.options import Timeouts

__all__ = ("AiohttpSession", "SendTimeout", "translated_errors")

_READ_BUFFER = 256 * 1024


class SendTimeout(asyncio.TimeoutError, OSError):  # noqa: N818 - a kind of timeout
    """Raised when the server accepts nothing for too long.

    It has no errno: aiohttp takes an OSError with one for a broken connection.
    """


class AiohttpSession:
    """An `aiohttp.ClientSession` that is opened by the first request.

    Args:
        timeouts: limits on waiting.
        trusted: certificates for https.
        proxies: of the environment.
    """

    def __init__(
        self, timeouts: Timeouts, trusted: TrustedCertificates, proxies: ProxyEnvironment
    ) -> None:
        self._timeouts = timeouts
        self._trusted = trusted
        # Not aiohttp's `trust_env`: it runs two threads per request to look for proxies and for
        # ``~/.netrc``, and refuses an Authorization header for a host that this file names.
        self._proxies = proxies
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: aiohttp.Payload | bytes | None = None,
        *,
        limit_body_silence: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield its response, whose head has been read.

        A head has to arrive within the limits for a connection and for silence together, after a
        body of a request without any: that is sent at the pace of the server.

        Args:
            method: HTTP method.
            url: sent as it is.
            headers: of the request, without Host and those that describe the body.
            data: the body.
            limit_body_silence: False if the caller itself limits the waiting for the body.

        Raises:
            TransferError: as `translated_errors`, also from the block.
        """
        session = self._ready_session()
        timeout = self._timeout(limit_body_silence=limit_body_silence)
        try:
            target = URL(url, encoded=True)
        except ValueError:
            raise RejectedError(f"{method} {redact(url)}: not a valid URL") from None
        # aiohttp's `sock_read` limits the silence, and a head may arrive byte by byte.
        head_limit = None if data else self._timeouts.connect + self._timeouts.read
        with translated_errors(method, url):
            with anyio.fail_after(head_limit):
                request = session.request(
                    method,
                    target,
                    headers=headers,
                    data=data,
                    proxy=self._proxies.find(url),
                    allow_redirects=False,
                    timeout=timeout,
                    # Made once: reading the system's certificates takes longer than a request.
                    ssl=self._trusted.context() if url.startswith("https:") else True,
                )
                try:
                    response = await request
                except UnicodeError:
                    raise invalid_header(method, url) from None
                except aiohttp.ClientConnectorCertificateError as error:
                    reason = error.certificate_error
                    raise self._trusted.untrusted(authority_of(url), reason) from reason
            async with response:
                yield response

    def _timeout(self, *, limit_body_silence: bool) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None,
            connect=None,
            sock_connect=self._timeouts.connect,
            sock_read=self._timeouts.read if limit_body_silence else None,
        )

    def _ready_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                # The engine limits the requests in flight; a second limit would hide the first.
                limit=0,
                ttl_dns_cache=300,
                keepalive_timeout=30,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
                skip_auto_headers=("User-Agent", "Content-Type"),
            )
        return self._session


@contextmanager
def translated_errors(method: str, url: str) -> Iterator[None]:
    """Translate aiohttp's errors into those of `hftransfer.errors`.

    The text and the attributes of aiohttp's errors contain whole URLs and the headers of requests.
    So they are neither the cause nor the context of ours, which a traceback would show.
    """
    try:
        yield
        return
    except TransferError:
        # Some of ours are OSErrors and TimeoutErrors, too. The block raises them as well, for
        # example when it cannot write what it has read.
        raise
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
        translated = _translate(error, method, url)
    raise translated


def _translate(error: Exception, method: str, url: str) -> TransferError:
    """Return our error for one of aiohttp or of the system; the most specific case decides."""
    if isinstance(error, (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
        return RejectedError(f"{method} {redact(url)}: not a valid URL")
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return stalled(method, url, sending=isinstance(error, SendTimeout))
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(authority_of(url), error.status)
    if isinstance(error, aiohttp.ClientConnectorError):
        return cannot_connect(authority_of(url), error.os_error)
    if isinstance(error, aiohttp.ClientResponseError):
        # Not `str(error)`, which contains the whole URL.
        return not_http(method, url, error.message)
    assert isinstance(error, (aiohttp.ClientError, OSError))
    return connection_failed(method, url, _reason(error))


def _reason(error: aiohttp.ClientError | OSError) -> str:
    """Return why a connection failed, without `str(error)`, which may contain the whole URL."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    if isinstance(error, ssl.SSLError) or (isinstance(error, OSError) and error.errno):
        return failure_reason(error)
    return type(error).__name__
