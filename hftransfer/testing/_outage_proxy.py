"""A server in front of another one, that can be down: `OutageProxy`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import re
import socket
import struct
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from hftransfer.testing._faults import ResetConnection, Stall, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any

__all__ = ("Outage", "OutageHandle", "OutageProxy", "Refuse")

_HOST = "127.0.0.1"
_BACKLOG = 1024
_PIECE = 256 * 1024
_MAX_HEAD = 64 * 1024
_SETTLE_ITERATIONS = 5
_CONTENT_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r$")
_CHUNKED = re.compile(rb"(?im)^transfer-encoding:.*chunked")


@dataclass(frozen=True)
class Refuse:
    """Reset all connections, and refuse new ones: the server's process has ended."""


OutageAction: TypeAlias = Refuse | ResetConnection | Stall | Status


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A period in which a server is down: it starts at the n-th request, or on command.

    Args:
        action: what a client sees. `Refuse`; `ResetConnection()`: each request is answered by a
            reset; `Stall()`: by silence; `Status(503)`, `Status(429, {"Retry-After": "2"})`: by
            that response. Numbers of bytes in the action do not matter here.
        after: requests that are served before the outage starts; None to wait for
            `OutageHandle.begin`. Default 0: with the next request.
        times: requests that the outage hits before it ends by itself; None to last until
            `OutageHandle.end`. Must be None for `Refuse`, whose requests nobody sees. Default None.

    Raises:
        ValueError: if a number is negative, or `times` is given for `Refuse`.
    """

    action: OutageAction
    after: int | None = 0
    times: int | None = None

    def __post_init__(self) -> None:
        if (self.after or 0) < 0 or (self.times or 0) < 0:
            raise ValueError("`after` and `times` must not be negative")
        if isinstance(self.action, Refuse) and self.times is not None:
            raise ValueError("refused requests cannot be counted: end the outage by `end`")


class OutageHandle:
    """Starts, ends, counts and awaits one outage; returned by `OutageProxy.add_outage`.

    Methods may be called from any thread.
    """

    def __init__(self, proxy: OutageProxy, outage: Outage) -> None:
        self.outage = outage
        self.count = 0
        """Requests that the outage has hit; with `Refuse` the connections that it has reset."""
        self._proxy = proxy
        self._begun = threading.Event()
        self._ended = threading.Event()

    @property
    def is_active(self) -> bool:
        """True while the server is down."""
        return self._begun.is_set() and not self._ended.is_set()

    def begin(self) -> None:
        """Start the outage now; returns when it has started. Idempotent."""
        self._proxy._run(self._begin())

    def end(self) -> None:
        """End the outage; returns when connections are accepted again. Idempotent, and final."""
        self._proxy._run(self._end())

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the outage has started; return False if `timeout` seconds ran out."""
        return self._begun.wait(timeout)

    # In the proxy's event loop.

    async def _begin(self) -> None:
        if self._begun.is_set() or self._ended.is_set():
            return
        if isinstance(self.outage.action, Refuse):
            self.count = await self._proxy._stop_listening()
        self._begun.set()

    async def _end(self) -> None:
        was_active = self.is_active
        self._ended.set()
        if was_active and isinstance(self.outage.action, Refuse):
            await self._proxy._listen()

    async def _claim(self, served: int) -> bool:
        """Return True if the outage hits the request that follows `served` others."""
        outage = self.outage
        if outage.after is not None and served >= outage.after:
            await self._begin()
        if not self.is_active:
            return False
        if outage.times is not None and self.count >= outage.times:
            self._ended.set()
            return False
        if not isinstance(outage.action, Refuse):
            self.count += 1
        return True


class OutageProxy:
    """A server on loopback that passes requests on to another one, except in an `Outage`.

    It serves HTTP/1.1 without TLS and changes no byte, so signatures of S3 stay valid if the client
    sends the Host of the proxy and the upstream accepts any. Use as a context manager.

    Args:
        upstream: base URL of the server, ``http://HOST:PORT``.

    Example::

        with HubServer() as hub, OutageProxy(hub.own_endpoint) as proxy:
            hub.public_url = proxy.url  # the CDN has `cdn_url`, an S3 server `endpoint_url`
            outage = proxy.add_outage(Outage(action=Refuse(), after=3))
            ...  # start a transfer in another thread
            outage.wait()  # the fourth request has arrived, and nothing answers any more
            outage.end()  # the transfer goes on

    Raises:
        ValueError: if `upstream` is not such a URL.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise ValueError(f"not http://HOST:PORT: {upstream!r}")
        self._upstream = parts.hostname, parts.port
        self.port = 0
        self.requests = 0
        """Requests that were passed on."""
        self._outages: list[OutageHandle] = []
        self._clients: set[asyncio.StreamWriter] = set()
        self._writers: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop_is_closing = False
        self._reserved: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, the same during an outage."""
        return f"http://{_HOST}:{self.port}"

    def __enter__(self) -> OutageProxy:
        # Bound, but not listening: keeps the port while connections are refused.
        self._reserved = _bound(0)
        self.port = self._reserved.getsockname()[1]
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="hftransfer-outage", daemon=True
        )
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        assert self._reserved is not None
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.close()

    def add_outage(self, outage: Outage) -> OutageHandle:
        """Plan an outage; requests from now on count. Of several the first one that is due hits."""
        handle = OutageHandle(self, outage)
        served = self.requests

        async def add() -> None:
            if outage.after is not None:
                handle.outage = _shifted(outage, served)
            self._outages.append(handle)

        self._run(add())
        return handle

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the proxy's event loop, and wait for it."""
        assert self._loop is not None, "the proxy is not open"
        future: concurrent.futures.Future[None]
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.result()

    # In the proxy's event loop.

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, sock=_bound(self.port), backlog=_BACKLOG, limit=_MAX_HEAD
            )

    async def _stop_listening(self) -> int:
        """Refuse connections and reset the open ones; return their number."""
        if self._server is not None:
            server, self._server = self._server, None
            # asyncio loses a connection that it has accepted and not yet passed on when the server
            # is closed: accept no more, and let it pass them on.
            for listening in server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            for _ in range(_SETTLE_ITERATIONS):
                await asyncio.sleep(0)
            server.close()
        count = len(self._clients)
        for writer in self._writers:  # also those that still have to send what was written
            _reset(writer)
        return count

    async def _close(self) -> None:
        self._loop_is_closing = True
        await self._stop_listening()
        # A connection that was accepted a moment ago begins its task within some iterations of the
        # event loop, and an aborted one closes its socket in the next iteration.
        for _ in range(_SETTLE_ITERATIONS):
            await asyncio.sleep(0)
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # one of the two sides has closed its connection
        except asyncio.CancelledError:
            pass  # the proxy is being closed
        finally:
            self._tasks.discard(task)
            self._clients.discard(writer)
            if self._loop_is_closing:
                writer.transport.abort()
            else:
                writer.close()  # after what was written

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        responses: asyncio.Task[None] | None = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                action = await self._action()
                if action is not None:
                    await _fail(reader, writer, head, action)
                    return
                if upstream is None:
                    source, upstream = await asyncio.open_connection(*self._upstream)
                    responses = asyncio.create_task(_relay(source, writer))
                upstream.write(head)
                await _copy_body(reader, head, upstream.write, upstream.drain)
        finally:
            if upstream is not None:
                upstream.transport.abort()
            if responses is not None:
                responses.cancel()
                await asyncio.gather(responses, return_exceptions=True)

    async def _action(self) -> OutageAction | None:
        """Return what happens to the request that has arrived; None to pass it on."""
        for handle in self._outages:
            if await handle._claim(self.requests):
                return handle.outage.action
        self.requests += 1
        return None


def _shifted(outage: Outage, served: int) -> Outage:
    assert outage.after is not None
    return Outage(action=outage.action, after=outage.after + served, times=outage.times)


def _bound(port: int) -> socket.socket:
    """Return a socket that is bound to the port beside others of this process."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((_HOST, port))
    return bound


async def _fail(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, action: OutageAction
) -> None:
    """Respond to one request as `action` says, and close the connection."""
    if isinstance(action, Status):
        # A client sees the response only once its request is sent.
        await _copy_body(reader, head, lambda data: None, _nothing)
        lines = [f"HTTP/1.1 {action.code} Outage", f"Content-Length: {len(action.body)}"]
        lines += [f"{name}: {value}" for name, value in action.headers.items()]
        lines += ["Connection: close", "", ""]
        is_head = head.startswith(b"HEAD ")
        writer.write("\r\n".join(lines).encode() + (b"" if is_head else action.body))
        await writer.drain()
    elif isinstance(action, Stall):
        with contextlib.suppress(ConnectionError):
            while await reader.read(_PIECE):
                pass  # until the client closes the connection
    else:
        _reset(writer)


async def _nothing() -> None:
    pass


async def _copy_body(
    reader: asyncio.StreamReader,
    head: bytes,
    write: Callable[[bytes], object],
    drain: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Pass the body of a request on."""
    if _CHUNKED.search(head):
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            write(line + await reader.readexactly(size + 2))
            await drain()
        return
    matched = _CONTENT_LENGTH.search(head)
    missing = int(matched[1]) if matched else 0
    while missing:
        data = await reader.read(min(missing, _PIECE))
        if not data:
            raise asyncio.IncompleteReadError(b"", missing)
        missing -= len(data)
        write(data)
        await drain()


async def _relay(source: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass responses on until the upstream closes its connection."""
    with contextlib.suppress(OSError):
        while data := await source.read(_PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a RST."""
    own = writer.get_extra_info("socket")
    if own is not None:
        with contextlib.suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
