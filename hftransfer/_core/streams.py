"""A body that can only be read in order, as the stores and the HTTP client hand it on."""

from __future__ import annotations

from typing import Protocol

__all__ = ("ByteStream",)


class ByteStream(Protocol):
    """One body from its first byte to its last."""

    async def readinto(self, buffer: memoryview) -> None:
        """Fill `buffer` completely with the bytes that follow.

        Raises:
            TransientError: if the body ends or breaks before that.
        """
