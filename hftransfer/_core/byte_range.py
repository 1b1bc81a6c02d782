"""A range of a file that is read into memory: one request, its buffer and its progress.

The engine makes a `ByteRangeBuffer` for a request and a source fills it. The bytes that arrived
before a failure stay valid, so that the next attempt requests only the rest, and the rest of a
slow request can be given to another connection.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ("ByteRangeBuffer",)


class ByteRangeBuffer:
    """The bytes ``[start, stop)`` of one file, arriving in order into `memory`.

    Ownership: the task that makes it owns it, in the thread of the client's event loop, and gives
    it to one `Source.fill` at a time. While `fill` runs, two threads use it without a lock:

    - The receiving thread (the client's event loop, or a loop thread of the HTTP client) calls
      `append` and `advance` and sets `response_started_at`. Only it changes `filled`.
    - The thread of the client's event loop, in which the scheduler runs, reads the progress and
      calls `split_off`. Only it changes `limit`.

    Each attribute thus has one writer, and CPython reads and writes an attribute atomically. The
    receiving thread may see a new `limit` late, after it has read more bytes from the socket. It
    then writes beyond `limit`, into memory that another request fills with the same bytes of the
    same file. Readers of the progress must therefore expect ``filled > limit``.

    Args:
        start: offset in the file of the first byte of `memory`.
        memory: for the bytes; its length is the number of bytes that are requested.
    """

    __slots__ = (
        "filled",
        "limit",
        "memory",
        "needs_new_connection",
        "resets",
        "response_started_at",
        "split",
        "start",
    )

    def __init__(self, start: int, memory: memoryview) -> None:
        self.start = start
        self.memory = memory
        self.limit = len(memory)
        """Bytes of `memory` that are still requested, from its beginning; `split_off` lowers it."""
        self.filled = 0
        """Bytes that have arrived. Those beyond `limit` belong to the range that was split off."""
        self.response_started_at: float | None = None
        """When the first response began, in seconds of `time.monotonic`; None before."""
        self.needs_new_connection = False
        """True if the request is a repetition of one that was slow. It goes over a connection of
        its own, and to another address of the host if there is one. Set by the owner."""
        self.resets = 0
        """How often the bytes that had arrived were discarded."""
        self.split: ByteRangeBuffer | None = None
        """The range that begins where this one ends, if it was split off. Only the thread of the
        client's event loop uses it."""

    @property
    def position(self) -> int:
        """Offset in the file of the next byte to arrive."""
        return self.start + self.filled

    @property
    def stop(self) -> int:
        """Offset in the file after the last requested byte."""
        return self.start + self.limit

    @property
    def missing(self) -> int:
        """Number of requested bytes that have not arrived."""
        return max(0, self.limit - self.filled)

    @property
    def remaining(self) -> memoryview:
        """The memory for the missing bytes."""
        return self.memory[self.filled : self.limit]

    def advance(self, count: int) -> None:
        """Count bytes that were written to `remaining`. For the receiving thread."""
        self.filled += count

    @property
    def arrived(self) -> int:
        """Bytes of this range that have arrived, without those beyond its limit."""
        return min(self.filled, self.limit)

    def ranges(self) -> Iterator[ByteRangeBuffer]:
        """Return this range and all that were split off it, in file order."""
        part: ByteRangeBuffer | None = self
        while part is not None:
            yield part
            part = part.split

    def append(self, data: bytes | memoryview) -> None:
        """Copy `data`, no longer than `remaining`, to its beginning. For the receiving thread."""
        end = self.filled + len(data)
        self.memory[self.filled : end] = data
        self.filled = end

    def reset(self) -> None:
        """Discard what has arrived. For the owner or `Source.fill`, before a request is sent."""
        self.resets += 1
        self.filled = 0

    def split_off(self, minimum: int, parts: int = 2) -> ByteRangeBuffer | None:
        """Keep one of `parts` equal parts of the missing bytes; return a range for the others.

        For the thread of the client's event loop, also while the range is being filled.

        Args:
            minimum: bytes that each part must have; with fewer, None is returned.
            parts: at least 2. Default 2.
        """
        part = self.missing // parts
        if part < minimum:
            return None
        middle = self.limit - part * (parts - 1)
        other = ByteRangeBuffer(self.start + middle, self.memory[middle : self.limit])
        other.split, self.split = self.split, other
        self.limit = middle
        return other
