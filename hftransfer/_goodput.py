"""How many connections pay: a controller that follows goodput.

More connections help as long as each is held back by its server, its distance or its
content network; beyond that they only take memory and, with some stores, make everything
slower (aggregate throughput has been seen to collapse by orders of magnitude). So the
number doubles while that pays, as TCP's slow start does, then small steps are tried in
both directions, and only what measurably helped is kept. Pure: told times and counts, it
answers with a number.
"""

from __future__ import annotations

__all__ = ("Controller",)

# A step up is kept if it brought this much more.
_GAIN = 1.08
# While doubling, this much is asked for each time.
_DOUBLING_GAIN = 1.25
# Less than this share of what the same number brought before is a collapse.
_COLLAPSE = 0.5
_STEP = 1.25
# Seconds over which one number is measured, while doubling and afterwards.
_FAST = 0.1
_STEADY = 0.5
# Seconds without a change after a step that did not pay, and after the server complained.
_REST = 3.0
_PENANCE = 10.0


class Controller:
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
        self._rest_until = 0.0

    def update(self, now: float, moved: int, *, saturated: bool) -> int:
        """Return how many connections there should be from now on.

        Args:
            now: seconds that only go forward.
            moved: bytes that have arrived so far, in all.
            saturated: whether all connections were in use.
        """
        if self._since is None or not saturated:
            # What the network would have given cannot be told.
            self._restart(now, moved)
            return self.limit
        elapsed = now - self._since
        if elapsed < (_FAST if self._doubling else _STEADY):
            return self.limit
        rate = (moved - self._moved) / elapsed
        self._restart(now, moved)
        self._decide(now, rate)
        return self.limit

    def slow_down(self, now: float) -> int:
        """The server asked for less: halve, and rest. Return the new number."""
        if self._best == 0.0 and now < self._rest_until:
            return self.limit  # one complaint comes from every connection at once
        self._doubling = False
        self._previous = None
        self._best = 0.0
        self._rest_until = now + _PENANCE
        self.limit = max(1, self.limit // 2)
        self._since = None
        return self.limit

    def _restart(self, now: float, moved: int) -> None:
        self._since = now
        self._moved = moved

    def _decide(self, now: float, rate: float) -> None:
        wanted = self._best * (_DOUBLING_GAIN if self._doubling else _GAIN)
        if self._previous is not None:
            if rate < wanted:
                self._go_back(now)
                return
            self._previous = None
        elif self._best and rate < self._best * _COLLAPSE:
            # The way down is tried like the way up: it stays if it brought more.
            self._best = rate
            self._try(max(1, round(self.limit / _STEP**2)))
            return
        # What was seen long ago fades, so that a slower network is not taken for a collapse.
        self._best = rate if rate > self._best else 0.9 * self._best + 0.1 * rate
        if now >= self._rest_until and self.limit < self.maximum:
            grown = self.limit * 2 if self._doubling else round(self.limit * _STEP) + 1
            self._try(min(self.maximum, grown))

    def _try(self, limit: int) -> None:
        if limit != self.limit:
            self._previous = self.limit
            self.limit = limit

    def _go_back(self, now: float) -> None:
        assert self._previous is not None
        self.limit, self._previous = self._previous, None
        self._doubling = False
        self._rest_until = now + _REST
