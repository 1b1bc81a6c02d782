"""Spans: stretches of a file on their way into memory, one per request.

A `ByteRangeBuffer` is shared by whoever fills it and whoever watches: what has arrived stays valid
when a request fails, so the next try asks only for the rest, and the rest of a slow
span can be handed to another connection.
"""

from __future__ import annotations

__all__ = ("ByteRangeBuffer",)


class ByteRangeBuffer:
    """The bytes ``[start, stop)`` of one file, arriving in order into `buffer`.

    Args:
        start: offset in the file of the first byte of `buffer`.
        buffer: where the bytes go; its length is how many are wanted.
    """

    __slots__ = ("buffer", "filled", "limit", "response_started_at", "start")

    def __init__(self, start: int, buffer: memoryview) -> None:
        self.start = start
        self.buffer = buffer
        self.limit = len(buffer)
        """Bytes that are wanted from the beginning of `buffer`; may shrink meanwhile."""
        self.filled = 0
        """Bytes that have arrived. Those beyond `limit` are nobody's business."""
        self.response_started_at: float | None = None
        """When the first answer to a request for it began, in seconds of `time.monotonic`."""

    @property
    def position(self) -> int:
        """Offset in the file of the next byte."""
        return self.start + self.filled

    @property
    def stop(self) -> int:
        """Offset in the file behind the last byte that is wanted."""
        return self.start + self.limit

    @property
    def missing(self) -> int:
        """Bytes that are still missing."""
        return max(0, self.limit - self.filled)

    @property
    def remaining(self) -> memoryview:
        """The memory for what is missing."""
        return self.buffer[self.filled : self.limit]

    def advance(self, count: int) -> None:
        """Note that `count` bytes have arrived in `remaining`."""
        self.filled += count

    def append(self, data: bytes | memoryview) -> None:
        """Copy `data` into `remaining`, which must have room for it."""
        end = self.filled + len(data)
        self.buffer[self.filled : end] = data
        self.filled = end

    def reset(self) -> None:
        """Forget what has arrived."""
        self.filled = 0

    def split_off(self, minimum: int, ways: int = 2) -> ByteRangeBuffer | None:
        """Keep one of `ways` equal parts of what is missing, and give the others away.

        Whoever fills this span meanwhile may still write a few bytes beyond its new end:
        the same bytes as the other one writes there.

        Args:
            minimum: bytes that each part must have; with less, None is returned.
            ways: at least 2.
        """
        part = self.missing // ways
        if part < minimum:
            return None
        given = part * (ways - 1)
        middle = self.limit - given
        other = ByteRangeBuffer(self.start + middle, self.buffer[middle : self.limit])
        self.limit = middle
        return other
