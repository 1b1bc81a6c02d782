"""Servers, a proxy, clients and memory for the tests of `hftransfer._http`.

The servers run in the event loop of the test and send exactly the bytes that the test gives them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import mmap
import os
import random
import re
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from hftransfer._http.client import HttpClient
from hftransfer._http.pool import ConnectionPool
from hftransfer._io.file_range import FileRange
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.options import Timeouts

KIB = 1024
MIB = 1 << 20

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(
        ("asyncio", {"use_uvloop": True}),
        id="uvloop",
        marks=pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="no uvloop"),
    ),
]
"""Parameters of a module's `anyio_backend`: both event loops that `HttpClient` supports."""

QUIET = (
    # Python 3.10's TLS transports warn about every connection that the peer has closed.
    [pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")]
    if sys.version_info < (3, 11)
    else []
)
"""Marks of the modules in which servers close connections."""


# --- bodies


@contextmanager
def in_file(path: Path, content: bytes) -> Iterator[FileRange]:
    """Write `content` to `path`, and open the file as the body of a request."""
    path.write_bytes(content)
    with opened_file(path) as range_of_file:
        yield range_of_file


@contextmanager
def opened_file(path: Path) -> Iterator[FileRange]:
    """Open the whole of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield FileRange.whole(fd, str(path))
    finally:
        os.close(fd)


# --- servers


@dataclass
class Request:
    """A request that a server has received."""

    connection: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None."""
        matched = re.search(rb"(?im)^%s:[ \t]*(.*?)\r$" % name.encode(), self.head)
        return matched and matched[1].decode()

    @property
    def byte_range(self) -> tuple[int, int]:
        """``(start, stop)`` of the Range header."""
        matched = re.fullmatch(r"bytes=(\d+)-(\d+)", self.header("Range") or "")
        assert matched is not None
        return int(matched[1]), int(matched[2]) + 1


@dataclass
class Exchange:
    """One request that a server has received, and the connection for the response."""

    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes | memoryview) -> None:
        """Send `data`, a piece at a time, as fast as the client receives it.

        Raises:
            ConnectionError: if the client has closed the connection.
        """
        view = memoryview(data)
        for start in range(0, len(view), 64 * KIB):
            if self.writer.is_closing():  # uvloop's `write` raises another error
                raise ConnectionResetError
            self.writer.write(view[start : start + 64 * KIB])
            await self.writer.drain()

    async def head(self, status: str, *headers: str) -> None:
        """Send the head of a response."""
        await self.send("\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode())

    async def flush(self) -> None:
        """Wait until the kernel has all that was sent, or the connection is lost."""

        def is_sent() -> bool:
            try:
                return self.writer.transport.get_write_buffer_size() == 0
            except (AttributeError, RuntimeError):
                return True  # a lost transport of uvloop

        await until(is_sent)

    def reset(self) -> None:
        """Close the connection with a RST instead of a FIN."""
        own = self.writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


# Raised in a server when the client has closed the connection.
_DISCONNECTED = (
    ConnectionError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    ssl.SSLError,
)

Reply = Callable[[Exchange], Awaitable[None]]


@dataclass
class RawServer:
    """The address of a server and the requests that it has received."""

    base: str = ""
    connections: int = 0
    requests: list[Request] = field(default_factory=list)


@asynccontextmanager
async def raw_server(
    reply: Reply, *, tls: ssl.SSLContext | None = None, reads_body: bool = True
) -> AsyncIterator[RawServer]:
    """Serve requests on any number of connections; a reply may close its connection.

    Args:
        reply: sends the response to one request.
        tls: for https.
        reads_body: False if `reply` reads the request's body itself.
    """
    seen = RawServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        connection = seen.connections
        with contextlib.suppress(*_DISCONNECTED):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                request = Request(connection, head, b"")
                if reads_body:
                    request.body = await reader.readexactly(
                        int(request.header("Content-Length") or 0)
                    )
                seen.requests.append(request)
                await reply(Exchange(request, reader, writer))
                await writer.drain()
        writer.close()

    async with _listening(serve, tls) as port:
        seen.base = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield seen


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _listening(serve: Serve, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Serve on a free port; at the end, wait until every connection's task has ended."""
    tasks: set[asyncio.Task[Any]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.append(writer)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(tracked, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await until(lambda: not tasks)
        for writer in writers:
            writer.transport.abort()  # Python 3.10's TLS waits for the client's close_notify


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until a condition holds; the test's time limit bounds it."""
    while not condition():  # noqa: ASYNC110 - conditions of other tasks, threads and the kernel
        await asyncio.sleep(0)


def ranged(content: bytes | memoryview) -> Reply:
    """Return a reply that sends ranges of `content` and keeps the connection open."""

    async def reply(exchange: Exchange) -> None:
        start, stop = exchange.request.byte_range
        await partial_head(exchange, start, stop, len(content))
        await exchange.send(memoryview(content)[start:stop])

    return reply


async def partial_head(exchange: Exchange, start: int, stop: int, size: int) -> None:
    """Send the head of an ordinary 206."""
    await exchange.head(
        "206 Partial Content",
        f"Content-Range: bytes {start}-{stop - 1}/{size}",
        f"Content-Length: {stop - start}",
    )


# --- a proxy


@dataclass
class ProxyLog:
    """The address of a proxy, and the requests that it has received."""

    url: str = ""
    lines: list[str] = field(default_factory=list)
    """Request lines."""
    users: list[str | None] = field(default_factory=list)
    """User and password of each request, decoded."""


@asynccontextmanager
async def http_proxy(refusal: str | None = None) -> AsyncIterator[ProxyLog]:
    """A proxy that opens tunnels (CONNECT), and forwards plain requests without a body.

    Args:
        refusal: status and reason with which it refuses every request.
    """
    log = ProxyLog()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = None
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, rest = head.split(b"\r\n", 1)
                log.lines.append(line.decode())
                user = Request(0, head, b"").header("Proxy-Authorization")
                log.users.append(user and base64.b64decode(user.removeprefix("Basic ")).decode())
                method, target, _ = line.decode().split(" ")
                if refusal is not None:
                    writer.write(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode())
                    continue
                if method == "CONNECT":
                    host, _, port = target.rpartition(":")
                    upstream = await asyncio.open_connection(host, int(port))
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    await _relay((reader, writer), upstream)
                    return
                matched = re.fullmatch(r"http://([^/:]+):(\d+)(/.*)", target)
                assert matched is not None
                if upstream is None:
                    upstream = await asyncio.open_connection(matched[1], int(matched[2]))
                upstream[1].write(f"{method} {matched[3]} HTTP/1.1\r\n".encode() + rest)
                await _relay_response(upstream[0], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for end in (writer, *(() if upstream is None else upstream[1:])):
                end.close()

    async with _listening(serve, None) as port:
        log.url = f"http://127.0.0.1:{port}"
        yield log


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _relay(one: Stream, other: Stream) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 * KIB):
                writer.write(data)
                await writer.drain()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pump, one[0], other[1])
        tasks.start_soon(pump, other[0], one[1])


async def _relay_response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(head)
    left = int(Request(0, head, b"").header("Content-Length") or 0)
    while left:
        data = await reader.read(min(left, 64 * KIB))
        left -= len(data)
        writer.write(data)
        await writer.drain()


# --- the client's side


@asynccontextmanager
async def open_client(
    *,
    verify: str | None = None,
    rate_limiter: RateLimiter | None = None,
    loops: int | None = 1,
    **timeouts: float,
) -> AsyncIterator[HttpClient]:
    """An `HttpClient`, closed at the end."""
    client = HttpClient(Timeouts(**timeouts), verify=verify, rate_limiter=rate_limiter, loops=loops)
    try:
        yield client
    finally:
        await client.aclose()


def counting_rate_limiter() -> tuple[RateLimiter, list[int]]:
    """Return a rate limiter that demands no delays, and the bytes that it counts, call by call."""
    rate_limiter = RateLimiter(1e12)
    counts: list[int] = []
    real = rate_limiter.charge

    def charge(count: int) -> float:
        counts.append(count)
        return real(count)

    rate_limiter.charge = charge  # type: ignore[method-assign]
    return rate_limiter, counts


def set_read_timeout(client: HttpClient, seconds: float) -> None:
    """Change the read timeout for the connections that are opened from now on."""
    large = client._ready_aiohttp()
    large._timeouts = replace(large._timeouts, read=seconds)
    for pool in (client._pool, *(remote._client for remote in client._loops._remotes)):
        assert isinstance(pool, ConnectionPool)
        pool._timeouts = replace(pool._timeouts, read=seconds)


@dataclass(frozen=True)
class Site:
    """Servers and clients that trust them: plain, or with TLS and a CA of the tests."""

    tls: ssl.SSLContext | None
    verify: str | None

    @asynccontextmanager
    async def opened(
        self, reply: Reply, **options: Any
    ) -> AsyncIterator[tuple[RawServer, HttpClient]]:
        """A server that responds by `reply`, and a client that trusts it."""
        served = {key: options.pop(key) for key in ("reads_body",) if key in options}
        async with (
            raw_server(reply, tls=self.tls, **served) as server,
            open_client(verify=self.verify, **options) as client,
        ):
            yield server, client


def secure_site(folder: Path) -> Site:
    """Return a site with TLS, and write the certificate of its CA to `folder`."""
    authority = trustme.CA()
    bundle = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return Site(context, str(bundle))


@contextmanager
def ignoring_data_after_close() -> Iterator[None]:
    """Do not report that data arrived at a TLS server of asyncio that is closing.

    Its transport raises `ssl.SSLError` for that in a callback, and anyio's test runner fails for
    every such error.
    """
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), ssl.SSLError):
            return
        if handler is None:
            loop.default_exception_handler(context)
        else:
            handler(loop, context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(handler)


def random_bytes(size: int, seed: int = 1) -> bytes:
    """Return bytes that are the same in each run, and different for each seed."""
    return random.Random(seed).randbytes(size)


@contextlib.contextmanager
def mapped(size: int) -> Any:
    """Map whole pages, as the engine does for its buffers; yield a view of `size` bytes."""
    memory = mmap.mmap(-1, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    view = memoryview(memory)
    try:
        yield view[:size]
    finally:
        view.release()


def open_files() -> dict[str, str]:
    """Return what each descriptor of this process refers to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found
