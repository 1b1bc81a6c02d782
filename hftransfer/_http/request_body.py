"""Sends the body of a request from where it is, in memory or in a file, without copying it.

asyncio copies the bytes that a socket does not accept at once. So over a plain connection the
transport sends the head, and `RequestBodySender` sends the body, with ``send(2)`` or
``sendfile(2)`` on a duplicate of the socket's descriptor, for which it has a writer callback of
its own in the event loop. Over TLS, and if the transport has no descriptor, the body goes through
the transport: there OpenSSL copies the bytes when it encrypts them, with or without this class.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from hftransfer._io.file_range import BodyRange
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import TransferError

__all__ = ("RequestBodySender",)

# Bytes per `write` of a transport, and per system call on the socket.
_PIECE = 256 * 1024
_LARGE_PIECE = 4 << 20


class RequestBodySender:
    """Sends one body.

    Args:
        body: must not change until `run` has returned and the response has arrived.
        transport: which has sent the head, or has it in its write buffer.
        rate_limiter: counts every byte.
        response: done when no more of the body is wanted: the response has arrived, or the
            connection broke.
        on_progress: called whenever the server has accepted bytes.
    """

    def __init__(
        self,
        body: BodyRange,
        transport: asyncio.Transport,
        rate_limiter: RateLimiter,
        response: asyncio.Future[Any],
        on_progress: Callable[[], None],
    ) -> None:
        self.left = len(body)
        """Bytes that neither the socket nor the transport has."""
        self.is_paused = False
        """True while the rate limiter delays the next bytes."""
        self._body = body
        self._transport = transport
        self._rate_limiter = rate_limiter
        self._response = response
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._is_full = False
        """True while the write buffer of the transport is full."""
        self._waiter: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Send the body, or as much of it as is wanted.

        Raises:
            SourceChangedError, TransferError: if the file of the body cannot be read.
        """
        sock = _duplicate_socket(self._transport)
        if sock is None:
            await self._write()
        else:
            with sock:
                await self._send(sock)
        if not self.left:
            self._body.check_unchanged()

    def pause_writing(self) -> None:
        """The write buffer of the transport is full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """The transport accepts more."""
        self._is_full = False
        self._wake()

    async def _send(self, sock: socket.socket) -> None:
        """Send over a plain connection, through the duplicate of its socket."""
        while self.left and not self._response.done():
            if self._transport.get_write_buffer_size():  # the head has to precede the body
                await self._wait_writable(sock)
                continue
            try:
                count = self._body.send(sock, *self._next_piece(_LARGE_PIECE))
            except (BlockingIOError, InterruptedError):
                await self._wait_writable(sock)
                continue
            except TransferError:
                raise  # about the file; some of our errors are OSErrors, too
            except OSError:
                # The transport will report this, after it has read what the server sent before.
                return
            await self._count(count)

    async def _write(self) -> None:
        """Send through the transport."""
        while self.left and not self._response.done():
            start, size = self._next_piece(_PIECE)
            piece = self._body.get_nowait(start, size)
            if piece is None:
                piece = await anyio.to_thread.run_sync(self._body.get, start, size)
                if self._response.done():
                    return
            self._transport.write(piece)
            while self._is_full and not self._response.done():
                await self._wait()
            await self._count(len(piece))

    def _next_piece(self, most: int) -> tuple[int, int]:
        """Return the start and the size of the next piece."""
        size = min(most, self.left, self._rate_limiter.burst_size or most)
        return len(self._body) - self.left, size

    async def _count(self, count: int) -> None:
        """Record that `count` bytes were sent, and wait as long as the rate limiter demands."""
        self.left -= count
        self._on_progress()
        if self._rate_limiter.rate is None:
            return
        self.is_paused = True
        try:
            await self._rate_limiter.throttle(count)
        finally:
            self.is_paused = False
            self._on_progress()

    async def _wait_writable(self, sock: socket.socket) -> None:
        """Wait until the socket accepts bytes, or the response has arrived."""
        self._loop.add_writer(sock.fileno(), self._wake)
        try:
            await self._wait()
        finally:
            self._loop.remove_writer(sock.fileno())

    async def _wait(self) -> None:
        """Wait for `_wake` or the response."""
        self._waiter = self._loop.create_future()
        self._response.add_done_callback(self._wake)
        try:
            await self._waiter
        finally:
            self._response.remove_done_callback(self._wake)

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _duplicate_socket(transport: asyncio.Transport) -> socket.socket | None:
    """Return a duplicate of an unencrypted transport's socket, or None if it has none."""
    if transport.get_extra_info("ssl_object") is not None:
        return None
    own = transport.get_extra_info("socket")
    if own is None:
        return None
    try:
        sock = socket.fromfd(own.fileno(), own.family, own.type, own.proto)
    except OSError:
        return None  # closed already; the transport will report it
    # The descriptor is non-blocking already; this undoes socket.setdefaulttimeout for the object.
    sock.setblocking(False)
    return sock
