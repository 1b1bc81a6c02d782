"""Sending a body straight from the memory where it lies.

aiohttp and asyncio copy what a socket does not take at once. For plain connections the
head is sent by aiohttp and the body from here, by ``send(2)`` on a duplicate of the
socket's descriptor, which the event loop watches apart from the transport's own. Over
TLS, and wherever that is not possible, pieces go through aiohttp: OpenSSL copies while
it encrypts anyway.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

import aiohttp
import anyio
from aiohttp.abc import AbstractStreamWriter

from hftransfer._throttle import Throttle

__all__ = ("MemoryPayload", "SendTimeout")

_PIECE = 256 * 1024
_LARGE_PIECE = 4 << 20
# Rounds of the event loop in which an answer that came before a connection broke is read.
_LAST_WORDS = 3


class SendTimeout(asyncio.TimeoutError, OSError):  # noqa: N818 - a kind of timeout
    """The server took nothing for too long.

    Without an errno, by which aiohttp knows a timeout from a broken connection.
    """


class MemoryPayload(aiohttp.Payload):
    """A request body in memory, which must not change until it was sent.

    Args:
        body: what is sent.
        throttle: paid for every byte.
        timeout: seconds for which the server may take nothing.
    """

    def __init__(self, body: memoryview, *, throttle: Throttle, timeout: float) -> None:
        super().__init__(body)
        self._body = body.cast("B")
        self._throttle = throttle
        self._timeout = timeout

    @property
    def size(self) -> int:
        """Bytes, of which aiohttp makes Content-Length."""
        return len(self._body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._body, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body; aiohttp has written the head, or is about to.

        Raises:
            SendTimeout: if the server takes nothing for too long.
            OSError: if the connection breaks.
        """
        # Older versions send the head at once and have no such method.
        if send_headers := getattr(writer, "send_headers", None):
            send_headers()
        transport: asyncio.Transport | None = getattr(writer, "transport", None)
        if transport is None:  # lost already, which aiohttp reports
            await writer.write(b"")
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        try:
            plain = _plain_socket(transport)
            if plain is None:
                await self._write_through(writer, transport)
            else:
                with plain:
                    await self._send(plain, transport)
        except asyncio.CancelledError:
            # When closed, a transport still sends what it refers to, and the memory is its
            # owner's again.
            transport.abort()
            raise
        except SendTimeout:
            # For the same reason, but after aiohttp has heard of the error: else it would
            # take the abort for a server that hung up.
            asyncio.get_running_loop().call_soon(transport.abort)
            raise
        except ConnectionError:
            await _listen(transport)
            raise

    async def _send(self, plain: socket.socket, transport: asyncio.Transport) -> None:
        while transport.get_write_buffer_size():  # the head goes first
            await _writable(plain, self._timeout)
        sent = 0
        while sent < len(self._body):
            if transport.is_closing():
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            piece = self._throttle.piece or _LARGE_PIECE
            try:
                count = plain.send(self._body[sent : sent + piece])
            except (BlockingIOError, InterruptedError):
                await _writable(plain, self._timeout)
                continue
            sent += count
            await self._throttle.pay(count)

    async def _write_through(
        self, writer: AbstractStreamWriter, transport: asyncio.Transport
    ) -> None:
        with anyio.CancelScope() as scope:
            with _Watch(transport, self._timeout, scope.cancel) as watch:
                while watch.written < len(self._body):
                    stop = watch.written + min(_PIECE, self._throttle.piece or _PIECE)
                    piece = self._body[watch.written : stop]
                    watch.written += len(piece)
                    await writer.write(piece)
                    await self._throttle.pay(len(piece))
        if scope.cancelled_caught:
            raise SendTimeout


class _Watch:
    """Notices a transport whose peer takes none of what is buffered.

    aiohttp's way of waiting for room cannot be waited for with a time limit and then again:
    a cancellation spoils it. So progress is looked at from outside.

    Args:
        transport: is written to meanwhile.
        timeout: seconds without progress after which to give up.
        give_up: is called then.
    """

    def __init__(
        self, transport: asyncio.Transport, timeout: float, give_up: Callable[[], None]
    ) -> None:
        self.written = 0
        self._transport = transport
        self._timeout = timeout
        self._give_up = give_up
        self._taken = 0

    def __enter__(self) -> _Watch:
        self._restart()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def _restart(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._look)

    def _look(self) -> None:
        try:
            buffered = self._transport.get_write_buffer_size()
        except AttributeError:
            return  # Python 3.10 after the loss of a TLS connection, which aiohttp reports
        before, self._taken = self._taken, self.written - buffered
        if buffered and self._taken == before:
            self._give_up()
        else:
            self._restart()


def _plain_socket(transport: asyncio.Transport) -> socket.socket | None:
    """Return a duplicate of an unencrypted transport's socket, or None if it has none."""
    if transport.get_extra_info("ssl_object") is not None:
        return None
    own = transport.get_extra_info("socket")
    if own is None:
        return None
    try:
        plain = socket.fromfd(own.fileno(), own.family, own.type, own.proto)
    except OSError:
        return None  # closed meanwhile, which the ordinary path reports
    plain.setblocking(False)  # as it is already, but not for Python if there is a default timeout
    return plain


async def _writable(plain: socket.socket, timeout: float) -> None:
    """Wait until the socket takes more.

    Raises:
        SendTimeout: if it does not for `timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[bool] = loop.create_future()
    loop.add_writer(plain.fileno(), _settle, ready, True)
    # Not `asyncio.wait_for`, which in older versions can lose a cancellation.
    timer = loop.call_later(timeout, _settle, ready, False)
    try:
        if not await ready:
            raise SendTimeout
    finally:
        timer.cancel()
        loop.remove_writer(plain.fileno())


def _settle(ready: asyncio.Future[bool], value: bool) -> None:
    if not ready.done():
        ready.set_result(value)


async def _listen(transport: asyncio.Transport) -> None:
    """Let aiohttp read what the server said before it hung up: it may be why it did."""
    for _ in range(_LAST_WORDS):
        if not transport.is_closing():
            await asyncio.sleep(0)
