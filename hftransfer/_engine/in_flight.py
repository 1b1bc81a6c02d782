"""Bytes in flight of chunks that are stored only as a whole, such as parts of an upload.

A kill loses what is in flight: what was sent of parts that are not complete. 32 parts of 8 MiB at
once are complete within a second on a fast network, and only after half a minute at 10 MB/s, all
together. So the chunks in flight have a window of bytes, which follows the measured rate:

- It is at least `MIN_WINDOW`, two chunks of the default size.
- It is at least what is stored in `WINDOW_SECONDS`. On a network that serves more than 16 MiB/s
  a kill loses at most a second.
- It is larger if that is measured to be faster, as where each connection is slow by itself: when
  chunks wait for the window, a larger one is tried, and kept if it brings `_MIN_GAIN`.

Chunks that begin together are complete together, and then all of them are lost together. So where
a chunk takes long, chunks begin one after the other (`WindowController.spacing`).

`WindowController` decides, without I/O and without a clock. `InFlightWindow` counts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import anyio

__all__ = ("MIN_WINDOW", "WINDOW_SECONDS", "InFlightWindow", "WindowController")

MIN_WINDOW = 16 << 20
"""Bytes. Two chunks: while the response to one is awaited, the other keeps the line busy."""
WINDOW_SECONDS = 1.0
"""Seconds of the measured rate that may be in flight."""
# Shortest measurement, seconds. It also lasts until a whole window was stored, because chunks that
# began together end together.
_MIN_MEASUREMENT = 0.1
# A larger window is kept if it raises the rate by a fifth. The first trial is half as large again,
# so that it should gain a half where each connection is slow; the next ones double.
_MIN_GAIN = 1.2
_FIRST_STEP = 1.5
_NEXT_STEP = 2.0
# Seconds until the next trial after one that failed: they double up to the maximum.
_MIN_PAUSE = 30.0
# Seconds until the first trial: a shorter transfer gains little from it.
_FIRST_PAUSE = 5.0
_MAX_PAUSE = 480.0
# Seconds between the beginnings of two chunks, as a share of the seconds in which the line carries
# one. A trial divides it by its step, or no more chunks than before would be in flight. Shorter
# ones are not worth the timer; longer ones would leave a line idle that became faster meanwhile.
_SPACING_SHARE = 0.9
_MIN_SPACING = 0.1
_MAX_SPACING = 5.0
# The network has changed, and an earlier trial counts no more, when the rate falls to half.
_CHANGED = 0.5
# Share of the former rate below which the rate is not taken to fall in one measurement.
_MAX_FALL = 0.7


class WindowController:
    """Decides how many bytes may be in flight. The first window is `MIN_WINDOW`."""

    def __init__(self) -> None:
        self.window = MIN_WINDOW
        """Bytes that may be in flight."""
        self._rate = 0.0
        """Bytes per second: the last measurement, falling slowly."""
        self._earned = MIN_WINDOW
        """Window that a trial has shown to be worth its size."""
        self._earned_rate = 0.0
        """Bytes per second that it brought."""
        self._trial: int | None = None
        """Window before the trial that is under way."""
        self._step = _FIRST_STEP
        self._pause = _MIN_PAUSE
        self._pause_until: float | None = None
        """When the next trial may begin; None before the first chunk."""
        self._since: float | None = None
        """When the measurement began; None while nothing is in flight."""
        self._stored = 0
        self._settling = 0
        """Bytes to be stored before the measurement begins: they began under another window."""

    def begin(self, now: float) -> None:
        """Record that a chunk begins while no other is in flight."""
        if self._pause_until is None:
            self._pause_until = now + _FIRST_PAUSE
        self._measure_from(now)

    def spacing(self, size: int) -> float:
        """Return the seconds from the beginning of a chunk of `size` bytes to that of the next."""
        if not self._rate:
            return 0.0
        share = _SPACING_SHARE if self._trial is None else _SPACING_SHARE / self._step
        seconds = share * size / self._rate
        return 0.0 if seconds < _MIN_SPACING else min(seconds, _MAX_SPACING)

    def stored(self, now: float, size: int, *, waiting: bool) -> int:
        """Record that a chunk is stored; return the window from now on.

        Args:
            now: seconds that only go forward.
            size: of the chunk, bytes.
            waiting: whether other chunks wait for the window.
        """
        assert self._since is not None, "no chunk has begun"
        if self._settling > 0:
            self._settling -= size
            if self._settling <= 0:
                self._measure_from(now)
            return self.window
        self._stored += size
        elapsed = now - self._since
        # A chunk may be larger than the window.
        if elapsed >= _MIN_MEASUREMENT and self._stored >= min(self.window, 4 * MIN_WINDOW):
            rate = self._stored / elapsed
            self._measure_from(now)
            self._decide(now, rate, waiting=waiting)
        return self.window

    def _measure_from(self, now: float) -> None:
        self._since = now
        self._stored = 0

    def _decide(self, now: float, rate: float, *, waiting: bool) -> None:
        if self._trial is not None:
            self._judge(now, rate)
        elif rate < self._earned_rate * _CHANGED:
            self._earned, self._earned_rate, self._step = MIN_WINDOW, 0.0, _FIRST_STEP
        self._rate = max(rate, self._rate * _MAX_FALL)
        before = self.window
        self.window = max(MIN_WINDOW, self._earned, int(self._rate * WINDOW_SECONDS))
        may_try = self._pause_until is not None and now >= self._pause_until
        if waiting and self.window <= before and may_try:
            self._trial = self.window
            self._settling = self.window
            self.window = int(self.window * self._step)

    def _judge(self, now: float, rate: float) -> None:
        assert self._trial is not None
        if rate >= max(self._rate, self._earned_rate) * _MIN_GAIN:
            self._earned, self._earned_rate = self.window, rate
            self._step, self._pause = _NEXT_STEP, _MIN_PAUSE
        else:
            self._step = _FIRST_STEP
            self._pause_until = now + self._pause
            self._pause = min(_MAX_PAUSE, 2 * self._pause)
        self._trial = None


class InFlightWindow:
    """Lets chunks begin, in the order in which they ask, while their bytes fit into the window.

    A chunk that is larger than the window begins alone. Used by tasks of one event loop.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._controller = WindowController()
        self._waiting: deque[tuple[int, anyio.Event]] = deque()
        self._granted: set[anyio.Event] = set()
        """Waiters that may begin and have not run yet."""
        self.in_use = 0
        """Bytes of the chunks in flight."""
        self._next_start = 0.0
        """When the next chunk may begin."""

    async def acquire(self, size: int) -> None:
        """Wait until `size` bytes fit, behind earlier callers. Without waiting no checkpoint."""
        await self._wait_until_fits(size)
        now = self._clock()
        delay = max(0.0, self._next_start - now)
        self._next_start = now + delay + self._controller.spacing(size)
        if delay:
            try:
                await anyio.sleep(delay)
            except BaseException:
                self.release(size, stored=False)
                raise

    async def _wait_until_fits(self, size: int) -> None:
        if not self._waiting and self._fits(size):
            self._take(size)
            return
        event = anyio.Event()
        self._waiting.append((size, event))
        try:
            await event.wait()
        except BaseException:
            if event in self._granted:
                self.release(size, stored=False)
            else:
                self._waiting.remove((size, event))
                self._grant()
            raise
        finally:
            self._granted.discard(event)

    def release(self, size: int, *, stored: bool) -> None:
        """Return the bytes of `acquire`.

        Args:
            size: as of `acquire`.
            stored: True if the chunk was sent and stored; False if it failed, or was stored
                before, which says nothing about the network.
        """
        self.in_use -= size
        if stored:
            self._controller.stored(self._clock(), size, waiting=bool(self._waiting))
        self._grant()

    def _fits(self, size: int) -> bool:
        return not self.in_use or self.in_use + size <= self._controller.window

    def _take(self, size: int) -> None:
        if not self.in_use:
            self._controller.begin(self._clock())
        self.in_use += size

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, event = self._waiting.popleft()
            self._take(size)
            self._granted.add(event)
            event.set()
