"""Sending a body straight from where it lies, in memory or in a file.

asyncio copies what a socket does not take at once. So over a plain connection the transport
sends the head, and the body goes from here, by ``send(2)`` or ``sendfile(2)`` on a duplicate
of the socket's descriptor, which the event loop watches apart from the transport's own. Over
TLS, and where a transport has no descriptor, it goes through the transport: OpenSSL copies
while it encrypts anyway.
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

_PIECE = 256 * 1024
_LARGE_PIECE = 4 << 20


class RequestBodySender:
    """One body on its way out.

    Args:
        body: which must not change until `run` has returned and the answer is there.
        transport: which has sent the head, or is about to.
        throttle: paid for every byte.
        answered: done when nothing more is wanted: the answer is there, or the connection broke.
        moved: called whenever the other end has taken something.
    """

    def __init__(
        self,
        body: BodyRange,
        transport: asyncio.Transport,
        throttle: RateLimiter,
        answered: asyncio.Future[Any],
        moved: Callable[[], None],
    ) -> None:
        self.left = len(body)
        """Bytes that neither the socket nor the transport has been given."""
        self.is_paused = False
        """True while the throttle holds it back."""
        self._body = body
        self._transport = transport
        self._throttle = throttle
        self._answered = answered
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._is_full = False
        self._waiter: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Send the body, or as much of it as is wanted.

        Raises:
            SourceChangedError, TransferError: if the file of the body cannot be read.
        """
        plain = _plain_socket(self._transport)
        if plain is None:
            await self._write()
        else:
            with plain:
                await self._send(plain)
        if not self.left:
            self._body.check_unchanged()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._is_full = False
        self._wake()

    async def _send(self, plain: socket.socket) -> None:
        while self.left and not self._answered.done():
            if self._transport.get_write_buffer_size():  # the head goes first
                await self._writable(plain)
                continue
            try:
                count = self._body.send(plain, *self._next(_LARGE_PIECE))
            except (BlockingIOError, InterruptedError):
                await self._writable(plain)
                continue
            except TransferError:
                raise  # about the file; some of ours are OSErrors, too
            except OSError:
                return  # so the transport finds, once it has read what the server said before
            await self._note(count)

    async def _write(self) -> None:
        while self.left and not self._answered.done():
            start, size = self._next(_PIECE)
            piece = self._body.get_nowait(start, size)
            if piece is None:
                piece = await anyio.to_thread.run_sync(self._body.get, start, size)
                if self._answered.done():
                    return
            self._transport.write(piece)
            while self._is_full and not self._answered.done():
                await self._wait()
            await self._note(len(piece))

    def _next(self, most: int) -> tuple[int, int]:
        """Return where the next piece begins, and its size."""
        return len(self._body) - self.left, min(most, self.left, self._throttle.burst_size or most)

    async def _note(self, count: int) -> None:
        self.left -= count
        self._moved()
        if self._throttle.rate is None:
            return
        self.is_paused = True
        try:
            await self._throttle.throttle(count)
        finally:
            self.is_paused = False
            self._moved()

    async def _writable(self, plain: socket.socket) -> None:
        """Wait until the socket takes more."""
        self._loop.add_writer(plain.fileno(), self._wake)
        try:
            await self._wait()
        finally:
            self._loop.remove_writer(plain.fileno())

    async def _wait(self) -> None:
        """Wait until there is room, or the answer is there."""
        self._waiter = self._loop.create_future()
        self._answered.add_done_callback(self._wake)
        try:
            await self._waiter
        finally:
            self._answered.remove_done_callback(self._wake)

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


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
        return None  # closed meanwhile, which the transport reports
    plain.setblocking(False)  # as it is already, but not for Python if there is a default timeout
    return plain
