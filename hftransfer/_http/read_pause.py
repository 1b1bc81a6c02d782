"""Stops a connection from reading while the rate limiter demands a delay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from hftransfer._io.rate_limit import PendingDelay

__all__ = ("ReadPause",)


class ReadPause:
    """The pauses of one connection, at most one at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_active(self) -> bool:
        """True while nothing is read."""
        return self._timer is not None

    def start(
        self, transport: asyncio.Transport, delay: PendingDelay, on_end: Callable[[], None]
    ) -> None:
        """Stop reading until `delay` is over; it replaces an active one, which it includes.

        Args:
            transport: of the connection.
            delay: demanded by the rate limiter; nothing is done if it is over.
            on_end: called when the delay is over, before reading is resumed.
        """
        if not (step := delay.next_sleep()):
            return
        self._transport = transport
        transport.pause_reading()
        if self._timer is not None:
            # Python 3.10's TLS delivers the bytes that it has decrypted in a pause, too.
            self._timer.cancel()
        self._timer = self._loop.call_later(step, self._continue, delay, on_end)

    def _continue(self, delay: PendingDelay, on_end: Callable[[], None]) -> None:
        if step := delay.next_sleep():
            self._timer = self._loop.call_later(step, self._continue, delay, on_end)
            return
        on_end()
        self.end()

    def end(self) -> None:
        """Read again."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        if not self._transport.is_closing():
            with suppress(AttributeError, RuntimeError):  # lost; `connection_lost` follows
                self._transport.resume_reading()
