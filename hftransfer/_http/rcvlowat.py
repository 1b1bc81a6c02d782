"""The number of received bytes for which the kernel wakes an event loop (SO_RCVLOWAT).

A fast connection delivers a body in pieces as small as the event loop is quick, and the loop spends
more time on each piece than the system call that reads it. So the low-water mark of the socket
(socket(7), tcp(7)) is raised to the bytes that arrive in about 10 ms. The kernel wakes the loop
earlier for the end of the stream, an error or a full buffer. On a slow connection the mark stays
at 1, so each piece is read when it arrives.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Protocol

__all__ = ("LowWaterMark",)

# Half of a common L2 cache (1 MiB), so that the bytes are still in the cache when they are copied.
_MAX_MARK = 512 * 1024
# asyncio's TLS reads no more than this from the socket at a time.
_MAX_MARK_TLS = 256 * 1024
# asyncio's TLS may already hold a partial record, which the kernel no longer counts: two records of
# 16 KiB with their overhead.
_HELD_BY_TLS = 2 * 17 * 1024
# A lower mark saves no wake-ups and costs a system call.
_MIN_MARK = 32 * 1024
# Seconds for which bytes may wait in the socket.
_MAX_DELAY = 0.01
# Shorter intervals are not measured, seconds.
_MIN_INTERVAL = 1e-6


class _Socket(Protocol):
    def setsockopt(self, level: int, name: int, value: int, /) -> None: ...


class LowWaterMark:
    """The low-water mark of one connection.

    Args:
        sock: its socket; errors of a closed one are ignored, since its connection reports them.
        secure: True if it carries TLS.
    """

    def __init__(self, sock: _Socket, *, secure: bool) -> None:
        self._socket = sock
        self._maximum = _MAX_MARK_TLS if secure else _MAX_MARK
        self._held = _HELD_BY_TLS if secure else 0
        self._mark = 1

    @property
    def is_raised(self) -> bool:
        """True if bytes may wait in the socket without the event loop being woken."""
        return self._mark > 1

    def adjust(self, received: int, seconds: float, left: int) -> bool:
        """Set the mark for the rest of a body; return True if this raised it from 1.

        Args:
            received: bytes that have just arrived.
            seconds: since the bytes before them.
            left: bytes of the body that have not arrived.
        """
        expected = int(received * _MAX_DELAY / max(seconds, _MIN_INTERVAL))
        # A power of two, so that the mark changes seldom.
        mark = min(self._maximum, 1 << max(0, expected.bit_length() - 1), left - self._held)
        was_raised = self.is_raised
        self._set(mark if mark >= _MIN_MARK else 1)
        return self.is_raised and not was_raised

    def reset(self) -> None:
        """Have the event loop woken for the next byte."""
        self._set(1)

    def _set(self, mark: int) -> None:
        if mark == self._mark:
            return
        self._mark = mark
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
