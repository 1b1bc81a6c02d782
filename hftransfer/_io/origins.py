"""The origins of one client: what their requests had in common, and who may probe one that is down.

`OriginHealth` decides. Here tasks wait for its decisions, and the observer is told what they wait
for. The HTTP client records the result of every request (`Origin.record_failure`,
`record_success`) and does not send any to an origin that is down; `hftransfer._io.retry` waits.

Used by tasks of one event loop; not thread-safe.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from hftransfer._core.events import Observer, Recovered, Waiting, emit
from hftransfer._core.origin_health import OriginHealth
from hftransfer.errors import TransientError, redact

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Origin", "Origins", "Turn")


class Origins:
    """All origins that a client sends requests to.

    Args:
        observer: receives `Waiting` and `Recovered`. Default: none.
        clock: seconds that only go forward.
    """

    def __init__(
        self, observer: Observer | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._observer = observer
        self.clock = clock
        self._origins: dict[str, Origin] = {}

    def find(self, url: str) -> Origin:
        """Return the origin of `url`; the same one for all URLs with its scheme, host and port."""
        end = url.find("/", 8)
        key = url if end < 0 else url[:end]
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin(redact(key), self._observer, self.clock)
        return origin


class Origin:
    """A server, as scheme, host and port name it; ``str()`` returns these."""

    def __init__(
        self, name: str, observer: Observer | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._observer = observer
        self._clock = clock
        self._health = OriginHealth()
        self._last_error: TransientError | None = None
        self._reason = ""
        self._announced = False
        """True once the present outage was announced by an event."""
        self._changed: anyio.Event | None = None
        """Set when the result of a probe is known; None if no task waits for it."""
        self._queue: deque[Turn] = deque()
        """The tasks that wait, in the order of their failures; the first one probes."""

    def __str__(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"<Origin {self._name}>"

    @property
    def is_down(self) -> bool:
        """True if requests wait for the result of a probe."""
        return self._health.is_down

    @property
    def is_failing(self) -> bool:
        """True if the last request failed."""
        return self._health.down_since is not None

    @property
    def has_answered(self) -> bool:
        """True once the server has responded as it should."""
        return self._health.has_answered

    @property
    def lost(self) -> float:
        """Seconds of all outages that have ended."""
        return self._health.lost

    @property
    def failed_requests(self) -> int:
        """Requests that failed in the present outage."""
        return self._health.failed_requests

    @property
    def rounds(self) -> int:
        """Failures in the present outage; those of requests in flight together count once."""
        return self._health.rounds

    @property
    def seconds_to_retry(self) -> float:
        """Seconds until the next probe."""
        return max(0.0, self._health.retry_at - self._clock())

    # The HTTP client's side.

    def refusal(self) -> TransientError | None:
        """Return the error of a request that may not be sent now, or None if it may."""
        admitted = self._health.admit(self._clock(), is_awaited=bool(self._queue))
        if admitted or self._last_error is None:
            return None
        error = copy.copy(self._last_error)
        error.sent = False
        error.retry_after = self.seconds_to_retry if self._health.is_requested else None
        return error

    def record_failure(self, error: TransientError, started: float, *, reason: str = "") -> None:
        """Record a failed request.

        Args:
            error: why it failed.
            started: when it was sent, by `Origins.clock`.
            reason: for events. Default: the error's message.
        """
        error.origin = self
        self._last_error = copy.copy(error)
        self._reason = reason or error.message
        self._health.fail(started, self._clock(), error.retry_after)
        self._wake()

    def record_success(self) -> None:
        """Record a response that shows that the server works."""
        seconds = self._health.succeed(self._clock())
        self._last_error = None
        if self._announced and seconds is not None:
            emit(self._observer, Recovered(self._name, seconds))
        self._announced = False
        self._wake()

    # The retries' side.

    def schedule(self, delay: float) -> None:
        """Set the time of the next probe if the origin is down, once per round of failures."""
        now, health = self._clock(), self._health
        if not health.schedule(now, delay):
            return
        self._wake()
        assert health.down_since is not None
        self._announced = True
        waiting = Waiting(
            self._name,
            self._reason,
            delay=health.retry_at - now,
            elapsed=now - health.down_since,
            requested=health.is_requested,
        )
        emit(self._observer, waiting)

    def turn(self) -> Turn:
        """Return the place of one task in the queue of those that wait for this origin."""
        return Turn(self)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class Turn:
    """One operation's wait for an origin, and its attempt after that. Use in a ``with`` block."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._is_probe = False

    def __enter__(self) -> Turn:
        self._origin._queue.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        origin = self._origin
        self._leave_queue()
        if self._is_probe:
            origin._health.end_probe()
            origin._wake()

    async def wait(self, give_up_at: float) -> bool:
        """Wait until a request may be sent; return False if that is not before `give_up_at`.

        Args:
            give_up_at: by `Origins.clock`.
        """
        origin = self._origin
        health = origin._health
        while health.is_down:
            now = origin._clock()
            seconds = health.wait(now)
            is_first = origin._queue[0] is self
            if is_first and seconds <= 0:
                self._leave_queue()
                self._is_probe = True
                health.begin_probe(now)
                return True
            # The server itself names a time that is too late: there is nothing to wait for.
            is_too_late = health.is_requested and health.retry_at > give_up_at
            if is_too_late or now >= give_up_at:
                return False
            if origin._changed is None:
                origin._changed = anyio.Event()
            # The first in the queue wakes up by itself; the others wait for what it causes.
            remaining = give_up_at - now
            with anyio.move_on_after(min(seconds, remaining) if is_first else remaining):
                await origin._changed.wait()
        self._leave_queue()
        return True

    def _leave_queue(self) -> None:
        if self in self._origin._queue:
            self._origin._queue.remove(self)
            self._origin._wake()  # the next one may be the first now
