"""Requests that are being answered: how far each has come, and how fast it and its peers are.

No I/O and no clock: every function gets the time, in seconds of the scheduler's clock. All of this
belongs to the client's event loop; `ByteRangeBuffer` says which of its attributes a receiving
thread changes meanwhile.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from hftransfer._core.byte_range import ByteRangeBuffer

__all__ = ("InFlightRead", "RateHistory", "RequestPace", "weighted_median")

# Requests whose rate is remembered: twice the largest adaptive number of connections.
_HISTORY = 128
# A body that arrives faster is counted as if it had taken this many seconds: the bytes of a small
# file arrive together with the headers, which says nothing about the rate of a larger one.
_MIN_BODY_SECONDS = 0.05
_HIGH_PERCENTILE = 0.9


@dataclass(eq=False, slots=True)
class RequestPace:
    """The progress of one request for the missing bytes of a buffer."""

    buffer: ByteRangeBuffer
    started: float
    """When the current request began."""
    filled_at_start: int = field(default=0, kw_only=True)
    """Bytes of the buffer that had arrived before the current request."""
    marks: list[tuple[float, int]] = field(default_factory=list, kw_only=True)
    """Times and `filled` at these times; the first is as old as the window, if possible."""

    @property
    def moved(self) -> int:
        """Bytes that the current request has read."""
        return self.buffer.filled - self.filled_at_start

    @property
    def is_unanswered(self) -> bool:
        """True if neither headers nor bytes have arrived."""
        return self.buffer.response_started_at is None and self.moved <= 0

    def rate(self, now: float) -> float:
        """Return the bytes per second of the current request."""
        elapsed = now - self.started
        return self.moved / elapsed if elapsed > 0 else 0.0

    def latency(self, now: float) -> float:
        """Return the seconds that the current request waited, or has waited, for its response."""
        response = self.buffer.response_started_at
        if response is None and self.moved > 0:
            return 0.0  # a source that sends no requests
        return (now if response is None else max(response, self.started)) - self.started

    def mark(self, now: float, window: float) -> None:
        """Remember how far the request is; forget what is older than `window` needs."""
        response = self.buffer.response_started_at
        if not self.marks:
            self.marks.append((self.started, self.filled_at_start))
        if response is not None and response > self.marks[0][0]:
            # The rate is that of the body, without the wait for it.
            self.marks = [(response, self.filled_at_start)]
        self.marks.append((now, self.buffer.filled))
        while len(self.marks) > 1 and self.marks[1][0] <= now - window:
            del self.marks[0]

    def recent(self, now: float, window: float) -> tuple[int, float] | None:
        """Return the bytes of the last `window` seconds, and the exact seconds.

        None if the request has not been observed for as long as that.
        """
        if not self.marks or now - self.marks[0][0] < window:
            return None
        time, filled = self.marks[0]
        return max(0, self.buffer.filled - filled), now - time

    def seconds_left(self, now: float, window: float) -> float | None:
        """Return the seconds to the end at the rate of the last `window`; None if not known."""
        recent = self.recent(now, window)
        if recent is None:
            return None
        moved, seconds = recent
        return self.buffer.missing * seconds / moved if moved else float("inf")

    def begin(self, now: float) -> None:
        """Note that another request for the missing bytes begins; none is running."""
        self.started = now
        self.filled_at_start = self.buffer.filled
        self.buffer.response_started_at = None
        self.marks.clear()

    def forget(self, now: float) -> None:
        """Measure the rate from `now` on: the event loop was late, and nothing was observed."""
        self.marks[:] = [(now, self.buffer.filled)]


@dataclass(eq=False, slots=True)
class InFlightRead(RequestPace):
    """A byte range that one connection is reading."""

    group: int = 0
    """Requests with equal ones go to the same store, so that their rates are comparable."""
    split: Callable[[], bool] | None = None
    """Moves half of the missing bytes to another connection; returns False if too few are.
    None for a range that is too short."""
    hedges: int = 0
    """How often its missing bytes were asked for again."""
    hedged_at: float | None = None
    """When they last were."""
    is_probed: bool = False
    """True if they last were without a peer that showed another connection to be faster."""
    duplicate: RequestPace | None = None
    """The second request, for what the first had yet to read, while there is one."""
    is_pausing: bool = False
    """True between a failure and the next attempt."""
    is_replaced: bool = False
    """True if the current request was cancelled and another one follows."""


class RateHistory:
    """How fast the requests were that ended well last."""

    def __init__(self) -> None:
        self._ended: deque[_EndedRequest] = deque(maxlen=_HISTORY)

    def record(self, group: int, pace: RequestPace, now: float) -> None:
        """Remember a request that has ended well at `now`."""
        moved, latency = pace.moved, pace.latency(now)
        seconds = max(_MIN_BODY_SECONDS, now - pace.started - latency)
        self._ended.append(_EndedRequest(group, now, moved, moved / seconds, latency))

    def rates(self, group: int, since: float = float("-inf")) -> list[tuple[float, int]]:
        """Return rate and bytes of the requests of a group that ended at `since` or later."""
        return [
            (ended.rate, ended.moved)
            for ended in self._ended
            if ended.group == group and ended.time >= since
        ]

    def latency(self, group: int) -> float:
        """Return the seconds within which nine of ten responses began; 0.0 if none has."""
        ordered = sorted(ended.latency for ended in self._ended if ended.group == group)
        return ordered[math.ceil(_HIGH_PERCENTILE * len(ordered)) - 1] if ordered else 0.0


class _EndedRequest(NamedTuple):
    group: int
    time: float
    """When it ended."""
    moved: int
    """Bytes."""
    rate: float
    """Bytes per second of the body, without the latency."""
    latency: float
    """Seconds before the response."""


def weighted_median(samples: Iterable[tuple[float, int]]) -> float | None:
    """Return the value below which half of the weight lies; None without any weight.

    Args:
        samples: values and their weights.
    """
    ordered = sorted(samples)
    half = sum(weight for _, weight in ordered) / 2
    if half <= 0:
        return None
    below = 0
    for value, weight in ordered:
        below += weight
        if below >= half:
            return value
    raise AssertionError("unreachable")
