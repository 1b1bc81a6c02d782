"""The thread, the event loop and the listening sockets of a running `HubServer`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import ssl

from hftransfer.testing._responses import Host

_BACKLOG = 1024
_BIND_ATTEMPTS = 20
# Time for handlers to end after their connections were closed, seconds.
_SHUTDOWN_SECONDS = 0.5

Handler = Callable[[Host, web.BaseRequest], Awaitable[web.StreamResponse]]


class ServerThread:
    """Serves requests from the constructor on until `stop`.

    Args:
        handler: responds to the requests of both hosts; runs in the event loop of the thread.
        ssl_context: for HTTPS; `None` for HTTP.

    Raises:
        OSError: if no loopback port is free.
    """

    def __init__(self, handler: Handler, ssl_context: ssl.SSLContext | None) -> None:
        self._handler = handler
        self._ssl_context = ssl_context
        hub = _listen_on_one_port([(socket.AF_INET, "127.0.0.1")])
        try:
            cdn = _listen_on_one_port(_localhost())
        except BaseException:
            _close_all(hub)
            raise
        self._sockets: dict[Host, list[socket.socket]] = {"hub": hub, "cdn": cdn}
        self.hub_port: int = hub[0].getsockname()[1]
        self.cdn_port: int = cdn[0].getsockname()[1]
        # Not new_event_loop: the process may have set uvloop's policy, whose sendfile copies.
        self.loop: asyncio.AbstractEventLoop = asyncio.SelectorEventLoop()
        self._stopping = asyncio.Event()
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="hftransfer-hub", daemon=True)
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._thread.join()
            _close_all(hub + cdn)
            raise

    def stop(self) -> None:
        """Close all connections and wait until the thread has ended."""
        self.loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._serve())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _serve(self) -> None:
        runners = [await self._listen(host) for host in self._sockets]
        self._started.set_result(None)
        await self._stopping.wait()
        for runner in runners:
            server = runner.server
            assert server is not None
            for connection in server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
        for runner in runners:
            await runner.cleanup()

    async def _listen(self, host: Host) -> web.ServerRunner:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handler(host, request)

        # The handler is cancelled when the client closes the connection, which ends a stall.
        server = web.Server(handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        for listening in self._sockets[host]:
            await web.SockSite(
                runner, listening, ssl_context=self._ssl_context, backlog=_BACKLOG
            ).start()
        return runner


def _localhost() -> list[tuple[int, str]]:
    """Return the addresses that `localhost` resolves to, each once."""
    found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
    return [address for address in addresses if _is_usable(*address)]


def _is_usable(family: int, address: str) -> bool:
    """Return `False` if the machine does not have this address although a name resolves to it.

    Containers often list `::1` for localhost while IPv6 is disabled.
    """
    try:
        socket.create_server((address, 0), family=family).close()
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return False
        raise
    return True


def _listen_on_one_port(addresses: list[tuple[int, str]]) -> list[socket.socket]:
    """Bind the same free port on every address, so that a host name works over IPv4 and IPv6.

    Raises:
        OSError: if no port was free on all of them.
    """
    for attempt in range(1, _BIND_ATTEMPTS + 1):
        sockets: list[socket.socket] = []
        try:
            for family, address in addresses:
                where = (address, sockets[0].getsockname()[1] if sockets else 0)
                sockets.append(socket.create_server(where, family=family, backlog=_BACKLOG))
            return sockets
        except OSError:
            _close_all(sockets)
            if attempt == _BIND_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _close_all(sockets: list[socket.socket]) -> None:
    for listening in sockets:
        listening.close()
