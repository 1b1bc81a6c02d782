"""Hedging of small requests: one whose answer is unusually late is sent again, beside the first.

These are requests for small answers, listings, headers and redirects, for which everything else of
a transfer waits, and uploads of small files. A connection that trickles breaks no time limit.
(`_engine` hedges reads of content by their rates; `stores.s3.hedging` the parts of uploads.)

A request is late after `_MIN_DELAY` seconds, or after a multiple of what such requests usually take
if that is more. A late request is sent again if another connection may be faster: if others were
answered meanwhile, or if it is alone and its answer does not arrive at a fair rate. Where all are
slow alike, none is sent again. Each further copy waits twice as long, and there are `_MAX_COPIES`
at most.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import anyio

from hftransfer._http.exchange import AnswerProgress, Request
from hftransfer.errors import Response, TransferError

__all__ = ("AnswerTimes", "RequestHedger")

# Seconds: several round trips to a far host, a lost packet, and a slow answer; so much of the 5 s
# that a slow connection may cost. An estimate.
_MIN_DELAY = 2.0
# A request is late if it takes so many times as long as nine of ten requests of its kind.
_LATE_FACTOR = 4.0
_PERCENTILE = 0.9
_SAMPLES = 64
# Bytes per second at which an answer, of which nothing else is known, is not late: a long listing
# over a slow link.
_FAIR_RATE = 64 * 1024
_MAX_COPIES = 3
# Kinds of requests that are remembered. A client talks to a few hosts.
_MAX_KINDS = 64


class AnswerTimes:
    """How long requests of one kind take. No I/O, no clock."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.answered_at = float("-inf")
        """When a request of this kind was answered last."""
        self._seconds: deque[float] = deque(maxlen=_SAMPLES)

    def record(self, seconds: float, now: float) -> None:
        """Note that a request was answered at `now`, after so many seconds."""
        self._seconds.append(seconds)
        self.answered_at = now

    @property
    def delay(self) -> float:
        """Seconds after which a request is late."""
        if not self._seconds:
            return _MIN_DELAY
        ordered = sorted(self._seconds)
        usual = ordered[math.ceil(_PERCENTILE * len(ordered)) - 1]
        return max(_MIN_DELAY, _LATE_FACTOR * usual)

    def should_repeat(self, *, started: float, delay: float, now: float, received: int) -> bool:
        """Return True if a late request should be sent again.

        Args:
            started: when it was sent.
            delay: seconds since it, or its last copy, was sent.
            now: the time.
            received: bytes of the answer that arrived in these seconds.
        """
        if self.answered_at > (started + now) / 2:
            return True  # peers that were sent later, or at the same time, are faster
        return self.in_flight == 1 and received < _FAIR_RATE * delay


class RequestHedger:
    """Sends the small requests of one `HttpClient`, in one event loop.

    Args:
        send: sends a request once.
    """

    def __init__(self, send: Callable[[Request], Awaitable[Response]]) -> None:
        self.copies = 0
        """Requests that were sent a second time, or once more."""
        self._send = send
        self._kinds: dict[tuple[str, str, str, int], AnswerTimes] = {}

    async def send(self, request: Request) -> Response:
        """Send a request, again if its answer is late; return the first answer.

        Raises:
            TransferError: the failure of the first request, if no copy succeeds.
        """
        return await _HedgedRequest(self, request, self._times(request), self._send).run()

    def _times(self, request: Request) -> AnswerTimes:
        parts = urlsplit(request.url)
        # Parameters tell a listing from other requests to the same host. Uploads are compared with
        # those of a similar size: up to eight times as large.
        size = 0 if request.body is None else len(request.body).bit_length() // 3
        kind = request.method, parts.netloc, parts.query.partition("=")[0], size
        if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            self._kinds.pop(next(iter(self._kinds)))
        return self._kinds.setdefault(kind, AnswerTimes())


class _HedgedRequest:
    """One request and its copies."""

    def __init__(
        self,
        hedger: RequestHedger,
        request: Request,
        times: AnswerTimes,
        send: Callable[[Request], Awaitable[Response]],
    ) -> None:
        self._hedger = hedger
        self._progress = AnswerProgress()
        self._request = request._replace(progress=self._progress)
        self._times = times
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._delay = times.delay
        self._received = 0
        """Bytes of the answer when it was judged last."""
        self._timer = self._loop.call_later(self._delay, self._on_late)
        self._copies: list[asyncio.Task[None]] = []
        self._answer: Response | None = None
        """That of a copy."""
        self._first = anyio.CancelScope()
        """Of the first request."""

    async def run(self) -> Response:
        self._times.in_flight += 1
        try:
            with self._first:
                answer = await self._send(self._request)
                self._record()
                return answer
            assert self._answer is not None
            return self._answer
        except TransferError:
            self._timer.cancel()
            if self._copies:
                await asyncio.wait(self._copies, timeout=_MIN_DELAY)
            if self._answer is None:
                raise
            return self._answer
        finally:
            self._times.in_flight -= 1
            self._timer.cancel()
            await self._end_copies()

    def _record(self) -> None:
        now = self._loop.time()
        self._times.record(now - self._started, now)

    def _on_late(self) -> None:
        """Judge the request, and again after a while."""
        now = self._loop.time()
        usual = self._started + self._times.delay
        if not self._copies and now < usual:  # others have been answered no sooner
            self._timer = self._loop.call_at(usual, self._on_late)
            return
        received = self._progress.received - self._received
        self._received = self._progress.received
        if self._request.body is not None:
            received = len(self._request.body)  # a small one should have been sent by now
        if self._times.should_repeat(
            started=self._started, delay=self._delay, now=now, received=received
        ):
            self._hedger.copies += 1
            self._copies.append(self._loop.create_task(self._send_copy()))
            self._delay *= 2
        if len(self._copies) < _MAX_COPIES:
            self._timer = self._loop.call_later(self._delay, self._on_late)

    async def _send_copy(self) -> None:
        # Its progress is not judged: the next copy follows anyway.
        copy = self._request._replace(needs_new_connection=True, progress=None)
        try:
            answer = await self._send(copy)
        except TransferError:
            return  # the first request decides
        is_failure = answer.status >= 500 or answer.status == 429
        if is_failure or (self._request.body is not None and answer.status >= 400):
            return
        if self._answer is None:
            self._answer = answer
            self._record()
            self._first.cancel()

    async def _end_copies(self) -> None:
        for copy in self._copies:
            copy.cancel()
        if self._copies:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(self._copies)
