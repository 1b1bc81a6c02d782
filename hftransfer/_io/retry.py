"""Trying again: one policy, one layer.

`next_delay` decides and is pure; `retrying` sleeps. Only `TransientError` is ever tried
again. What the server asks for (Retry-After) comes before our own backoff, which is
exponential with full jitter (https://aws.amazon.com/builders-library/timeouts-retries-
and-backoff-with-jitter/).
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
    """Return the seconds to wait before the next try, or None to give up.

    Args:
        policy: the limits.
        failures: tries that failed so far, at least 1.
        elapsed: seconds since the first failure.
        retry_after: seconds the server asked for, if it did; may exceed `wait_max`.
        random_fraction: in ``[0, 1)``; the jitter.
    """
    if failures >= policy.attempts:
        return None
    # 2.0**1024 would overflow; the product may, to infinity, which is as good.
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
    """Run `operation` until it succeeds, fails for good, or `policy` gives up.

    Args:
        operation: made anew for every try.
        policy: how often and how long.
        on_retry: told the error and the delay in seconds before each wait.
        progress: says how far the operation has come. A try that came further than any
            before it makes the failures until then count no more.

    Raises:
        TransientError: the last one, when the policy gives up.
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
                    error.message += f" (gave up after {failures} tries)"
                raise
            if on_retry is not None:
                on_retry(error, delay)

        await anyio.sleep(delay)
