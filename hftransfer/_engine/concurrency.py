"""How many connections pay: a controller that follows goodput.

More connections help as long as each is held back by its server, its distance or its
content network; beyond that they only take memory and, with some stores, make everything
slower (aggregate throughput has been seen to collapse by orders of magnitude). So the
number doubles while that pays, as TCP's slow start does, then small steps are tried in
both directions, and only what measurably helped is kept. Pure: told times and counts, it
answers with a number.
"""

from __future__ import annotations

__all__ = ("ConcurrencyController",)

# A step is kept if it brought this much more.
_GAIN = 1.08
# Doubling goes on as long as it brings this much more each time, and is taken back only if
# it brought less: the first moments of a transfer are too uneven for a finer verdict.
_DOUBLING_GAIN = 1.25
_LOSS = 0.7
# Less than this share of what the same number brought before is a collapse…
_COLLAPSE = 0.5
# … but of a slow network, not of a crowded one, if half as many bring less than this share.
_PROPORTIONAL = 0.75
_STEP = 1.25
_FEW = 4
# Seconds over which one number is measured, while doubling and afterwards, once new
# connections had the time to open…
_FAST = 0.1
_STEADY = 0.5
_SETTLE = 0.05
# … each at least so many times as long as a request waits for its answer: a new connection
# takes some round trips to open, and some more to be as fast as it can.
_ROUNDS = 4.0
_SLOWEST = 0.5
# Seconds without a change after a step that did not pay, and after the server complained.
_REST = 2.0
_PENANCE = 10.0


class ConcurrencyController:
    """Decides on the number of connections.

    Args:
        start: the number to begin with.
        maximum: never more than this.
    """

    def __init__(self, *, start: int, maximum: int) -> None:
        self.limit = min(start, maximum)
        self.maximum = maximum
        self._doubling = True
        self._since: float | None = None
        self._moved = 0
        self._best = 0.0
        self._previous: int | None = None
        """The number before the step that is being tried."""
        self._collapsed: tuple[int, float] | None = None
        """The number that was halved last because of a collapse, and what it brought then."""
        self._rest_until = 0.0
        self._changed_at: float | None = None
        """When the number became what it is."""

    def update(self, now: float, moved: int, *, saturated: bool, latency: float = 0.0) -> int:
        """Return how many connections there should be from now on.

        Args:
            now: seconds that only go forward.
            moved: bytes that have arrived so far, in all.
            saturated: whether all connections were in use.
            latency: seconds that requests wait for their answers, at present.
        """
        rounds = _ROUNDS * min(latency, _SLOWEST)
        if self._changed_at is None:
            self._changed_at = now - _SETTLE  # the first connections were made a moment ago
        age = now - self._changed_at
        is_early = self._doubling and age < rounds
        settle = _SETTLE if self._doubling else max(_SETTLE, rounds)
        if self._since is None or not saturated or age < settle:
            # What the network gives to so many cannot be told yet.
            self._restart(now, moved)
            return self.limit
        elapsed = now - self._since
        least = _FAST if self._doubling else _STEADY
        if elapsed < (least if is_early else max(least, rounds)):
            return self.limit
        rate = (moved - self._moved) / elapsed
        self._restart(now, moved)
        self._decide(now, rate, is_early)
        return self.limit

    def slow_down(self, now: float) -> int:
        """The server asked for less: halve, and rest. Return the new number."""
        if self._best == 0.0 and now < self._rest_until:
            return self.limit  # one complaint comes from every connection at once
        self._doubling = False
        self._previous = self._collapsed = None
        self._best = 0.0
        self._rest_until = now + _PENANCE
        self._change(now, max(1, self.limit // 2))
        return self.limit

    def _restart(self, now: float, moved: int) -> None:
        self._since = now
        self._moved = moved

    def _decide(self, now: float, rate: float, is_early: bool) -> None:
        if self._previous is not None:
            if is_early and rate < self._best * _DOUBLING_GAIN:
                return  # new connections may still be on their way to full speed
            if rate < self._best * (_LOSS if self._doubling else _GAIN):
                self._go_back(now)
                return
            if self._doubling and rate < self._best * _DOUBLING_GAIN:
                self._doubling = False
                self._rest_until = now + _REST
            self._previous = None
        elif self._collapsed is not None and rate < self._collapsed[1] * _PROPORTIONAL:
            self._regain(now)
            return
        elif rate < self._best * _COLLAPSE:
            self._shrink(now, rate)
            return
        self._collapsed = None
        # What was seen long ago fades, so that a slower network is not taken for a collapse.
        self._best = rate if rate > self._best else 0.9 * self._best + 0.1 * rate
        if now >= self._rest_until and self.limit < self.maximum:
            grown = self.limit * 2 if self._doubling else round(self.limit * _STEP) + 1
            self._try(now, min(self.maximum, grown))

    def _shrink(self, now: float, rate: float) -> None:
        """Halve, until goodput is back."""
        self._doubling = False
        if self.limit <= _FEW:
            self._collapsed = None
            self._best = rate
            return
        self._collapsed = self.limit, rate
        self._rest_until = now + _REST
        self._change(now, max(_FEW, self.limit // 2))

    def _regain(self, now: float) -> None:
        """Take back a halving that made it worse, and content oneself with what there is."""
        assert self._collapsed is not None
        limit, self._best = self._collapsed
        self._collapsed = None
        self._rest_until = now + _REST
        self._change(now, limit)

    def _try(self, now: float, limit: int) -> None:
        if limit != self.limit:
            self._previous = self.limit
            self._change(now, limit)

    def _go_back(self, now: float) -> None:
        assert self._previous is not None
        self._doubling = False
        self._rest_until = now + _REST
        self._change(now, self._previous)
        self._previous = None

    def _change(self, now: float, limit: int) -> None:
        self.limit = limit
        self._changed_at = now
