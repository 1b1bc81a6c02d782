"""The progress of a transfer: lines for the log, and its throughput for the card.

`TransferProgress` is an observer of the engine, called for every chunk, so it does little
more than count. A line is logged every few seconds, and less often the longer it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hftransfer._core.events import (
    BytesMoved,
    Event,
    FileFinished,
    ListingProgress,
    Recovered,
    TransferStarted,
    Waiting,
)
from hftransfer._core.units import format_size
from metaflow_extensions.hftransfer.plugins.engine.throughput import Rate, ThroughputWindows

# The interval between lines doubles after this many lines.
_LINES_PER_INTERVAL = 6
# Seconds without an answer of a server from which that is logged.
_MIN_OUTAGE = 1.0


class TransferProgress:
    """Counts one transfer.

    The thread of the engine's event loop writes it, the card's thread reads it. Fields are
    replaced, never changed in place, so there is no lock.

    Parameters
    ----------
    what : str
        The name of what is transferred, for the log.
    log : callable
        Takes one line.
    interval : float, default 10.0
        Seconds between lines, at first.
    clock : callable, default `time.monotonic`
        Returns seconds.
    wall_clock : callable, default `time.time`
        Returns seconds since the epoch.
    """

    def __init__(
        self,
        what: str,
        log: Callable[[str], None],
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.what = what
        self.total = 0
        """Bytes of all files; 0 until they are listed."""
        self.files = 0
        self.moved = 0
        """Bytes of `total` that are in place."""
        self.files_done = 0
        self.finished = False
        self.started_at = wall_clock()
        """Seconds since the epoch."""
        self._windows = ThroughputWindows()
        self._log = log
        self._clock = clock
        self._started = clock()
        self._ended = 0.0
        self._interval = interval
        self._next_line = self._started + interval
        self._next_outage_line = 0.0
        self._lines = 0

    @property
    def seconds(self) -> float:
        """The duration so far, or of the whole transfer if it is finished."""
        return (self._ended if self.finished else self._clock()) - self._started

    @property
    def rate(self) -> float:
        """Bytes per second: of the last seconds, or of the whole transfer if it is finished."""
        return self._windows.recent(self.seconds, self.seconds if self.finished else 10.0)

    @property
    def seconds_left(self) -> float | None:
        """The expected time until the end; None if nothing is known yet."""
        rate, left = self.rate, self.total - self.moved
        return left / rate if rate > 0 and left >= 0 else None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, TransferStarted | ListingProgress):
            self.files, self.total = event.files, event.bytes
        elif isinstance(event, BytesMoved):
            self.moved += event.bytes
            if not event.reused:  # these were transferred before
                self._windows.add(self._clock() - self._started, event.bytes)
        elif isinstance(event, FileFinished):
            self.files_done += 1
        elif isinstance(event, Waiting):
            self._log_outage(event)
        elif isinstance(event, Recovered):
            if event.seconds >= _MIN_OUTAGE:
                self._log(f"{self.what}: {event}")
            self._next_outage_line = 0.0
        self._log_if_due()

    def _log_outage(self, event: Waiting) -> None:
        """Log what is waited for, as often as progress."""
        now = self._clock()
        if (event.requested or event.elapsed >= _MIN_OUTAGE) and now >= self._next_outage_line:
            self._log(f"{self.what}: {event}")
            self._next_outage_line = now + self._interval

    def finish(self) -> None:
        """Record that the transfer is over."""
        self._ended = self._clock()
        self.finished = True

    def line(self) -> str:
        """Return one line with sizes, share, files, throughput and the time left."""
        share = f" ({100 * self.moved // self.total}%)" if self.total else ""
        return f"{self.what}: {format_size(self.moved)} of {self.figures(share)}"

    def figures(self, share: str = "") -> str:
        """Return the size of all files, `share`, the files, the throughput and the time left."""
        left = self.seconds_left
        until = f", {format_duration(left)} left" if left and self.total > self.moved else ""
        return (
            f"{format_size(self.total)}{share}, {self.files_done} of {self.files} files, "
            f"{format_size(self.rate)}/s{until}"
        )

    def rates(self) -> list[Rate]:
        """Return the throughput over time."""
        return self._windows.rates(self.seconds)

    def _log_if_due(self) -> None:
        now = self._clock()
        if now < self._next_line:
            return
        self._log(self.line())
        self._lines += 1
        if self._lines % _LINES_PER_INTERVAL == 0:
            self._interval *= 2
        self._next_line = now + self._interval


def format_duration(seconds: float) -> str:
    """Return a duration for users: ``8 s``, ``2:05 min``, ``1:10 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02} h"
