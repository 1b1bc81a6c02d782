"""HTTP/1.1: requests and their answers, with bodies straight from and into memory.

What a general client does around a request costs several times the system calls that it is
about, and what it does with a body costs a copy. This one does what `HttpClient` promises and
nothing else: no redirects, no cookies, one request at a time per connection. A connection
that ended while it was idle is replaced, once.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import anyio
from aiohappyeyeballs import AddrInfoType, start_connection

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.connection import Connection
from hftransfer._http.errors import reason_of, silent, unreachable, untrusted
from hftransfer._http.exchange import Exchange, Origin, StaleError, broken
from hftransfer._http.parser import Headers
from hftransfer._http.proxy import Proxy, open_tunnel, parse_proxy
from hftransfer._http.rcvlowat import LowWaterMark
from hftransfer._http.settings import Proxies
from hftransfer._io.file_range import BodyRange, MemoryRange
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import RejectedError, Response, TransferError, redact
from hftransfer.options import Timeouts

__all__ = ("ConnectionPool",)

_TARGET = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
    r"(?P<path>/[!-\"$-~]*)"
)
_PORTS = {"http": 80, "https": 443}
# A copy of so little costs less than a system call of its own beside the one for the head.
_COPIED = 64 * 1024
# Seconds after which another address of a host is tried beside the first (RFC 8305).
_NEXT_ADDRESS = 0.25
# Seconds for which the addresses of a host are not asked for again, as with aiohttp.
_ADDRESSES_HOLD = 300.0
_NOTHING = MemoryRange(memoryview(b""))
# A request is made anew on a new connection only if doing it twice does no harm.
_IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE")


class ConnectionPool:
    """The connections of one event loop to any number of hosts.

    Args:
        timeouts: limits on waiting.
        make_tls: gives the context for https.
        throttle: paid for the bytes of bodies that are sent, and of those that go into a span.
        proxies: what the environment says.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        make_tls: Callable[[], ssl.SSLContext],
        throttle: RateLimiter,
        proxies: Proxies,
    ) -> None:
        self._timeouts = timeouts
        self._make_tls = make_tls
        self._throttle = throttle
        self._proxies = proxies
        self._idle: dict[Origin, list[Connection]] = {}
        self._ways: dict[tuple[str, str, str | None], _Way | None] = {}
        self._open: set[Connection] = set()
        self._addresses = _Addresses()

    async def aclose(self) -> None:
        """Close all connections, and wait until they are closed."""
        self._idle.clear()
        gone = [connection.close() for connection in list(self._open)]
        for each in gone:
            await each.wait()

    def takes(self, url: str) -> bool:
        """Return True if `url` is of the ordinary kind, and so is a proxy on the way.

        That is: nothing to quote, nobody to log in, and no TLS to the proxy itself.
        """
        return self._resolve(url) is not None

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: BodyRange | None,
        *,
        limit: int,
    ) -> Response:
        """Send a request and return its answer, of whose body `limit` bytes are kept.

        Raises:
            NetworkError: if the connection fails, or what comes is no HTTP.
            StalledError: if the server takes or sends nothing for too long.
            RejectedError: if the host's certificate is invalid, or a header is.
            SourceChangedError, TransferError: if the file of the body cannot be read.
        """
        return await self._run(headers, body, lambda: Exchange(method, url, limit))

    async def get_headers(self, url: str, headers: Mapping[str, str], *, limit: int) -> Response:
        """As `request` with GET, but the body of an answer below 300 is not read."""
        return await self._run(headers, None, lambda: Exchange("GET", url, limit, head_alone=True))

    async def fill(
        self,
        url: str,
        headers: Mapping[str, str],
        span: ByteRangeBuffer,
        accepts: Callable[[int, Headers], bool],
        *,
        limit: int,
    ) -> Response:
        """GET `url`; the body of an accepted answer goes into `span`, that of others is kept.

        The span may be made shorter meanwhile: this then returns as soon as it is full.

        Raises:
            NetworkError, StalledError, RejectedError: as `request`. The span keeps what has
                arrived.
            TransferError: what `accepts` raises.
        """
        return await self._run(headers, None, lambda: Exchange("GET", url, limit, span, accepts))

    async def _run(
        self,
        headers: Mapping[str, str],
        body: BodyRange | None,
        make: Callable[[], Exchange],
    ) -> Response:
        exchange = make()
        resolved = self._resolve(exchange.url)
        assert resolved is not None, "see `takes`"
        way, path = resolved
        head = _request_head(exchange, way, path, headers, None if body is None else len(body))
        region = body or _NOTHING
        origin = way.origin
        connection = self._take(origin)
        if connection is not None:
            try:
                return await self._exchange(connection, head, region, exchange)
            except StaleError as error:
                if exchange.method not in _IDEMPOTENT:
                    raise broken(exchange, error.__cause__) from error.__cause__
                exchange = make()
        connection = await self._connect(origin, exchange)
        try:
            return await self._exchange(connection, head, region, exchange)
        except StaleError as error:
            raise broken(exchange, error.__cause__) from error.__cause__

    async def _exchange(
        self, connection: Connection, head: bytes, body: BodyRange, exchange: Exchange
    ) -> Response:
        size = len(body)
        beside = None
        if not size or (size <= _COPIED and self._throttle.rate is None):
            beside = body.get_now(0, size)
        connection.begin(head if beside is None else b"".join((head, beside)), exchange)
        try:
            if beside is None:
                await connection.send(body)
            answer = await exchange.done
            if exchange.is_direct:
                # What follows the body, and is here already, comes within one round of the loop.
                await asyncio.sleep(0)
        except BaseException:
            connection.abort()
            raise
        if connection.is_usable:
            self._idle.setdefault(connection.origin, []).append(connection)
        else:
            connection.abort()
        if exchange.debt is not None:
            await exchange.debt.wait()
        return answer

    def _resolve(self, url: str) -> tuple[_Way, str] | None:
        """Return how the host of `url` is reached, and its path; None if not by this client."""
        matched = _TARGET.fullmatch(url)
        if matched is None:
            return None
        scheme, host, port, path = matched.groups()
        key = scheme, host, port
        if key not in self._ways:
            named = self._proxies.find(url)
            proxy = None if named is None else parse_proxy(named)
            self._ways[key] = None if named and not proxy else _find_way(scheme, host, port, proxy)
        way = self._ways[key]
        return None if way is None else (way, path)

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
        return None

    async def _connect(self, origin: Origin, exchange: Exchange) -> Connection:
        loop = asyncio.get_running_loop()
        secure = origin.scheme == "https"
        tls = self._make_tls() if secure else None
        hop = origin if origin.proxy is None else origin.proxy
        try:
            with anyio.fail_after(self._timeouts.connect):
                found = await self._addresses.find(hop.host, hop.port)
                # asyncio's own way of trying several addresses side by side forgets sockets
                # when it is cancelled, and uvloop has none.
                plain = await start_connection(
                    found, happy_eyeballs_delay=_NEXT_ADDRESS, interleave=1, loop=loop
                )
                if secure and origin.proxy is not None:
                    try:
                        await open_tunnel(plain, origin.proxy, origin.authority)
                    except BaseException:
                        plain.close()
                        raise
                low_water = LowWaterMark(plain, secure=secure)
                _, connection = await loop.create_connection(
                    lambda: Connection(
                        origin, self._timeouts, self._throttle, low_water, self._forget
                    ),
                    sock=plain,
                    ssl=tls,
                    server_hostname=origin.host if secure else None,
                )
        except TransferError:
            raise  # what a proxy said; some of ours are OSErrors and TimeoutErrors, too
        except ssl.SSLCertVerificationError as error:
            raise untrusted(origin.authority, error.verify_message) from error
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise silent(exchange.method, exchange.url, took=False) from error
        except OSError as error:
            self._addresses.forget(hop.host, hop.port)
            raise unreachable(f"{hop.host}:{hop.port}", reason_of(error)) from error
        self._open.add(connection)
        return connection

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in (idle := self._idle.get(connection.origin, [])):
            idle.remove(connection)


class _Addresses:
    """The addresses of hosts: many connections that begin at once ask for them once."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, int], anyio.Lock] = {}
        self._found: dict[tuple[str, int], tuple[float, Sequence[AddrInfoType]]] = {}
        """By host and port: until when they hold, and the addresses."""

    async def find(self, host: str, port: int) -> Sequence[AddrInfoType]:
        """Return the addresses of a host.

        Raises:
            OSError: if it has none.
        """
        loop = asyncio.get_running_loop()
        async with self._locks.setdefault((host, port), anyio.Lock()):
            until, found = self._found.get((host, port), (0.0, ()))
            if loop.time() >= until:
                # As bytes it is taken as it is, without the tables of IDNA.
                name = host.encode()
                found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
                self._found[host, port] = loop.time() + _ADDRESSES_HOLD, found
            return found

    def forget(self, host: str, port: int) -> None:
        """Ask anew next time: the host may have moved."""
        self._found.pop((host, port), None)


class _Way(NamedTuple):
    """How a host is reached, and what a request to it begins with."""

    origin: Origin
    prefix: str
    """What stands before the path: nothing, or for a proxy that forwards, the rest of the URL."""
    headers: str


def _find_way(scheme: str, host: str, port: str | None, proxy: Proxy | None) -> _Way:
    number = int(port) if port else _PORTS[scheme]
    named = host.lower() if number == _PORTS[scheme] else f"{host.lower()}:{number}"
    origin = Origin(scheme, host.lower().strip("[]"), number, proxy)
    headers = f"Host: {named}\r\nAccept: */*\r\n"
    if proxy is None or scheme == "https":
        return _Way(origin, "", headers)
    if proxy.authorization is not None:
        headers += f"Proxy-Authorization: {proxy.authorization}\r\n"
    return _Way(origin, f"{scheme}://{named}", headers)


def _request_head(
    exchange: Exchange,
    way: _Way,
    path: str,
    headers: Mapping[str, str],
    length: int | None,
) -> bytes:
    """Return what goes over the connection before the body of `length` bytes, if there is one."""
    lines = [f"{exchange.method} {way.prefix}{path} HTTP/1.1\r\n{way.headers}"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    if length is not None or exchange.method in ("POST", "PUT"):
        lines.append(f"Content-Length: {length or 0}\r\n")
    head = "".join(lines)
    breaks = len(lines) + way.headers.count("\n")
    if head.count("\n") != breaks or head.count("\r") != breaks or "\0" in head:
        raise RejectedError(
            f"{exchange.method} {redact(exchange.url)}: a header must not contain line breaks"
        )
    return f"{head}\r\n".encode("utf-8", errors="surrogateescape")
