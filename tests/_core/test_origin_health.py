"""`hftransfer._core.origin_health`: the states of a server, and a simulated outage."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hftransfer._core.origin_health import OriginHealth, backoff_delay

_fractions = st.floats(0, 1, exclude_max=True)


@given(
    failures=st.integers(1, 6000),
    initial=st.floats(0, 100),
    more=st.floats(0, 100),
    fraction=_fractions,
)
@example(failures=4000, initial=0.1, more=14.9, fraction=0.5)
def test_the_backoff_doubles_and_has_a_floor(
    failures: int, initial: float, more: float, fraction: float
) -> None:
    """It is between half of a bound and the bound, which doubles up to the maximum."""
    delay = backoff_delay(failures, initial=initial, maximum=initial + more, fraction=fraction)

    bound = min(initial + more, initial * 2.0 ** min(failures - 1, 1023))
    assert bound / 2 <= delay <= bound or delay == pytest.approx(bound)


def test_one_failure_stops_no_other_request() -> None:
    """Nor do any number of failures of requests that were in flight together."""
    health = OriginHealth()
    for _ in range(16):
        health.fail(started=0.0, now=1.0, wish=None)

    assert (health.rounds, health.failed_requests) == (1, 16)
    assert not health.is_down
    assert health.admit(1.0, is_awaited=True)


def test_a_failure_after_a_failure_takes_the_server_down() -> None:
    """Then requests wait: for the back-off, and for the probe's result or some seconds."""
    health = OriginHealth()
    health.fail(started=0.0, now=1.0, wish=None)
    health.fail(started=1.5, now=2.0, wish=None)
    assert health.is_down

    assert health.schedule(2.0, delay=3.0)
    assert not health.schedule(2.5, delay=9.0), "one back-off per round"
    assert health.wait(2.5) == 2.5
    assert not health.admit(4.9, is_awaited=False)

    health.begin_probe(5.0)
    assert health.admit(5.0, is_awaited=True)
    assert not health.admit(5.0, is_awaited=True), "one probe at a time"
    assert health.wait(5.0) == 5.0
    assert health.wait(10.0) == 0.0, "a probe without a result is not waited for forever"


def test_a_success_between_two_failures_keeps_the_server_up() -> None:
    """Where every second response is 503, all others pass."""
    health = OriginHealth()
    for second in range(100):
        health.fail(started=second, now=second + 0.1, wish=None)
        assert health.admit(second + 0.2, is_awaited=False)
        health.succeed(second + 0.5)

    assert not health.is_down
    assert health.lost == pytest.approx(40.0)


def test_the_servers_wish_is_a_minimum_for_all_requests() -> None:
    """One response with Retry-After suffices; zero, and a date in the past, are no wish."""
    health = OriginHealth()
    health.fail(started=0.0, now=1.0, wish=0.0)
    assert health.wait(1.0) == 0.0

    health.fail(started=0.0, now=1.0, wish=12.0)
    assert health.is_requested
    health.schedule(1.0, delay=0.1)
    assert health.wait(1.0) == 12.0
    assert not health.admit(12.9, is_awaited=False)
    assert health.admit(13.0, is_awaited=False)


def test_without_waiting_operations_the_next_request_is_the_probe() -> None:
    """A request that is never retried is not refused for ever after an outage."""
    health = OriginHealth()
    health.fail(0.0, 1.0, None)
    health.fail(1.0, 2.0, None)
    health.schedule(2.0, 1.0)

    assert not health.admit(2.5, is_awaited=False)
    assert not health.admit(3.0, is_awaited=True), "those that wait have precedence"
    assert health.admit(3.0, is_awaited=False)
    assert not health.admit(3.0, is_awaited=False)


@given(
    outage=st.floats(0.01, 200.0),
    operations=st.integers(1, 40),
    timeout=st.sampled_from([0.0, 0.001, 3.0, 10.0]),
    seed=st.integers(0, 10**6),
)
@example(outage=5.0, operations=16, timeout=0.0, seed=1)
@example(outage=120.0, operations=32, timeout=0.0, seed=1)
def test_an_outage_is_probed_by_one_operation_at_a_time(
    outage: float, operations: int, timeout: float, seed: int
) -> None:
    """Operations that fail at once, then retry: few requests, and recovery soon after the end.

    A discrete-event simulation. The number of requests is bounded by the two rounds of all
    operations in which the outage is noticed, and one per back-off after that.
    """
    health, rng = OriginHealth(), random.Random(seed)
    order = itertools.count()
    events = [(0.0, next(order), "send", each, 0.0) for each in range(operations)]
    requests, in_flight, most, recovered = 0, 0, 0, None
    while recovered is None:
        now, _, kind, operation, started = heapq.heappop(events)
        if kind == "send":
            if health.is_down and (seconds := health.wait(now)) > 0:
                heapq.heappush(events, (now + seconds, next(order), "send", operation, 0.0))
                continue
            if health.is_down:
                health.begin_probe(now)
                most = max(most, in_flight + 1)
            assert health.admit(now, is_awaited=True)
            requests += 1
            in_flight += 1
            heapq.heappush(events, (now + timeout, next(order), "end", operation, now))
        else:
            in_flight -= 1
            if started >= outage:
                health.succeed(now)
                recovered = now
                break
            health.fail(started, now, None)
            delay = backoff_delay(
                max(1, health.rounds), initial=0.1, maximum=15.0, fraction=rng.random()
            )
            if health.is_down:
                health.end_probe()
                health.schedule(now, delay)
            heapq.heappush(events, (now + delay, next(order), "send", operation, 0.0))

    assert requests <= 2 * operations + 40 + outage / 7.5 + outage / 5.0
    assert recovered <= 2 * outage + 15.0 + 2 * timeout + 1.0
    assert not health.is_down
