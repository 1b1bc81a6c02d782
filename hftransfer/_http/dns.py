"""The addresses of hosts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import anyio
from aiohappyeyeballs import AddrInfoType

__all__ = ("AddressCache",)

# Seconds for which addresses are kept, as aiohttp is configured to in `aiohttp_session`.
_TTL = 300.0


class AddressCache:
    """Looks up each host once, also when many connections to it are opened at the same time."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, int], anyio.Lock] = {}
        self._entries: dict[tuple[str, int], tuple[float, Sequence[AddrInfoType]]] = {}
        """By host and port: when the entry expires, and the addresses."""

    async def resolve(self, host: str, port: int) -> Sequence[AddrInfoType]:
        """Return the addresses of a host.

        Raises:
            OSError: if it has none.
        """
        loop = asyncio.get_running_loop()
        async with self._locks.setdefault((host, port), anyio.Lock()):
            expires_at, addresses = self._entries.get((host, port), (0.0, ()))
            if loop.time() >= expires_at:
                # `bytes` are passed to the system as they are; `str` would import the IDNA tables.
                name = host.encode()
                addresses = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
                self._entries[host, port] = loop.time() + _TTL, addresses
            return addresses

    def invalidate(self, host: str, port: int) -> None:
        """Look the host up again next time: it may have moved."""
        self._entries.pop((host, port), None)
