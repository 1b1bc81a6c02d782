"""Retries of failed operations under a `RetryPolicy`.

`next_delay` decides and is pure; `retrying` runs the operation and sleeps between attempts, in the
event loop. Only a `TransientError` is retried. The delay that a server asks for (``Retry-After``)
replaces the exponential backoff with full jitter
(https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from hftransfer.errors import TransientError
from hftransfer.options import RetryPolicy

__all__ = ("next_delay", "retrying")

T = TypeVar("T")


def next_delay(
    policy: RetryPolicy,
    *,
    failures: int,
    elapsed: float,
    retry_after: float | None,
    random_fraction: float,
) -> float | None:
    """Return the seconds to wait before the next attempt, or None to give up.

    Args:
        policy: the limits.
        failures: number of failed attempts, at least 1.
        elapsed: seconds since the first failure.
        retry_after: seconds that the server asked for, if it did; may exceed `wait_max`.
        random_fraction: the jitter, in ``[0, 1)``.
    """
    if failures >= policy.attempts:
        return None
    # 2.0**1024 raises OverflowError; the product becomes infinite instead, which min() handles.
    bound = min(policy.wait_max, policy.wait_initial * 2.0 ** min(failures - 1, 1023))
    delay = bound * random_fraction if retry_after is None else max(0.0, retry_after)
    return None if elapsed + delay > policy.deadline else delay


async def retrying(
    operation: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    on_retry: Callable[[TransientError, float], None] | None = None,
    progress: Callable[[], int] | None = None,
) -> T:
    """Run `operation` until it succeeds, raises another error, or `policy` gives up.

    Args:
        operation: called for every attempt.
        policy: limits the number of attempts and the time.
        on_retry: called with the error and the delay in seconds before each delay.
            Default: none.
        progress: returns how far the operation has come. Progress beyond all earlier attempts
            resets the failure count and the deadline. Default: no progress.

    Raises:
        TransientError: that of the last attempt, if the policy gives up.
    """
    failures = 0
    first_failure = 0.0
    furthest = 0
    while True:
        try:
            return await operation()
        except TransientError as error:
            now = time.monotonic()
            if progress is not None and (reached := progress()) > furthest:
                furthest, failures = reached, 0
            first_failure = first_failure if failures else now
            failures += 1
            delay = next_delay(
                policy,
                failures=failures,
                elapsed=now - first_failure,
                retry_after=error.retry_after,
                random_fraction=random.random(),
            )
            if delay is None:
                if failures > 1:
                    error.message += f" (gave up after {failures} attempts)"
                raise
            if on_retry is not None:
                on_retry(error, delay)

        await anyio.sleep(delay)
