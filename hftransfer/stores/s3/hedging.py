"""When a part that got no answer is sent a second time. Pure: whoever sends it keeps time.

About one part in a thousand is answered after seconds instead of a fraction of one
(awslabs/aws-c-s3, pull request 602, whose constants these are). Sending it again then is
cheap, since a part is replaced by the same bytes. Where many parts are slow the store or
the line is slow, and a second copy would make that worse: then the limit rises until
hedging switches itself off.
"""

from __future__ import annotations

__all__ = ("HedgeTimer",)

_SAMPLES = 10
_FLOOR = 1.0
_CEILING = 5.0
_PERCENTILE = 0.9
_MARGIN = 0.7
_WEIGHT = 0.01
_RARE, _RARE_STEP = 0.001, 0.1
_COMMON, _COMMON_STEP = 0.01, 1.0
_WINDOW = 1000


class HedgeTimer:
    """Learns how long a part takes.

    Args:
        connections: parts in flight; nothing is said before as many have been answered.
    """

    def __init__(self, connections: int) -> None:
        self._wanted = max(_SAMPLES, connections)
        self._first: list[float] = []
        self._limit: float | None = None
        self._answered = 0
        self._late = 0

    @property
    def limit(self) -> float | None:
        """Seconds after which a part is sent once more; None for never."""
        return None if self._limit is None or self._limit > _CEILING else self._limit

    def answered(self, seconds: float) -> None:
        """Note that a part was answered after `seconds`."""
        self._answered += 1
        if self._limit is not None:
            self._limit += _WEIGHT * (seconds + _MARGIN - self._limit)
            self._forget()
            return
        self._first.append(seconds)
        if len(self._first) >= self._wanted:
            ordered = sorted(self._first)
            self._limit = max(_FLOOR, ordered[int(_PERCENTILE * (len(ordered) - 1))])
            self._first.clear()

    def timed_out(self) -> None:
        """Note that a part was not answered within the limit."""
        if self._limit is None:
            return
        self._late += 1
        rate = self._late / max(self._answered, self._wanted)
        if rate > _COMMON:
            self._limit += _COMMON_STEP
        elif rate > _RARE:
            self._limit += _RARE_STEP

    def _forget(self) -> None:
        """Let what happened long ago count less."""
        if self._answered >= 2 * _WINDOW:
            self._answered //= 2
            self._late //= 2
