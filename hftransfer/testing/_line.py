"""A network line of limited speed: a TCP relay in front of a server on loopback."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

__all__ = ("Line",)

# Bytes that are relayed at a time, and that the kernel may hold for each connection, so that few
# bytes are under way that the sender counts as sent.
_PIECE = 16 * 1024
_SOCKET_BUFFER = 64 * 1024
# Seconds of the line's rate that may pass without a delay after an idle time.
_BURST = 0.02


class Line:
    """Relays connections to a server; all of them together have a bandwidth in each direction.

    A test points the client at `url` instead of the server. Both directions are limited and
    counted separately. Connections of clients that were killed end on the other side, too.
    For use as a context manager; the relay runs in a thread of its own.

    Example::

        with HubServer() as hub, Line(hub.cdn_endpoint, bytes_per_second=2e6) as line:
            hub.cdn_url = line.url
            ...
            print(line.to_client, "bytes came over the line")

    Args:
        url: of the server; its host and port are used.
        bytes_per_second: of each direction; None for no limit. May be changed at any time.

    Attributes:
        bytes_per_second: see above.
        to_client: bytes that were sent to clients.
        to_server: bytes that were sent to the server.
    """

    def __init__(self, url: str, *, bytes_per_second: float | None = None) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._scheme = parts.scheme
        self.bytes_per_second = bytes_per_second
        self.to_client = 0
        self.to_server = 0
        self._busy_until = {"to_client": 0.0, "to_server": 0.0}
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Scheme, address and port of the relay, without a path."""
        assert self._listener is not None, "Line is not running"
        return f"{self._scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Line:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(256)
        self._listener.setblocking(False)
        started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="hftransfer-line", daemon=True
        )
        self._thread.start()
        started.result()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._stopping is not None
        assert self._thread is not None
        assert self._listener is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._listener.close()

    async def _serve(self, started: concurrent.futures.Future[None]) -> None:
        assert self._listener is not None
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        accepting = asyncio.ensure_future(self._accept(self._listener))
        started.set_result(None)
        await self._stopping.wait()
        tasks = [accepting, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            task = asyncio.ensure_future(self._relay(client))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _relay(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client, socket.socket() as server:
            for end in (client, server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            try:
                await loop.sock_connect(server, self._target)
            except OSError:
                return  # the client sees a closed connection
            pumps = [
                asyncio.ensure_future(self._pump(client, server, "to_server")),
                asyncio.ensure_future(self._pump(server, client, "to_client")),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, receiver: socket.socket, sender: socket.socket, direction: str) -> None:
        """Relay one direction until either side closes its connection."""
        loop = asyncio.get_running_loop()
        buffer = bytearray(_PIECE)
        try:
            while count := await loop.sock_recv_into(receiver, buffer):
                await self._throttle(direction, count)
                await loop.sock_sendall(sender, memoryview(buffer)[:count])
                setattr(self, direction, getattr(self, direction) + count)
        except OSError:
            return  # reset by one side: both are closed

    async def _throttle(self, direction: str, count: int) -> None:
        rate = self.bytes_per_second
        if rate is None:
            return
        now = asyncio.get_running_loop().time()
        until = max(self._busy_until[direction], now - _BURST) + count / rate
        self._busy_until[direction] = until
        if until > now:
            await asyncio.sleep(until - now)
