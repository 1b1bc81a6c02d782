"""The progress of a transfer: lines for the log, and throughput samples for the card.

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

# The interval between lines doubles after this many lines.
_LINES_PER_INTERVAL = 6
# Samples that are kept for the chart; beyond that every second one is dropped.
_MAX_SAMPLES = 240
_SAMPLE_INTERVAL = 0.25  # seconds, at first
# Seconds without an answer of a server from which that is logged.
_MIN_OUTAGE = 1.0


class TransferProgress:
    """Counts one transfer.

    The thread of the engine's event loop writes it, the card's thread reads it. Fields are
    replaced or appended to, never changed in place, so there is no lock.

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
    """

    def __init__(
        self,
        what: str,
        log: Callable[[str], None],
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what = what
        self.total = 0
        """Bytes of all files."""
        self.files = 0
        self.moved = 0
        """Bytes transferred so far."""
        self.files_done = 0
        self.finished = False
        self.samples: list[tuple[float, int]] = [(0.0, 0)]
        """Seconds since the start, and bytes transferred until then."""
        self._log = log
        self._clock = clock
        self._started = clock()
        self._interval = interval
        self._next_line = self._started + interval
        self._next_outage_line = 0.0
        self._lines = 0
        self._sample_interval = _SAMPLE_INTERVAL

    @property
    def seconds(self) -> float:
        """The duration so far, or of the whole transfer if it is finished."""
        return self.samples[-1][0] if self.finished else self._clock() - self._started

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, TransferStarted | ListingProgress):
            self.files, self.total = event.files, event.bytes
        elif isinstance(event, BytesMoved):
            self.moved += event.bytes
            self._sample()
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
        self.samples.append((self._clock() - self._started, self.moved))
        self.finished = True

    def line(self) -> str:
        """Return one line with sizes, share, files, throughput and the time left."""
        seconds = max(self._clock() - self._started, 1e-9)
        rate = max(self.moved, 0) / seconds
        share = f" ({100 * self.moved // self.total}%)" if self.total else ""
        left = ""
        if rate > 0 and self.total > self.moved:
            left = f", {format_duration((self.total - self.moved) / rate)} left"
        return (
            f"{self.what}: {format_size(self.moved)} of {format_size(self.total)}{share}, "
            f"{self.files_done} of {self.files} files, {format_size(rate)}/s{left}"
        )

    def rates(self) -> list[tuple[float, float]]:
        """Return the throughput over time: seconds since the start, and bytes per second."""
        found = []
        for (before, done), (after, more) in zip(self.samples, self.samples[1:], strict=False):
            if after > before:
                found.append((after, max(more - done, 0) / (after - before)))
        return found

    def _sample(self) -> None:
        now = self._clock() - self._started
        if now - self.samples[-1][0] < self._sample_interval:
            return
        self.samples.append((now, self.moved))
        if len(self.samples) > _MAX_SAMPLES:
            self.samples = self.samples[::2]
            self._sample_interval *= 2

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
