"""A socket that wakes its reader for a worthwhile amount, by ``SO_RCVLOWAT`` (socket(7)).

A reader as quick as the network is woken for every few segments, and each waking costs a
round of the event loop. With a low-water mark the kernel lets bytes gather first. It
reports a socket as readable below its mark once the connection has ended or the window is
nearly closed, so nothing is lost; but what arrives below the mark goes unnoticed, and
unread bytes narrow the window. So the mark follows the rate, never exceeds what is still
to come, and is dropped where bytes come slowly.
"""

from __future__ import annotations

import asyncio
import socket

__all__ = ("LowWater",)

# Seconds for which bytes may gather: less than any network's round trip between two places.
_GATHER = 0.005
# Half of the cache of a core; more saves nothing.
_MAX_MARK = 256 * 1024
# Below this a mark would change nothing that can be measured.
_MIN_MARK = 32 * 1024
# What is decrypted already, or waits in OpenSSL for the rest of its record (16 KiB, RFC 8446),
# comes through no socket again.
_WITHIN_TLS = 64 * 1024
_OPTION: int | None = getattr(socket, "SO_RCVLOWAT", None)


class LowWater:
    """The low-water mark of the socket under `transport`, for one body.

    Where the platform or the transport has none, nothing happens.
    """

    def __init__(self, transport: asyncio.BaseTransport, now: float) -> None:
        is_tls = transport.get_extra_info("ssl_object") is not None
        self._socket = None if _OPTION is None else transport.get_extra_info("socket")
        self._withheld = _WITHIN_TLS if is_tls else 0
        self._started = now
        self._arrived = 0
        self._is_slow = False
        self._mark = 1

    def follow(self, now: float, arrived: int, left: int) -> None:
        """Let bytes gather, as many as come in a moment and never more than are still to come.

        Args:
            now: seconds that only go forward.
            arrived: bytes that have come since the last call.
            left: bytes that are still to come.
        """
        self._arrived += arrived
        if self._socket is None or self._is_slow:
            return
        gathered = int(self._arrived * _GATHER / max(now - self._started, _GATHER))
        mark = min(_MAX_MARK, 1 << gathered.bit_length() >> 1)  # few different ones
        mark = min(mark, left - self._withheld)
        self._set(mark if mark >= _MIN_MARK else 1)

    def drop(self) -> None:
        """Report every byte from now on."""
        self._is_slow = True
        self._set(1)

    def _set(self, mark: int) -> None:
        if mark == self._mark or self._socket is None or _OPTION is None:
            return
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _OPTION, mark)
        except (OSError, ValueError, AttributeError, TypeError):
            self._socket = None  # closed, or nothing that has marks
        else:
            self._mark = mark
