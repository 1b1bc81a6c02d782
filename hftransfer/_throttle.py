"""A bandwidth cap shared by everything that one client moves, in both directions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hftransfer.errors import OptionsError

__all__ = ("Throttle",)

# What may pass at once after a silence, seconds of the rate: enough to hide a timer's slack.
_BURST = 0.05
_LARGEST_PIECE = 256 * 1024
_SMALLEST_PIECE = 16 * 1024


class Throttle:
    """Says how long to pause after bytes have moved, so that their rate stays below a cap.

    It is asked after the fact, because only then it is known how much the network gave:
    whoever moved bytes owes time for them (the generic cell rate algorithm, ITU-T I.371).
    May be used from several threads.

    Args:
        rate: bytes per second, or None for no cap.
        clock: seconds that only go forward.
    """

    def __init__(
        self, rate: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._paid_until = clock()
        self._rate: float | None = None
        self.rate = rate

    @property
    def rate(self) -> float | None:
        """Bytes per second, or None for no cap. Takes effect at once, for transfers under way."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        if rate is not None and rate <= 0:
            raise OptionsError("a bandwidth cap must be positive, or None for no cap")
        with self._lock:
            # What is owed was owed at the old rate; a raised cap should not wait for it.
            self._paid_until = min(self._paid_until, self._clock())
            self._rate = rate

    @property
    def piece(self) -> int | None:
        """The most bytes to move between two calls of `take`, or None for any number."""
        rate = self._rate
        if rate is None:
            return None
        return max(_SMALLEST_PIECE, min(_LARGEST_PIECE, int(rate * _BURST)))

    def take(self, count: int) -> float:
        """Note that `count` bytes have moved; return for how many seconds to pause."""
        rate = self._rate
        if rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - _BURST) + count / rate
            return max(0.0, self._paid_until - now)
