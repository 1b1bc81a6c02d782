"""The throughput of a transfer over time, counted in windows of equal length. Pure."""

from __future__ import annotations

from typing import NamedTuple

_WINDOW = 0.25  # seconds, at first
# Beyond this number two neighbouring windows become one.
_MAX_WINDOWS = 240


class Rate(NamedTuple):
    """The throughput of one window."""

    start: float
    """Seconds since the start of the transfer."""
    end: float
    bytes_per_second: float


class ThroughputWindows:
    """Counts the bytes of a transfer by the time at which they came.

    One thread adds, another may read: each change replaces or appends one value.
    """

    def __init__(self) -> None:
        self._windows: tuple[float, list[int]] = (_WINDOW, [])
        """Length in seconds, and bytes of each window; replaced together."""

    def add(self, seconds: float, size: int) -> None:
        """Count `size` bytes that came `seconds` after the start; negative ones are taken back."""
        length, counts = self._windows
        index = int(max(seconds, 0.0) / length)
        while index >= _MAX_WINDOWS:
            length, counts = 2 * length, [sum(counts[i : i + 2]) for i in range(0, len(counts), 2)]
            index //= 2
            self._windows = (length, counts)
        counts.extend([0] * (index + 1 - len(counts)))
        counts[index] += size

    def rates(self, seconds: float) -> list[Rate]:
        """Return the throughput of each window until `seconds` after the start, without gaps.

        A last window that is not over yet is joined with the one before it, because a few
        bytes in a few milliseconds say nothing about the throughput.
        """
        length, counts = self._windows
        counts = list(counts)
        complete = int(seconds / length)
        counts.extend([0] * (complete - len(counts)))
        found = [
            Rate(index * length, (index + 1) * length, max(count, 0) / length)
            for index, count in enumerate(counts[:complete])
        ]
        start = found.pop().start if found else 0.0
        if seconds > start:
            last = sum(counts[int(start / length) :])
            found.append(Rate(start, seconds, max(last, 0) / (seconds - start)))
        return found

    def recent(self, seconds: float, span: float = 10.0) -> float:
        """Return the bytes per second of about the last `span` seconds before `seconds`."""
        length, counts = self._windows
        first = int(max(seconds - span, 0.0) / length)
        return max(sum(counts[first:]), 0) / max(seconds - first * length, 1e-9)
