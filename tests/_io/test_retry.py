"""`hftransfer._io.retry`: the pure decision, and the loop that follows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hftransfer._io.retry import next_delay, retrying
from hftransfer.errors import (
    IntegrityError,
    NetworkError,
    ServerError,
    ThrottledError,
    TransientError,
)
from hftransfer.options import RetryPolicy

_seconds = st.floats(0, 1e6)


@st.composite
def _policies(draw: st.DrawFn) -> RetryPolicy:
    initial, more = draw(st.floats(0, 100)), draw(st.floats(0, 100))
    return RetryPolicy(
        attempts=draw(st.integers(1, 5000)),
        deadline=draw(_seconds),
        wait_initial=initial,
        wait_max=initial + more,
    )


_fractions = st.floats(0, 1, exclude_max=True)


@given(
    policy=_policies(),
    failures=st.integers(1, 6000),
    elapsed=_seconds,
    retry_after=st.none() | _seconds,
    fraction=_fractions,
)
def test_attempts_and_deadline_limit_retries(
    policy: RetryPolicy,
    failures: int,
    elapsed: float,
    retry_after: float | None,
    fraction: float,
) -> None:
    """A retry is within both limits, whatever determined the delay."""
    delay = next_delay(
        policy,
        failures=failures,
        elapsed=elapsed,
        retry_after=retry_after,
        random_fraction=fraction,
    )

    if failures >= policy.attempts:
        assert delay is None
    elif delay is not None:
        assert delay >= 0
        assert elapsed + delay <= policy.deadline


@given(policy=_policies(), failures=st.integers(1, 6000), fraction=_fractions)
@example(RetryPolicy(attempts=5000, wait_initial=0.1, wait_max=15.0), 4000, 0.5)
def test_the_backoff_has_full_jitter(policy: RetryPolicy, failures: int, fraction: float) -> None:
    """The delay is between 0 and a bound that doubles, at most `wait_max`."""
    policy = replace(policy, attempts=failures + 1, deadline=1e9)

    delay = next_delay(
        policy, failures=failures, elapsed=0.0, retry_after=None, random_fraction=fraction
    )

    bound = min(policy.wait_max, policy.wait_initial * 2.0 ** min(failures - 1, 1023))
    assert delay == pytest.approx(bound * fraction)
    assert 0 <= delay <= policy.wait_max  # type: ignore[operator]


@given(retry_after=st.floats(-10, 600), fraction=_fractions)
def test_retry_after_replaces_the_backoff(retry_after: float, fraction: float) -> None:
    """Also beyond `wait_max`; a negative value means no delay."""
    policy = RetryPolicy(attempts=2, deadline=600, wait_max=1)

    delay = next_delay(
        policy, failures=1, elapsed=0.0, retry_after=retry_after, random_fraction=fraction
    )

    assert delay == max(0.0, retry_after)


def test_a_delay_beyond_the_deadline_ends_the_retries() -> None:
    """There is no delay before giving up."""
    policy = RetryPolicy(deadline=10)

    assert next_delay(policy, failures=1, elapsed=0, retry_after=11, random_fraction=0) is None
    assert next_delay(policy, failures=1, elapsed=0, retry_after=10, random_fraction=0) == 10


class Flaky:
    """An operation that raises each of `errors` in turn, then returns the number of attempts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attempts = 0

    async def __call__(self) -> int:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.attempts


def _at_once(attempts: int) -> RetryPolicy:
    return RetryPolicy(attempts=attempts, wait_initial=0, wait_max=0)


@pytest.mark.anyio
async def test_transient_failures_are_retried() -> None:
    """The result is that of the first success; `on_retry` is called before each delay."""
    operation = Flaky(NetworkError("one"), ServerError("two"))
    calls: list[tuple[str, float]] = []

    result = await retrying(
        operation, _at_once(3), on_retry=lambda error, delay: calls.append((str(error), delay))
    )

    assert result == 3
    assert calls == [("one", 0.0), ("two", 0.0)]


@pytest.mark.anyio
@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_the_last_error_is_raised_after_all_attempts(attempts: int) -> None:
    """The first attempt counts; the message contains the number of attempts."""
    operation = Flaky(*(ServerError(f"failure {n}") for n in range(1, 10)))

    with pytest.raises(ServerError) as caught:
        await retrying(operation, _at_once(attempts))

    assert operation.attempts == attempts
    gave_up = f" (gave up after {attempts} attempts)" if attempts > 1 else ""
    assert str(caught.value) == f"failure {attempts}{gave_up}"


@pytest.mark.anyio
@pytest.mark.parametrize("error", [IntegrityError("wrong bytes"), ValueError("bug")])
async def test_other_errors_are_not_retried(error: Exception) -> None:
    """Only a TransientError is."""
    operation = Flaky(error)

    with pytest.raises(type(error)) as caught:
        await retrying(operation, _at_once(5))

    assert caught.value is error
    assert operation.attempts == 1


@pytest.mark.anyio
async def test_the_retry_after_of_an_error_is_used() -> None:
    """A short one is the delay; one beyond the deadline ends the retries without a delay."""
    calls: list[float] = []

    def on_retry(error: TransientError, delay: float) -> None:
        calls.append(delay)

    operation = Flaky(
        ThrottledError("slow down", retry_after=0.001),
        ThrottledError("slow down", retry_after=1000),
    )

    with pytest.raises(ThrottledError):
        await retrying(operation, RetryPolicy(deadline=100), on_retry=on_retry)

    assert calls == [0.001]
    assert operation.attempts == 2
