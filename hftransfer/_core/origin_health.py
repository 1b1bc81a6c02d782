"""Whether a server can be used at present: one back-off for all requests to it. Pure, no clock.

An origin (scheme, host and port) is in one of three states::

    UP         requests are sent
     │  a request fails: the network, or a status 429 or 5xx
     ▼
    SUSPECT    requests are sent; the operation that failed waits for its own back-off
     │  a request that began after that failure fails as well, and none has succeeded in between;
     │  or a response names a time to wait (Retry-After)
     ▼
    DOWN       one probe at a time, each after a back-off; all other requests wait for its result

Any response of the server but those statuses leads back to UP.

Failures are counted in rounds. The requests that are in flight when a server goes down fail
together, and count once: their number says how many there were and nothing about the server. That
is TCP's rule for the losses of one window (RFC 5681, 3.2), and the probe in the state DOWN is the
half-open state of a circuit breaker (M. Nygard, Release It!, 2007).
"""

from __future__ import annotations

__all__ = ("OriginHealth", "backoff_delay")

# Rounds of failures after which an origin is down. One failure is common while a server works:
# a connection is reset, or one of many requests is answered 503.
_ROUNDS_DOWN = 2
# Seconds after which a further probe may be sent beside one that has no response yet. A part that
# is uploaded as the probe may take much longer than this, and a lost connection its whole timeout.
_PROBE_PATIENCE = 5.0


def backoff_delay(failures: int, *, initial: float, maximum: float, fraction: float) -> float:
    """Return the seconds to wait after a number of failures in a row.

    The bound doubles with each failure, from `initial` to `maximum`. The delay is between half of
    the bound and the bound ("equal jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/): the floor makes
    the time until a number of attempts is used up predictable.

    Args:
        failures: at least 1.
        initial: the first bound, seconds.
        maximum: the last one.
        fraction: the jitter, in ``[0, 1)``.
    """
    # 2.0**1024 raises OverflowError; the product becomes infinite instead, which min() handles.
    bound = min(maximum, initial * 2.0 ** min(failures - 1, 1023))
    return bound * (1 + fraction) / 2


class OriginHealth:
    """The state of one origin. Times are seconds of one clock that only goes forward."""

    def __init__(self) -> None:
        self.down_since: float | None = None
        """When the first failure without a success after it happened; None while UP."""
        self.rounds = 0
        """Rounds of failures since then."""
        self.failed_requests = 0
        """Requests that failed since then."""
        self.has_answered = False
        """True once the server has responded as it should."""
        self.lost = 0.0
        """Seconds of all outages that have ended."""
        self.is_requested = False
        """True if the server itself names the time to wait."""
        self.retry_at = 0.0
        """When the next probe may be sent."""
        self._failed_at = 0.0  # the beginning of the last round
        self._is_scheduled = False
        self._probe_started: float | None = None
        self._may_probe = False

    @property
    def is_down(self) -> bool:
        """True if requests wait for the result of a probe."""
        return self.rounds >= _ROUNDS_DOWN or self.is_requested

    def fail(self, started: float, now: float, wish: float | None) -> None:
        """Record a failed request.

        Args:
            started: when it was sent.
            now: when it failed.
            wish: seconds that the server asks to wait, if it does.
        """
        self.failed_requests += 1
        if self._probe_started is not None and started >= self._probe_started:
            self._probe_started = None
        if self.down_since is None:
            self.down_since = now
            self._begin_round(now)
        elif started >= self._failed_at:
            self._begin_round(now)
        if wish is not None and wish > 0 and now + wish > self.retry_at:
            self.is_requested = True
            self.retry_at = now + wish
            self._is_scheduled = False

    def _begin_round(self, now: float) -> None:
        self.rounds += 1
        self._failed_at = now
        self._is_scheduled = False
        self.is_requested = self.is_requested and self.retry_at > now

    def succeed(self, now: float) -> float | None:
        """Record a response; return the seconds of the outage that it ends, or None."""
        self.has_answered = True
        if self.down_since is None:
            return None
        seconds = now - self.down_since if self.is_down else None
        self.lost += now - self.down_since
        self.down_since = None
        self.rounds = self.failed_requests = 0
        self.is_requested = self._may_probe = False
        self.retry_at = 0.0
        self._probe_started = None
        return seconds

    def schedule(self, now: float, delay: float) -> bool:
        """Set the time of the next probe, once per round; return True if this call did it.

        Args:
            now: the present.
            delay: the back-off in seconds; a longer time that the server asked for stays.
        """
        if self._is_scheduled or not self.is_down:
            return False
        self.retry_at = max(self.retry_at, now + delay)
        self._is_scheduled = True
        return True

    def wait(self, now: float) -> float:
        """Return for how many seconds no request may be sent; 0 if one may."""
        if not self.is_down:
            return 0.0
        until = self.retry_at
        if self._probe_started is not None:
            until = max(until, self._probe_started + _PROBE_PATIENCE)
        return max(0.0, until - now)

    def begin_probe(self, now: float) -> None:
        """Let the next request pass (`admit`), although the origin is down."""
        self._probe_started = now
        self._may_probe = True

    def end_probe(self) -> None:
        """Record that the operation that was the probe has ended; its requests say how."""
        self._probe_started = None
        self._may_probe = False

    def admit(self, now: float, *, is_awaited: bool) -> bool:
        """Return True if a request may be sent now.

        Args:
            now: the present.
            is_awaited: True if operations wait for their turn, which have precedence.
        """
        if not self.is_down:
            return True
        if self._may_probe:
            self._may_probe = False
            return True
        if is_awaited or self.wait(now) > 0:
            return False
        self._probe_started = now
        return True
