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

# A step is kept if it brought this much more.
_GAIN = 1.08
# Doubling goes on as long as it brings this much more each time, and is taken back only if
# it brought less: the first moments of a transfer are too uneven for a finer verdict.
_DOUBLING_GAIN = 1.25
_LOSS = 0.7
# Less than this share of what the same number brought before is a collapse.
_COLLAPSE = 0.5
_STEP = 1.25
_FEW = 4
# Seconds over which one number is measured, while doubling and afterwards, once new
# connections had the time to open.
_FAST = 0.12
_STEADY = 0.5
_SETTLE = 0.05
# Seconds without a change after a step that did not pay, and after the server complained.
_REST = 2.0
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
        self._settled_at = 0.0

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
        if now < self._settled_at:
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
        if self._previous is not None:
            if rate < self._best * (_LOSS if self._doubling else _GAIN):
                self._go_back(now)
                return
            if self._doubling and rate < self._best * _DOUBLING_GAIN:
                self._doubling = False
                self._rest_until = now + _REST
            self._previous = None
        elif rate < self._best * _COLLAPSE:
            self._shrink(now, rate)
            return
        # What was seen long ago fades, so that a slower network is not taken for a collapse.
        self._best = rate if rate > self._best else 0.9 * self._best + 0.1 * rate
        if now >= self._rest_until and self.limit < self.maximum:
            grown = self.limit * 2 if self._doubling else round(self.limit * _STEP) + 1
            self._try(now, min(self.maximum, grown))

    def _shrink(self, now: float, rate: float) -> None:
        """Halve until goodput is back; if few bring no more, the network is slow, not crowded."""
        self._doubling = False
        if self.limit <= _FEW:
            self._best = rate
            return
        self.limit = max(_FEW, self.limit // 2)
        self._settled_at = now + _SETTLE
        self._rest_until = now + _REST

    def _try(self, now: float, limit: int) -> None:
        if limit != self.limit:
            self._previous = self.limit
            self.limit = limit
            self._settled_at = now + _SETTLE

    def _go_back(self, now: float) -> None:
        assert self._previous is not None
        self.limit, self._previous = self._previous, None
        self._doubling = False
        self._rest_until = now + _REST
