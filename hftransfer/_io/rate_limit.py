"""A bandwidth cap shared by everything that one client moves, in both directions."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import anyio

from hftransfer.errors import OptionsError

__all__ = ("PendingDelay", "RateLimiter")

# What may pass at once after a silence, seconds of the rate: enough to hide a timer's slack.
_BURST = 0.05
_LARGEST_PIECE = 256 * 1024
_SMALLEST_PIECE = 16 * 1024
# Under a very low cap the pause of one piece is long; whoever waits sees a new cap within this.
_NOTICE = 0.1


class RateLimiter:
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
        self._changes = 0
        self.rate = rate

    @property
    def rate(self) -> float | None:
        """Bytes per second, or None for no cap. Takes effect at once, for transfers under way.

        Raises:
            OptionsError: when it is set to what is not a positive, finite number.
        """
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        if rate is not None and not 0 < rate < math.inf:
            raise OptionsError("a bandwidth cap must be positive, or None for no cap")
        with self._lock:
            # What is owed was owed at the old rate; a raised cap should not wait for it.
            self._paid_until = min(self._paid_until, self._clock())
            self._rate = rate
            self._changes += 1

    @property
    def burst_size(self) -> int | None:
        """The most bytes to move between two calls of `charge`, or None for any number."""
        rate = self._rate
        if rate is None:
            return None
        return max(_SMALLEST_PIECE, min(_LARGEST_PIECE, int(rate * _BURST)))

    def charge(self, count: int) -> float:
        """Note that `count` bytes have moved; return for how many seconds to pause."""
        rate = self._rate
        if rate is None:
            return 0.0  # without the lock, which every byte would pass
        with self._lock:
            rate = self._rate
            if rate is None:
                return 0.0
            now = self._clock()
            self._paid_until = max(self._paid_until, now - _BURST) + count / rate
            return max(0.0, self._paid_until - now)

    def reserve(self, count: int) -> PendingDelay:
        """Note that `count` bytes have moved; return the pause, which a new cap ends early."""
        changes = self._changes  # read first: a change from now on is noticed
        return PendingDelay(self, self._clock, changes, self.charge(count))

    def is_changed_since(self, changes: int) -> bool:
        """Return True if the rate was set since `changes` was the count of its settings."""
        return changes != self._changes

    async def throttle(self, count: int) -> None:
        """Note that `count` bytes have moved, and pause for as long as they are owed."""
        await self.reserve(count).wait()


class PendingDelay:
    """Seconds to wait, in steps between which a change of the cap is noticed.

    Args:
        throttle: whose cap is watched.
        clock: of the throttle.
        changes: how often its rate had been set when the seconds were reckoned.
        seconds: owed under that rate.
    """

    __slots__ = ("_changes", "_clock", "_throttle", "_until")

    def __init__(
        self, throttle: RateLimiter, clock: Callable[[], float], changes: int, seconds: float
    ) -> None:
        self._throttle = throttle
        self._clock = clock
        self._changes = changes
        self._until = clock() + seconds if seconds else None

    def next_sleep(self) -> float:
        """Return for how many seconds to wait before asking again; 0 when it is over."""
        if self._until is None or self._throttle.is_changed_since(self._changes):
            return 0.0
        return max(0.0, min(self._until - self._clock(), _NOTICE))

    async def wait(self) -> None:
        """Wait until it is over."""
        while step := self.next_sleep():  # noqa: ASYNC110 - time is what is waited for
            await anyio.sleep(step)
