"""Hedging: a part whose response is unusually late is sent a second time.

About one part in a thousand takes seconds instead of a fraction of one; the algorithm and its
constants are those of awslabs/aws-c-s3, pull request 602. A second copy is safe, because it
replaces the part by the same bytes. If many parts are late, then the store or the network is
slow, and copies would slow it down further; therefore each late part raises the delay, until
hedging switches itself off.

That algorithm needs many responses, and ends where parts usually take seconds. Then, and before it
has begun, a part is late that takes a multiple of the time of the last ones: its connection
trickles. Where all parts are slow alike, none does.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable

import anyio

from hftransfer.errors import Response, TransferError, single_error

__all__ = ("HedgeTimer", "HedgedRequest")

# Responses that are timed before the first delay is computed.
_MIN_SAMPLES = 10
# Bounds of the delay in seconds. Above the upper bound no part is hedged.
_MIN_DELAY = 1.0
_MAX_DELAY = 5.0
# The first delay is this percentile of the first responses; after that the delay is a moving
# average of the response times with this weight, plus this margin in seconds.
_PERCENTILE = 0.9
_WEIGHT = 0.01
_MARGIN = 0.7
# Above each share of late parts, the seconds by which one more late part raises the delay.
_LOW_SHARE, _SMALL_STEP = 0.001, 0.1
_HIGH_SHARE, _LARGE_STEP = 0.01, 1.0
# Without a delay, a part is late after so many times the time of nine of ten recent parts, and so
# many seconds at least.
_LATE_FACTOR = 4.0
_MIN_LATE = 2.0
_RECENT = 64
# Parts in flight for each second copy in flight: a link that becomes slow makes all parts late.
_PARTS_PER_COPY = 8
# Seconds between two looks at a part of which it is not known yet when it is late.
_POLL = 0.25
# Responses after which the counts are halved, so that recent ones weigh more.
_HALVING = 2000


class HedgeTimer:
    """Computes the delay after which a part is sent again. No I/O, no clock.

    One timer serves all uploads of a client, on the client's event loop.

    Args:
        connections: parts in flight at the same time; at least as many responses are timed
            before anything is hedged.
    """

    def __init__(self, connections: int) -> None:
        self.in_flight = 0
        """Parts that are being sent."""
        self.copies = 0
        """Second copies that are being sent."""
        self._samples_needed = max(_MIN_SAMPLES, connections)
        self._samples: list[float] = []
        self._delay: float | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._responses = 0
        self._late = 0

    @property
    def delay(self) -> float | None:
        """Seconds after which a part is sent again; None to not hedge."""
        return None if self._delay is None or self._delay > _MAX_DELAY else self._delay

    @property
    def late_after(self) -> float | None:
        """Seconds after which a part is late; None if no part has been answered yet."""
        delay = self.delay
        if delay is not None or not self._recent:
            return delay
        ordered = sorted(self._recent)
        usual = ordered[math.ceil(_PERCENTILE * len(ordered)) - 1]
        return max(_MIN_LATE, _LATE_FACTOR * usual)

    @property
    def may_copy(self) -> bool:
        """True if another second copy may be sent: they are a small share of all parts."""
        return self.copies < max(1, self.in_flight // _PARTS_PER_COPY)

    def record_response(self, seconds: float) -> None:
        """Record that the response to a part took `seconds`."""
        self._responses += 1
        self._recent.append(seconds)
        if self._delay is not None:
            self._delay += _WEIGHT * (seconds + _MARGIN - self._delay)
            self._halve_old_counts()
            return
        self._samples.append(seconds)
        if len(self._samples) >= self._samples_needed:
            ordered = sorted(self._samples)
            self._delay = max(_MIN_DELAY, ordered[int(_PERCENTILE * (len(ordered) - 1))])
            self._samples.clear()

    def record_late(self) -> None:
        """Record that a part got no response within the delay."""
        if self._delay is None:
            return
        self._late += 1
        share = self._late / max(self._responses, self._samples_needed)
        if share > _HIGH_SHARE:
            self._delay += _LARGE_STEP
        elif share > _LOW_SHARE:
            self._delay += _SMALL_STEP

    def _halve_old_counts(self) -> None:
        if self._responses >= _HALVING:
            self._responses //= 2
            self._late //= 2


class HedgedRequest:
    """A request that is sent at most twice, of which the first success counts. Use it once.

    Args:
        send: sends one copy; raises `TransferError` if that fails.
        timer: gives the delay and learns from the outcome.
    """

    def __init__(self, send: Callable[[], Awaitable[Response]], timer: HedgeTimer) -> None:
        self._send = send
        self._timer = timer
        self._in_flight = 0
        self._response: Response | None = None
        self._failures: list[TransferError] = []

    async def run(self) -> Response:
        """Send the request, and a second copy if the response is late.

        Raises:
            TransferError: the first failure, once no copy is in flight.
        """
        started = time.monotonic()
        self._timer.in_flight += 1
        is_copied = False
        try:
            with single_error():
                async with anyio.create_task_group() as copies:
                    self._in_flight = 1
                    copies.start_soon(self._send_copy, copies.cancel_scope)
                    await self._wait_until_late(started)  # cancelled once there is an outcome
                    self._timer.record_late()
                    self._timer.copies += 1
                    is_copied = True
                    self._in_flight += 1
                    copies.start_soon(self._send_copy, copies.cancel_scope)
        finally:
            self._timer.in_flight -= 1
            self._timer.copies -= is_copied
        if self._response is None:
            raise self._failures[0]
        self._timer.record_response(time.monotonic() - started)
        return self._response

    async def _wait_until_late(self, started: float) -> None:
        """Wait until the request is late by what is known then, not when it was sent."""
        while True:
            late_after = self._timer.late_after
            elapsed = time.monotonic() - started
            if late_after is not None and elapsed < late_after:
                await anyio.sleep(min(late_after - elapsed, _MIN_LATE))
            elif late_after is None or not self._timer.may_copy:
                await anyio.sleep(_POLL)
            else:
                return

    async def _send_copy(self, copies: anyio.CancelScope) -> None:
        try:
            response = await self._send()
        except TransferError as error:
            self._failures.append(error)
        else:
            if self._response is None:
                self._response = response
        self._in_flight -= 1
        if self._response is not None or not self._in_flight:
            copies.cancel()
