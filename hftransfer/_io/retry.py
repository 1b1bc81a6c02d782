"""Retries of failed operations under a `RetryPolicy`.

`Attempts` decides and is pure; `retrying` runs the operation and waits between attempts, in the
event loop. Only a `TransientError` is retried.

An operation whose server is down does not wait for its own back-off but for its turn (`Origin`):
the operations of a client probe a server one at a time. New operations need not ask first, because
the HTTP client refuses their requests with the last failure, and they wait like the others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TypeVar

import anyio

from hftransfer._core.origin_health import backoff_delay
from hftransfer._io.origins import Origin
from hftransfer.errors import ExpiredError, TransientError
from hftransfer.options import RetryPolicy

__all__ = ("Attempts", "retrying")

T = TypeVar("T")

# Attempts at what no outage explains, if `RetryPolicy.attempts` is None. The delays between them
# last 6 to 13 seconds in all, with the policy's defaults.
_DEFAULT_ATTEMPTS = 8


class Attempts:
    """The failures of one operation, and what follows from them. No I/O, no clock.

    Args:
        policy: the limits.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.failures = 0
        """Requests that failed in a row, without progress."""
        self._unexplained = 0
        """Those of them that no outage explains."""
        self._first_failure: float | None = None
        self._lost: dict[Origin, float] = {}
        """Seconds of past outages of each server when this operation first failed there."""
        self._furthest = 0

    def note_progress(self, reached: int) -> None:
        """Begin a new count if the operation has come further than in all earlier attempts."""
        if reached <= self._furthest:
            return
        self._furthest = reached
        self.failures = self._unexplained = 0
        self._first_failure = None
        self._lost.clear()

    def fail(self, error: TransientError, now: float) -> None:
        """Record a failed attempt that ended at the time `now`, in seconds."""
        if self._first_failure is None:
            self._first_failure = now
        origin = origin_of(error)
        if origin is not None:
            self._lost.setdefault(origin, origin.lost)
        self.failures += error.sent
        self._unexplained += not error.is_outage

    @property
    def are_used_up(self) -> bool:
        """True if the number of failures ends the retries."""
        limit = self._policy.attempts
        if limit is not None:
            return max(1, self.failures) >= limit
        return self._unexplained >= _DEFAULT_ATTEMPTS

    def elapsed(self, now: float) -> float:
        """Return the seconds since the first failure, without outages that have ended."""
        ended = sum(origin.lost - before for origin, before in self._lost.items())
        first = now if self._first_failure is None else self._first_failure
        return max(0.0, now - first - ended)

    def remaining(self, now: float) -> float:
        """Return the seconds until the deadline, at least 0."""
        return max(0.0, self._policy.deadline - self.elapsed(now))

    def backoff(self, failures: int, now: float, fraction: float) -> float:
        """Return the seconds to wait after `failures` failures, at most until the deadline.

        The last attempt is then made at the deadline rather than before it.
        """
        policy = self._policy
        delay = backoff_delay(
            max(1, failures),
            initial=policy.wait_initial,
            maximum=policy.wait_max,
            fraction=fraction,
        )
        return min(delay, self.remaining(now))

    def delay(self, error: TransientError, now: float, fraction: float) -> float | None:
        """Return the seconds until this operation's next attempt, or None to give up.

        Args:
            error: the last failure, which was recorded.
            now: the present.
            fraction: the jitter, in ``[0, 1)``.
        """
        remaining = self.remaining(now)
        wish = error.retry_after or 0.0
        if self.are_used_up or remaining <= 0 or remaining < wish:
            return None
        if isinstance(error, ExpiredError) and self._unexplained <= 1:
            return wish  # the attempt itself removes the cause
        return max(wish, self.backoff(self.failures, now, fraction))

    def explain(self, error: TransientError, subject: str, now: float) -> TransientError:
        """Return the last error, whose message now says what was tried.

        Args:
            error: the last failure.
            subject: the file, or "".
            now: the present.
        """
        origin = origin_of(error)
        tries = self.failures
        if origin is not None and not self.are_used_up:
            tries = max(tries, origin.failed_requests)  # those of all operations
        spent = self.elapsed(now)
        notes = [f"gave up after {tries} attempts"] if tries > 1 else []
        if notes and spent >= 1:
            notes[0] += f" in {spent:.0f} s"
        if error.retry_after and error.retry_after > self.remaining(now):
            notes.append(
                f"the server asks to wait {error.retry_after:.0f} s, and retries end "
                f"{self._policy.deadline:.0f} s after the first failure"
            )
        if notes and origin is not None:
            notes.append(f"server: {origin}")
        if notes:
            error.message += f" ({'; '.join(notes)})"
        if subject and subject not in error.message:
            error.message = f"{subject}: {error.message}"
        return error


def origin_of(error: TransientError) -> Origin | None:
    """Return the server that failed, if the error knows it."""
    return error.origin if isinstance(error.origin, Origin) else None


async def retrying(
    operation: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    subject: str = "",
    on_retry: Callable[[TransientError, float], None] | None = None,
    progress: Callable[[], int] | None = None,
    attempts: Attempts | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Run `operation` until it succeeds, raises another error, or `policy` gives up.

    Args:
        operation: called for every attempt.
        policy: limits the time and the number of attempts.
        subject: the file, for the message of the error. Default: none.
        on_retry: called with the error and the delay in seconds before each delay, if a request
            was sent. Default: none.
        progress: returns how far the operation has come. Progress beyond all earlier attempts
            resets the failure count and the deadline. Default: no progress.
        attempts: the count of an earlier call for the same operation, which goes on. Default: a
            new one.
        clock: seconds that only go forward; that of `Origins`.

    Raises:
        TransientError: that of the last attempt, if the policy gives up.
    """
    attempts = attempts or Attempts(policy)
    give_up_at = 0.0
    origin: Origin | None = None
    failure: TransientError | None = None
    try:
        while True:
            with nullcontext() if origin is None else origin.turn() as turn:
                if turn is not None and not await turn.wait(give_up_at):
                    assert failure is not None
                    raise attempts.explain(failure, subject, clock())
                try:
                    return await operation()
                except TransientError as error:
                    failure = error
            now = clock()
            if progress is not None:
                attempts.note_progress(progress())
            attempts.fail(failure, now)
            delay = attempts.delay(failure, now, random.random())
            if delay is None:
                raise attempts.explain(failure, subject, now)
            give_up_at = now + attempts.remaining(now)
            origin = origin_of(failure)
            is_down = origin is not None and origin.is_down
            if origin is not None and is_down:
                origin.schedule(attempts.backoff(origin.rounds, now, random.random()))
                delay = origin.seconds_to_retry
            if on_retry is not None and failure.sent:
                on_retry(failure, delay)
            if not is_down:
                await anyio.sleep(delay)
    finally:
        failure = None  # its traceback refers to this frame, and this frame to the data
