"""Retries: the decision is pure, the loop obeys it."""

from __future__ import annotations

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
def test_never_more_than_attempts_or_deadline(
    policy: RetryPolicy,
    failures: int,
    elapsed: float,
    retry_after: float | None,
    fraction: float,
) -> None:
    """A next try is within both limits, whoever chose the delay."""
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
def test_jitter_is_full_and_bound(policy: RetryPolicy, failures: int, fraction: float) -> None:
    """Our own delay is between 0 and the doubled bound, at most `wait_max`."""
    delay = next_delay(
        policy, failures=failures, elapsed=0.0, retry_after=None, random_fraction=fraction
    )

    bound = min(policy.wait_max, policy.wait_initial * 2.0 ** min(failures - 1, 1023))
    if delay is not None:
        assert delay == pytest.approx(bound * fraction)
        assert delay <= policy.wait_max


@given(retry_after=st.floats(-10, 600), fraction=_fractions)
def test_the_servers_wish_wins(retry_after: float, fraction: float) -> None:
    """Retry-After replaces our delay, also beyond `wait_max`; a negative one means now."""
    policy = RetryPolicy(attempts=2, deadline=600, wait_max=1)

    delay = next_delay(
        policy, failures=1, elapsed=0.0, retry_after=retry_after, random_fraction=fraction
    )

    assert delay == max(0.0, retry_after)


def test_a_wish_beyond_the_deadline_gives_up_now() -> None:
    """Nobody waits for a try that would not be made."""
    policy = RetryPolicy(deadline=10)

    assert next_delay(policy, failures=1, elapsed=0, retry_after=11, random_fraction=0) is None
    assert next_delay(policy, failures=1, elapsed=0, retry_after=10, random_fraction=0) == 10


class Flaky:
    """An operation that raises each of `errors` in turn, then returns the number of tries."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tries = 0

    async def __call__(self) -> int:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.tries


def _at_once(attempts: int) -> RetryPolicy:
    return RetryPolicy(attempts=attempts, wait_initial=0, wait_max=0)


@pytest.mark.anyio
async def test_transient_failures_are_tried_again() -> None:
    """The result is that of the first success, and each wait is told before it begins."""
    operation = Flaky(NetworkError("one"), ServerError("two"))
    told: list[tuple[str, float]] = []

    result = await retrying(
        operation, _at_once(3), on_retry=lambda error, delay: told.append((str(error), delay))
    )

    assert result == 3
    assert told == [("one", 0.0), ("two", 0.0)]


@pytest.mark.anyio
@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_the_last_error_is_raised_after_as_many_tries(attempts: int) -> None:
    """The policy's attempts are tries in all; the error says how many there were."""
    operation = Flaky(*(ServerError(f"failure {n}") for n in range(1, 10)))

    with pytest.raises(ServerError) as caught:
        await retrying(operation, _at_once(attempts))

    assert operation.tries == attempts
    gave_up = f" (gave up after {attempts} tries)" if attempts > 1 else ""
    assert str(caught.value) == f"failure {attempts}{gave_up}"


@pytest.mark.anyio
@pytest.mark.parametrize("error", [IntegrityError("wrong bytes"), ValueError("bug")])
async def test_other_errors_are_never_tried_again(error: Exception) -> None:
    """Only TransientError promises that another try may help."""
    operation = Flaky(error)

    with pytest.raises(type(error)) as caught:
        await retrying(operation, _at_once(5))

    assert caught.value is error
    assert operation.tries == 1


@pytest.mark.anyio
async def test_the_error_carries_the_servers_wish_to_the_decision() -> None:
    """A Retry-After that passes the deadline ends it without a wait; a small one is obeyed."""
    told: list[float] = []

    def on_retry(error: TransientError, delay: float) -> None:
        told.append(delay)

    operation = Flaky(
        ThrottledError("slow down", retry_after=0.001),
        ThrottledError("slow down", retry_after=1000),
    )

    with pytest.raises(ThrottledError):
        await retrying(operation, RetryPolicy(deadline=100), on_retry=on_retry)

    assert told == [0.001]
    assert operation.tries == 2
