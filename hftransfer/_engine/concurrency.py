"""The number of connections: a controller that maximizes goodput (payload bytes per second).

More connections help while each is limited by its server, its distance or its CDN. Beyond that
they only take memory, and with some stores make everything slower: aggregate throughput has been
seen to collapse by orders of magnitude (huggingface_hub issue 4893: from 2.3 GB/s to 1 MB/s). So
the controller measures, changes the number, and keeps the change only if goodput rose.

It is in one of two phases, and tries at most one change at a time::

    SLOW_START   double until that no longer pays, as TCP does (RFC 5681, 3.1)
        │ a doubling gained little or lost; goodput collapsed; the server throttled
        ▼
    STEADY       up by a quarter, kept if goodput rose, else undone;
                 halved if goodput collapsed, undone if that made it worse

It does no I/O and reads no clock: `update` receives the time and the counters, and returns the
limit. The decisions are the functions `judge_increase`, `judge_rate` and `increased`.

Where a constant below names no measurement, its value is an estimate that the simulations in
the tests bear out, and has not been tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

__all__ = (
    "ConcurrencyController",
    "Halving",
    "Phase",
    "Verdict",
    "increased",
    "judge_increase",
    "judge_rate",
)

# --- ratios of two rates

# STEADY: a higher limit is kept if it gained 8 %. Two measurements of the same limit differ by a
# few per cent.
_MIN_GAIN = 1.08
# SLOW_START: doubling continues while it gains 25 % …
_MIN_DOUBLING_GAIN = 1.25
# … and is undone only if it lost 30 %. The first moments of a transfer vary too much for a
# finer judgement: connections still open and accelerate.
_MAX_DOUBLING_LOSS = 0.7
# Goodput below half of what the same limit achieved before is a collapse, and halves the limit.
_COLLAPSE = 0.5
# If half of the connections then bring less than 75 % of what all brought, the network became
# slower and the server is not overloaded: the halving is undone.
_MIN_AFTER_HALVING = 0.75
# Weight of a new measurement in the mean to which later ones are compared. What was measured
# long ago fades, so that a network that became slower does not look like a collapse for ever.
_EWMA_ALPHA = 0.1

# --- numbers of connections

# STEADY: a step up is a quarter of the connections, and one more.
_STEP = 1.25
# A collapse reduces the limit to no less than this.
_MIN_AFTER_COLLAPSE = 4

# --- seconds

# One measurement lasts this long, in SLOW_START and in STEADY.
_SLOW_START_MEASUREMENT = 0.1
_STEADY_MEASUREMENT = 0.5
# After a change nothing is measured for this long, in which connections on a near network open.
_SETTLE = 0.05
# On a far network measurements, and the time before them in STEADY, last this many times the
# latency of a request: a new connection takes two to three round trips to open (TCP, TLS) and a
# few more to reach its full rate. Measured for 2 GiB at 50 MB/s per connection, medians of six
# alternating runs: 2.15 s without this, 1.92 s with it.
_ROUND_TRIPS = 4.0
# A higher latency is not counted: requests that wait longer wait for a slow server.
_MAX_LATENCY = 0.5
# No step up for this long after one that was undone …
_PAUSE_AFTER_FAILURE = 2.0
# … and after the server asked for less. A shorter pause would provoke the same refusal.
_PAUSE_AFTER_THROTTLING = 10.0


class Phase(Enum):
    """How the limit grows."""

    SLOW_START = "doubling"
    STEADY = "small steps"


class Verdict(Enum):
    """What follows from a measured rate."""

    MEASURE_AGAIN = "too early to tell"
    KEEP = "the limit stays, and may grow"
    KEEP_AND_PAUSE = "the limit stays, and doubling ends"
    UNDO = "the last change is undone"
    HALVE = "goodput collapsed"


@dataclass(frozen=True)
class _Increase:
    """The limit was raised, and the gain is not known yet."""

    previous_limit: int


@dataclass(frozen=True)
class Halving:
    """The limit was halved after a collapse, and the effect is not known yet."""

    previous_limit: int
    collapsed_rate: float
    """Bytes per second of `previous_limit` connections when goodput had collapsed."""


_Trial: TypeAlias = _Increase | Halving


def judge_increase(rate: float, best: float, phase: Phase, *, is_early: bool = False) -> Verdict:
    """Judge a raised limit.

    Args:
        rate: bytes per second with it.
        best: bytes per second before.
        phase: the current one.
        is_early: whether new connections may still be accelerating.
    """
    if is_early and rate < best * _MIN_DOUBLING_GAIN:
        return Verdict.MEASURE_AGAIN
    if phase is Phase.STEADY:
        return Verdict.UNDO if rate < best * _MIN_GAIN else Verdict.KEEP
    if rate < best * _MAX_DOUBLING_LOSS:
        return Verdict.UNDO
    return Verdict.KEEP_AND_PAUSE if rate < best * _MIN_DOUBLING_GAIN else Verdict.KEEP


def judge_rate(rate: float, best: float, halving: Halving | None) -> Verdict:
    """Judge a limit that was not raised.

    Args:
        rate: bytes per second.
        best: bytes per second that this limit achieved before.
        halving: the change under trial, if there is one.
    """
    if halving is not None and rate < halving.collapsed_rate * _MIN_AFTER_HALVING:
        return Verdict.UNDO
    return Verdict.HALVE if rate < best * _COLLAPSE else Verdict.KEEP


def increased(limit: int, maximum: int, phase: Phase) -> int:
    """Return the limit to try after `limit`; `maximum` at most."""
    grown = limit * 2 if phase is Phase.SLOW_START else round(limit * _STEP) + 1
    return min(maximum, grown)


class ConcurrencyController:
    """Decides on the number of connections.

    Args:
        start: the first limit.
        maximum: the highest limit.
    """

    def __init__(self, *, start: int, maximum: int) -> None:
        self.limit = min(start, maximum)
        """The number of connections that there should be."""
        self.maximum = maximum
        self.phase = Phase.SLOW_START
        self._trial: _Trial | None = None
        """The change whose effect is to be judged."""
        self._best = 0.0
        """Bytes per second that the limit before the trial achieved: the highest, fading."""
        self._changed_at: float | None = None
        """When `limit` was set; None before the first `update`."""
        self._pause_until = 0.0
        """When the limit may be raised again."""
        self._is_throttled = False
        """True from `slow_down` until bytes arrive."""
        self._measured_since: float | None = None
        """When the current measurement began; None before the first one."""
        self._moved_before = 0
        """Bytes that had arrived when it began."""

    def update(self, now: float, moved: int, *, saturated: bool, latency: float = 0.0) -> int:
        """Return how many connections there should be from now on.

        Args:
            now: seconds that only go forward.
            moved: bytes that have arrived so far, in all.
            saturated: whether all connections were in use.
            latency: seconds that a request waits for its response at present.
        """
        patience = _ROUND_TRIPS * min(latency, _MAX_LATENCY)
        if self._changed_at is None:
            self._changed_at = now - _SETTLE  # the first connections opened a moment ago
        age = now - self._changed_at
        # A doubling is measured at once, so that one that pays is followed by the next. Until new
        # connections had time to reach their rate, it is not judged to have failed (`is_early`).
        in_slow_start = self.phase is Phase.SLOW_START
        is_early = in_slow_start and age < patience
        settle = _SETTLE if in_slow_start else max(_SETTLE, patience)
        if self._measured_since is None or not saturated or age < settle:
            # Unused or unopened connections would be measured: start the measurement later.
            self._start_measurement(now, moved)
            return self.limit
        elapsed = now - self._measured_since
        duration = _SLOW_START_MEASUREMENT if in_slow_start else _STEADY_MEASUREMENT
        if elapsed < (duration if is_early else max(duration, patience)):
            return self.limit
        rate = (moved - self._moved_before) / elapsed
        self._start_measurement(now, moved)
        if rate == 0.0 and (self._best > 0.0 or self._is_throttled):
            return self.limit  # an outage: it says nothing about the number of connections
        self._decide(now, rate, is_early=is_early)
        return self.limit

    def slow_down(self, now: float) -> int:
        """Halve the limit, since the server asked for less; return the new one."""
        if self._is_throttled or (self._best == 0.0 and now < self._pause_until):
            # Every connection is throttled at once, or again before any byte arrived: count
            # the first. An outage with status 429 would otherwise leave one connection.
            return self.limit
        self._is_throttled = True
        self.phase = Phase.STEADY
        self._trial = None
        self._best = 0.0
        self._pause_until = now + _PAUSE_AFTER_THROTTLING
        self._set_limit(now, max(1, self.limit // 2))
        return self.limit

    def _start_measurement(self, now: float, moved: int) -> None:
        if moved > self._moved_before:
            self._is_throttled = False
        self._measured_since = now
        self._moved_before = moved

    def _decide(self, now: float, rate: float, *, is_early: bool) -> None:
        trial = self._trial
        if isinstance(trial, _Increase):
            verdict = judge_increase(rate, self._best, self.phase, is_early=is_early)
        else:
            verdict = judge_rate(rate, self._best, trial)
        if verdict is Verdict.MEASURE_AGAIN:
            return
        if verdict is Verdict.UNDO:
            self._undo(now)
        elif verdict is Verdict.HALVE:
            self._halve(now, rate)
        else:
            if verdict is Verdict.KEEP_AND_PAUSE:
                self._end_slow_start(now)
            self._trial = None
            faded = (1 - _EWMA_ALPHA) * self._best + _EWMA_ALPHA * rate
            self._best = max(rate, faded)
            self._increase(now)

    def _increase(self, now: float) -> None:
        if now < self._pause_until or self.limit >= self.maximum:
            return
        self._trial = _Increase(self.limit)
        self._set_limit(now, increased(self.limit, self.maximum, self.phase))

    def _undo(self, now: float) -> None:
        assert self._trial is not None
        if isinstance(self._trial, Halving):
            self._best = self._trial.collapsed_rate  # the best that this network now achieves
        self._end_slow_start(now)
        self._set_limit(now, self._trial.previous_limit)
        self._trial = None

    def _halve(self, now: float, rate: float) -> None:
        if self.limit <= _MIN_AFTER_COLLAPSE:
            self.phase = Phase.STEADY
            self._trial = None
            self._best = rate
            return
        self._end_slow_start(now)
        self._trial = Halving(self.limit, rate)
        self._set_limit(now, max(_MIN_AFTER_COLLAPSE, self.limit // 2))

    def _end_slow_start(self, now: float) -> None:
        self.phase = Phase.STEADY
        self._pause_until = now + _PAUSE_AFTER_FAILURE

    def _set_limit(self, now: float, limit: int) -> None:
        self.limit = limit
        self._changed_at = now
