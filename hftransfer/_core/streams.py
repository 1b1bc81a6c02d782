"""A body that is read in order: the interface between HTTP client, stores and engine."""

from __future__ import annotations

from typing import Protocol

__all__ = ("ByteStream",)


class ByteStream(Protocol):
    """One body from its first byte to its last."""

    async def readinto(self, buffer: memoryview) -> None:
        """Fill `buffer` completely with the next bytes.

        Raises:
            TransientError: if the body ends before that, or the connection fails.
        """
