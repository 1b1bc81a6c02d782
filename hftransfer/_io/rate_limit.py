"""A bandwidth limit for everything that one client transfers, in both directions.

The HTTP client reports the bytes that it has moved and delays the next read or write by the time
that the `RateLimiter` returns. It is called from the client's event loop and from the loop threads
of the HTTP client.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import anyio

from hftransfer.errors import OptionsError

__all__ = ("PendingDelay", "RateLimiter")

# Bytes that may move without a delay after an idle time, as seconds of the rate: more than the
# inaccuracy of a timer.
_BURST = 0.05
_BURST_SIZE_MIN = 16 * 1024
_BURST_SIZE_MAX = 256 * 1024
# Longest sleep (seconds) before a delay looks for a change of the rate: at a very low rate the
# delay for one burst is long.
_SLEEP_MAX = 0.1


class RateLimiter:
    """Returns the delay after bytes have moved that keeps their rate below a limit. Thread-safe.

    Bytes are reported after they have moved, because only then it is known how many the network
    delivered. The delay follows the generic cell rate algorithm (ITU-T I.371): the limiter keeps
    the time until which the bytes so far occupy the link.

    Args:
        rate: bytes per second, or None for no limit. Default: no limit.
        clock: monotonic time in seconds.

    Raises:
        OptionsError: if `rate` is not positive and finite.
    """

    def __init__(
        self, rate: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards all that follows
        self._busy_until = clock()
        self._rate: float | None = None
        self._rate_version = 0
        self.rate = rate

    @property
    def rate(self) -> float | None:
        """Bytes per second, or None for no limit. A change also ends delays that have begun.

        Raises:
            OptionsError: if it is set to a number that is not positive and finite.
        """
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        if rate is not None and not 0 < rate < math.inf:
            raise OptionsError("a bandwidth limit must be positive and finite, or None")
        with self._lock:
            # Delays of bytes that moved at the old rate do not count under the new one.
            self._busy_until = min(self._busy_until, self._clock())
            self._rate = rate
            self._rate_version += 1

    @property
    def burst_size(self) -> int | None:
        """The most bytes to move between two calls of `reserve`; None without a limit."""
        rate = self._rate
        if rate is None:
            return None
        return max(_BURST_SIZE_MIN, min(_BURST_SIZE_MAX, int(rate * _BURST)))

    def charge(self, count: int) -> float:
        """Count `count` bytes that have moved; return the delay after them in seconds."""
        rate = self._rate
        if rate is None:
            return 0.0  # without the lock, which would be taken for every read
        with self._lock:
            rate = self._rate
            if rate is None:
                return 0.0
            now = self._clock()
            self._busy_until = max(self._busy_until, now - _BURST) + count / rate
            return max(0.0, self._busy_until - now)

    def reserve(self, count: int) -> PendingDelay:
        """Count `count` bytes that have moved; return the delay after them."""
        version = self._rate_version  # read first, so that a change during `charge` is noticed
        return PendingDelay(self, self._clock, version, self.charge(count))

    def is_changed_since(self, version: int) -> bool:
        """Return True if the rate was set after `reserve` read `version`."""
        return version != self._rate_version

    async def throttle(self, count: int) -> None:
        """Count `count` bytes that have moved, and wait for the delay after them."""
        await self.reserve(count).wait()


class PendingDelay:
    """A delay that ends early if the rate is changed. Made by `RateLimiter.reserve`.

    Args:
        limiter: whose rate is watched.
        clock: of the limiter.
        version: of the rate for which the delay was computed.
        seconds: of the delay.
    """

    __slots__ = ("_clock", "_limiter", "_until", "_version")

    def __init__(
        self, limiter: RateLimiter, clock: Callable[[], float], version: int, seconds: float
    ) -> None:
        self._limiter = limiter
        self._clock = clock
        self._version = version
        self._until = clock() + seconds if seconds else None

    def next_sleep(self) -> float:
        """Return how many seconds to sleep before the next call; 0 at the end of the delay."""
        if self._until is None or self._limiter.is_changed_since(self._version):
            return 0.0
        return max(0.0, min(self._until - self._clock(), _SLEEP_MAX))

    async def wait(self) -> None:
        """Wait until the end of the delay."""
        while seconds := self.next_sleep():  # noqa: ASYNC110 - there is no event for a time
            await anyio.sleep(seconds)
