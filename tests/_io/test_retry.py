"""`hftransfer._io.retry`: the pure decision, and the loop that follows it."""

from __future__ import annotations

from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.events import Event, Recovered, Waiting
from hftransfer._io.origins import Origin, Origins
from hftransfer._io.retry import Attempts, retrying
from hftransfer.errors import (
    ExpiredError,
    IntegrityError,
    NetworkError,
    ServerError,
    ThrottledError,
    TransientError,
)
from hftransfer.options import RetryPolicy

_seconds = st.floats(0, 1e6)
_fractions = st.floats(0, 1, exclude_max=True)
DAMAGED = NetworkError("damaged", is_outage=False)


class Clock:
    """Seconds that go forward by assignment only."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@st.composite
def _policies(draw: st.DrawFn) -> RetryPolicy:
    initial, more = draw(st.floats(0, 100)), draw(st.floats(0, 100))
    return RetryPolicy(
        attempts=draw(st.none() | st.integers(1, 50)),
        deadline=draw(_seconds),
        wait_initial=initial,
        wait_max=initial + more,
    )


@given(
    policy=_policies(),
    failures=st.integers(1, 60),
    elapsed=_seconds,
    retry_after=st.none() | _seconds,
    fraction=_fractions,
    is_outage=st.booleans(),
)
def test_retries_are_within_the_limits(
    policy: RetryPolicy,
    failures: int,
    elapsed: float,
    retry_after: float | None,
    fraction: float,
    is_outage: bool,
) -> None:
    """Within the deadline, whatever determined the delay, and the number that the policy gives.

    Without a number, only failures that no outage explains are limited, to 8 attempts.
    """
    error = ServerError("failed", retry_after=retry_after, is_outage=is_outage)
    attempts = Attempts(policy)
    for number in range(failures):
        attempts.fail(error, 0.0 if number == 0 else elapsed)

    delay = attempts.delay(error, elapsed, fraction)

    number_limit = policy.attempts or (10**9 if is_outage else 8)
    if failures >= number_limit or elapsed >= policy.deadline:
        assert delay is None
    elif delay is None:
        assert retry_after is not None
        assert elapsed + retry_after > policy.deadline or retry_after > policy.deadline - elapsed
    else:
        assert delay >= (retry_after or 0.0)
        assert delay <= policy.deadline - elapsed


@given(failures=st.integers(1, 1000), fraction=_fractions)
def test_a_wish_of_zero_does_not_shorten_the_backoff(failures: int, fraction: float) -> None:
    """``Retry-After: 0``, or a date in the past, does not use up the attempts at once."""
    attempts = Attempts(RetryPolicy())
    error = ThrottledError("slow down", retry_after=0.0)
    for _ in range(failures):
        attempts.fail(error, 0.0)

    delay = attempts.delay(error, 0.0, fraction)

    assert delay is not None
    assert delay >= min(15.0, 0.1 * 2 ** min(failures - 1, 20)) / 2


def test_the_last_attempt_is_made_at_the_deadline() -> None:
    """A back-off that would end later is shortened; the server's wish is not."""
    attempts = Attempts(RetryPolicy(deadline=10, wait_initial=8, wait_max=8))
    attempts.fail(NetworkError("refused"), 0.0)

    assert attempts.delay(NetworkError("refused"), 7.0, 0.99) == 3.0
    assert attempts.delay(NetworkError("refused"), 10.0, 0.99) is None
    assert attempts.delay(ServerError("wait", retry_after=4.0), 7.0, 0.0) is None


def test_an_expired_url_is_replaced_at_once_but_not_for_ever() -> None:
    """The first retry has no delay; the second has one; the eighth failure is the last."""
    attempts = Attempts(RetryPolicy())
    error = ExpiredError("expired")
    delays = []
    for _ in range(8):
        attempts.fail(error, 0.0)
        delays.append(attempts.delay(error, 0.0, 0.5))

    assert delays[0] == 0.0
    assert all(delays[1:7])
    assert delays[7] is None


def test_time_in_outages_that_have_ended_does_not_count() -> None:
    """Any number of outages shorter than the deadline are survived without progress of one's own.

    A permanent failure of one operation ends it, because then the server answers the others.
    """
    clock = Clock()
    origin = Origins(clock=clock).find("http://host:1/x")
    attempts = Attempts(RetryPolicy(deadline=100.0))
    for _ in range(20):
        error = NetworkError("refused")
        origin.record_failure(error, clock.now)
        attempts.fail(error, clock.now)
        clock.now += 90.0
        assert attempts.delay(error, clock.now, 0.5) is not None
        origin.record_success()

    clock.now += 101.0
    assert attempts.delay(error, clock.now, 0.5) is None


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


AT_ONCE = RetryPolicy(wait_initial=0, wait_max=0)


@pytest.mark.anyio
async def test_transient_failures_are_retried() -> None:
    """The result is that of the first success; `on_retry` is called before each delay."""
    operation = Flaky(NetworkError("one"), ServerError("two"))
    calls: list[tuple[str, float]] = []

    result = await retrying(
        operation, AT_ONCE, on_retry=lambda error, delay: calls.append((str(error), delay))
    )

    assert result == 3
    assert calls == [("one", 0.0), ("two", 0.0)]


@pytest.mark.anyio
async def test_an_outage_is_limited_by_the_deadline_only() -> None:
    """A thousand refused connections are survived by default."""
    operation = Flaky(*(NetworkError("refused") for _ in range(1000)))

    assert await retrying(operation, AT_ONCE) == 1001


@pytest.mark.anyio
@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_the_last_error_is_raised_after_all_attempts(attempts: int) -> None:
    """The first attempt counts; the message contains the number of attempts, and the file."""
    operation = Flaky(*(ServerError(f"failure {n}") for n in range(1, 10)))

    with pytest.raises(ServerError) as caught:
        await retrying(operation, replace(AT_ONCE, attempts=attempts), subject="a.bin")

    assert operation.attempts == attempts
    gave_up = f" (gave up after {attempts} attempts)" if attempts > 1 else ""
    assert str(caught.value) == f"a.bin: failure {attempts}{gave_up}"


@pytest.mark.anyio
async def test_a_wrong_response_is_limited_by_a_number() -> None:
    """A server that answers, but wrongly, is asked 8 times by default."""
    operation = Flaky(*[DAMAGED] * 20)

    with pytest.raises(NetworkError, match="damaged .gave up after 8 attempts"):
        await retrying(operation, AT_ONCE)

    assert operation.attempts == 8


@pytest.mark.anyio
@pytest.mark.parametrize("error", [IntegrityError("wrong bytes"), ValueError("bug")])
async def test_other_errors_are_not_retried(error: Exception) -> None:
    """Only a TransientError is."""
    operation = Flaky(error)

    with pytest.raises(type(error)) as caught:
        await retrying(operation, AT_ONCE)

    assert caught.value is error
    assert operation.attempts == 1


@pytest.mark.anyio
async def test_a_wish_beyond_the_deadline_fails_at_once() -> None:
    """A short one is the delay; the message of the other says why there is no retry."""
    calls: list[float] = []

    def on_retry(error: TransientError, delay: float) -> None:
        calls.append(delay)

    operation = Flaky(
        ThrottledError("slow down", retry_after=0.001),
        ThrottledError("slow down", retry_after=1000),
    )

    with pytest.raises(ThrottledError, match="asks to wait 1000 s, and retries end 100 s after"):
        await retrying(operation, replace(AT_ONCE, deadline=100), on_retry=on_retry)

    assert calls == [0.001]
    assert operation.attempts == 2


class Server:
    """A server for operations of this module: it fails `failures` requests, then works."""

    def __init__(self, origin: Origin, clock: Clock, failures: int) -> None:
        self.origin = origin
        self.clock = clock
        self.failures = failures
        self.requests = 0
        self.probes = 0
        self.most_probes = 0

    async def request(self) -> None:
        """Send one request, as `HttpClient` does."""
        if (refusal := self.origin.refusal()) is not None:
            raise refusal
        self.requests += 1
        started = self.clock()
        is_probe = self.origin.is_down
        self.probes += is_probe
        self.most_probes = max(self.most_probes, self.probes)
        await anyio.lowlevel.checkpoint()
        self.probes -= is_probe
        if self.failures:
            self.failures -= 1
            self.clock.now += 0.001
            error = NetworkError("refused")
            self.origin.record_failure(error, started)
            raise error
        self.origin.record_success()


@pytest.mark.anyio
async def test_operations_of_one_server_probe_it_in_turn() -> None:
    """32 operations, 200 failures: one request at a time once the server is known to be down.

    No operation fails, late ones send nothing before a probe has succeeded, and each change is
    announced once per probe rather than once per operation.
    """
    clock, events = Clock(), list[Event]()
    origin = Origins(events.append, clock=clock).find("http://host:1/x")
    server = Server(origin, clock, failures=200)

    async with anyio.create_task_group() as tasks:
        for _ in range(32):
            tasks.start_soon(lambda: retrying(server.request, AT_ONCE, clock=clock))

    assert server.most_probes == 1
    assert server.requests == 232
    waits = [event for event in events if isinstance(event, Waiting)]
    assert len(waits) <= 200 - 32 + 2
    assert {event.origin for event in waits} == {"http://host:1"}
    assert isinstance(events[-1], Recovered)
    assert len(events) == len(waits) + 1


@pytest.mark.anyio
async def test_a_failure_that_ends_the_deadline_names_server_time_and_tries() -> None:
    """Every operation gives up at the deadline, also those that only waited."""
    clock = Clock()
    origin = Origins(clock=clock).find("http://host:1/x?secret")
    server = Server(origin, clock, failures=10**9)
    errors: list[str] = []

    async def operate() -> None:
        try:
            await retrying(
                server.request, replace(AT_ONCE, deadline=0.5), subject="a.bin", clock=clock
            )
        except NetworkError as error:
            errors.append(str(error))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(operate)

    assert len(errors) == 4
    assert all(error.startswith("a.bin: refused (gave up after ") for error in errors)
    assert all(error.endswith("; server: http://host:1)") for error in errors)


@pytest.mark.anyio
async def test_a_cancelled_probe_leaves_its_turn_to_the_next() -> None:
    """Nothing waits for the result of a request that will not come."""
    clock = Clock()
    origin = Origins(clock=clock).find("http://host:1/x")
    server = Server(origin, clock, failures=2)
    blocked, done = anyio.Event(), anyio.Event()

    async def blocking() -> None:
        if server.requests < 2:
            await server.request()
        blocked.set()
        await anyio.sleep_forever()

    async def follow() -> None:
        await retrying(server.request, AT_ONCE, clock=clock)
        done.set()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(_cancel_when, blocked, scope)
            await retrying(blocking, AT_ONCE, clock=clock)
        assert origin.is_down
        tasks.start_soon(follow)
        await done.wait()


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


@pytest.mark.anyio
async def test_progress_begins_a_new_count() -> None:
    """An explicit number of attempts counts from the last progress."""
    moved = 0

    async def operation() -> int:
        nonlocal moved
        moved += 1
        if moved < 20:
            raise DAMAGED
        return moved

    assert await retrying(operation, AT_ONCE, progress=lambda: moved) == 20
