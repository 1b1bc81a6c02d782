"""For how many bytes of a body an event loop is woken (``SO_RCVLOWAT``, socket(7) and tcp(7)).

A fast connection brings a body in pieces as small as the loop is quick, and what a loop spends
on each is more than the system call that takes it. So it is told of as many bytes as
come in some milliseconds, and sooner of an end, an error or a full buffer, which the kernel
sees to. A slow connection is told of each piece, as ever.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Protocol

__all__ = ("LowWaterMark",)

# Half of what a core's own cache holds, which so still holds it when it is copied.
_MOST = 512 * 1024
# asyncio takes no more from a connection with TLS at a time, and may have taken the beginning
# of a record of which it has not told.
_MOST_TLS = 256 * 1024
_UNTOLD = 2 * 17 * 1024
# Less is no fewer wake-ups, but a system call.
_LEAST = 32 * 1024
# Seconds for which bytes may lie there.
_PATIENCE = 0.01
# Shorter times are not measured.
_INSTANT = 1e-6


class _Socket(Protocol):
    def setsockopt(self, level: int, name: int, value: int, /) -> None: ...


class LowWaterMark:
    """The mark of one connection.

    Args:
        plain: its socket. That it is closed already is no error.
        secure: it carries TLS.
    """

    def __init__(self, plain: _Socket, *, secure: bool) -> None:
        self._socket = plain
        self._most = _MOST_TLS if secure else _MOST
        self._untold = _UNTOLD if secure else 0
        self._mark = 1

    @property
    def is_raised(self) -> bool:
        """True if bytes may lie there of which the loop is not told."""
        return self._mark > 1

    def follow(self, arrived: int, seconds: float, left: int) -> bool:
        """Set the mark for the rest of a body; return True if it is raised, and was not before.

        Args:
            arrived: bytes that have just come.
            seconds: since those before them.
            left: bytes that are still to come.
        """
        soon = int(arrived * _PATIENCE / max(seconds, _INSTANT))
        # A power of two, so that it changes seldom.
        wanted = min(self._most, 1 << max(0, soon.bit_length() - 1), left - self._untold)
        was_raised = self.is_raised
        self._set(wanted if wanted >= _LEAST else 1)
        return self.is_raised and not was_raised

    def lower(self) -> None:
        """Have the loop be told of the next byte."""
        self._set(1)

    def _set(self, mark: int) -> None:
        if mark == self._mark:
            return
        self._mark = mark
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
