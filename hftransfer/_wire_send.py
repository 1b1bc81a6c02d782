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

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from hftransfer._throttle import Throttle

__all__ = ("MemoryPayload",)

_PIECE = 256 * 1024


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
        self._size: int = body.nbytes  # aiohttp's name, from which it makes Content-Length
        self._throttle = throttle
        self._timeout = timeout

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._body, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body; aiohttp has written the head, or is about to.

        Raises:
            OSError: if the connection breaks, or the server takes nothing for too long.
        """
        # Older versions send the head at once and have no such method.
        if send_headers := getattr(writer, "send_headers", None):
            send_headers()
        transport = getattr(writer, "transport", None)
        plain = None if transport is None else _plain_socket(transport)
        if transport is None or plain is None:
            await self._write_through(writer)
            return
        with plain:
            await self._send(plain, transport)

    async def _send(self, plain: socket.socket, transport: asyncio.Transport) -> None:
        while transport.get_write_buffer_size():  # the head goes first
            await _writable(plain, self._timeout)
        sent = 0
        while sent < self._size:
            piece = self._throttle.piece or _PIECE * 16
            if transport.is_closing():
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            try:
                count = plain.send(self._body[sent : sent + piece])
            except (BlockingIOError, InterruptedError):
                await _writable(plain, self._timeout)
                continue
            sent += count
            if pause := self._throttle.take(count):
                await asyncio.sleep(pause)

    async def _write_through(self, writer: AbstractStreamWriter) -> None:
        for start in range(0, self._size, _PIECE):
            piece = self._body[start : start + _PIECE]
            await writer.write(piece)
            if pause := self._throttle.take(len(piece)):
                await asyncio.sleep(pause)


def _plain_socket(transport: asyncio.Transport) -> socket.socket | None:
    """Return a duplicate of an unencrypted transport's socket, or None if it has none."""
    if transport.get_extra_info("ssl_object") is not None:
        return None
    own = transport.get_extra_info("socket")
    if own is None:
        return None
    try:
        return socket.socket(fileno=os.dup(own.fileno()))
    except OSError:
        return None  # closed meanwhile, which the ordinary path reports


async def _writable(plain: socket.socket, timeout: float) -> None:
    """Wait until the socket takes more.

    Raises:
        TimeoutError: if it does not for `timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(plain.fileno(), _set, ready)
    try:
        await asyncio.wait_for(ready, timeout)
    except asyncio.TimeoutError:
        raise TimeoutError(errno.ETIMEDOUT, "the server took nothing for too long") from None
    finally:
        loop.remove_writer(plain.fileno())


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
