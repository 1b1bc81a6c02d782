"""How a transfer goes: lines for the log, and figures for the card.

`TransferProgress` is an observer of the engine. It is told of every chunk, so it only
counts; a line is due every few seconds, and less often the longer it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hftransfer._core.events import BytesMoved, Event, FileFinished, TransferStarted

# Lines at the first interval; after as many again it doubles.
_LINES = 6
# Figures kept for the picture; two neighbours become one when there are more.
_SAMPLES = 240
_SAMPLE_INTERVAL = 0.25


class TransferProgress:
    """Counts one transfer.

    Parameters
    ----------
    what : str
        What is moved, for people.
    log : callable
        Takes one line.
    interval : float
        Seconds between lines.
    clock : callable
        Seconds that only go forward.
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
        self.files = 0
        self.moved = 0
        self.files_done = 0
        self.finished = False
        self.samples: list[tuple[float, int]] = [(0.0, 0)]
        """Seconds since the start, and bytes moved until then."""
        self._log = log
        self._clock = clock
        self._started = clock()
        self._interval = interval
        self._next_line = self._started + interval
        self._lines = 0
        self._spacing = _SAMPLE_INTERVAL

    @property
    def seconds(self) -> float:
        """Since the start, or until the end."""
        return self.samples[-1][0] if self.finished else self._clock() - self._started

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, TransferStarted):
            self.files, self.total = event.files, event.bytes
        elif isinstance(event, BytesMoved):
            self.moved += event.bytes
            self._sample()
        elif isinstance(event, FileFinished):
            self.files_done += 1
        self._maybe_line()

    def finish(self) -> None:
        """The transfer is over."""
        self.samples.append((self._clock() - self._started, self.moved))
        self.finished = True

    def line(self) -> str:
        """Return one line that says how far it is."""
        seconds = max(self._clock() - self._started, 1e-9)
        rate = max(self.moved, 0) / seconds
        share = f" ({100 * self.moved // self.total}%)" if self.total else ""
        left = ""
        if rate > 0 and self.total > self.moved:
            left = f", {shown_time((self.total - self.moved) / rate)} left"
        return (
            f"{self.what}: {shown_size(self.moved)} of {shown_size(self.total)}{share}, "
            f"{self.files_done} of {self.files} files, {shown_size(rate)}/s{left}"
        )

    def rates(self) -> list[tuple[float, float]]:
        """Return seconds since the start and bytes per second there."""
        found = []
        for (before, done), (after, more) in zip(self.samples, self.samples[1:], strict=False):
            if after > before:
                found.append((after, max(more - done, 0) / (after - before)))
        return found

    def _sample(self) -> None:
        now = self._clock() - self._started
        if now - self.samples[-1][0] < self._spacing:
            return
        self.samples.append((now, self.moved))
        if len(self.samples) > _SAMPLES:
            self.samples = self.samples[::2]
            self._spacing *= 2

    def _maybe_line(self) -> None:
        now = self._clock()
        if now < self._next_line:
            return
        self._log(self.line())
        self._lines += 1
        if self._lines % _LINES == 0:
            self._interval *= 2
        self._next_line = now + self._interval


def shown_size(size: float) -> str:
    """Return bytes for people: ``512 B``, ``1.5 MB`` (powers of ten)."""
    if size < 1000:
        return f"{int(size)} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def shown_time(seconds: float) -> str:
    """Return a duration for people: ``8 s``, ``2:05 min``, ``1:10 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"
    return f"{int(seconds) // 3600}:{int(seconds) % 3600 // 60:02} h"
