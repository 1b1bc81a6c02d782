"""The connections of one event loop by aiohttp, and its errors in our words."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import anyio
from yarl import URL

from hftransfer._http.errors import (
    failed,
    host_of,
    no_http,
    reason_of,
    refused_by_proxy,
    silent,
    unreachable,
    untrusted,
)
from hftransfer._http.settings import Proxies
from hftransfer.errors import RejectedError, TransferError, redact
from hftransfer.options import Timeouts

__all__ = ("Connections", "SendTimeout", "translated")

_READ_BUFFER = 256 * 1024


class SendTimeout(asyncio.TimeoutError, OSError):  # noqa: N818 - a kind of timeout
    """The server took nothing for too long.

    Without an errno, by which aiohttp knows a timeout from a broken connection.
    """


class Connections:
    """The connections of one event loop."""

    def __init__(
        self, timeouts: Timeouts, make_tls: Callable[[], ssl.SSLContext], proxies: Proxies
    ) -> None:
        self._timeouts = timeouts
        self._make_tls = make_tls
        # Left to aiohttp (``trust_env``), these and a look into ``~/.netrc`` would cost every
        # request two threads, and a host named in that file could not be sent a token.
        self._proxies = proxies
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
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
        stall: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give its answer, of which the head was read.

        Args:
            method: HTTP method.
            url: sent as it is.
            headers: of the request, beside Host and what describes the body.
            data: the body.
            stall: False if the caller itself notices a body that stops arriving.
        """
        session = self._ready_session()
        timeout = self._timeout(stall=stall)
        target = URL(url, encoded=True)
        with translated(method, url):
            # The answer's head has its own limit, since aiohttp's would go on in the body.
            with anyio.fail_after(None if stall else self._timeouts.connect + self._timeouts.read):
                request = session.request(
                    method,
                    target,
                    headers=headers,
                    data=data,
                    proxy=self._proxies.find(url),
                    allow_redirects=False,
                    timeout=timeout,
                    # Reading the system's certificates takes longer than a small request.
                    ssl=self._make_tls() if url.startswith("https:") else True,
                )
                answer = await request
            async with answer:
                yield answer

    def _timeout(self, *, stall: bool) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None,
            connect=None,
            sock_connect=self._timeouts.connect,
            sock_read=self._timeouts.read if stall else None,
        )

    def _ready_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                # The engine's limits bound what is in flight; a second limit would only hide it.
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
def translated(method: str, url: str) -> Iterator[None]:
    """Raise our errors for aiohttp's, most specific first."""
    try:
        yield
    except TransferError:
        # Some of ours are OSErrors and TimeoutErrors, too; so are those of whoever reads a stream.
        raise
    except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
        raise untrusted(host_of(url), error) from error
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise RejectedError(f"{method} {redact(url)}: not a valid URL") from error
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise silent(method, url, took=isinstance(error, SendTimeout)) from error
    except aiohttp.ClientHttpProxyError as error:
        raise refused_by_proxy(host_of(url), error.status) from error
    except aiohttp.ClientConnectorError as error:
        raise unreachable(host_of(url), error.os_error) from error
    except aiohttp.ClientResponseError as error:
        # What it prints of itself contains the whole URL.
        raise no_http(method, url, error.message) from error
    except (aiohttp.ClientError, OSError) as error:
        raise failed(method, url, _reason(error)) from error


def _reason(error: aiohttp.ClientError | OSError) -> str:
    """Return why a connection failed, not in aiohttp's words: some contain the whole URL."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server hung up"
    if isinstance(error, ssl.SSLError) or (isinstance(error, OSError) and error.errno):
        return reason_of(error)
    return type(error).__name__
