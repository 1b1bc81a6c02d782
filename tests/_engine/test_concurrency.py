"""`hftransfer._engine.concurrency`: the number of connections maximizes goodput."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftransfer._engine.concurrency import (
    ConcurrencyController,
    Halving,
    Phase,
    Verdict,
    increased,
    judge_increase,
    judge_rate,
)

MB = 1_000_000

_RATES = st.floats(0.0, 1e10)
_PHASES = st.sampled_from(Phase)


# --- the decisions


@given(limit=st.integers(1, 1000), maximum=st.integers(1, 1000), phase=_PHASES)
def test_increase_is_bounded(limit: int, maximum: int, phase: Phase) -> None:
    """The new limit is between one more and twice the limit plus one, at most the maximum."""
    limit = min(limit, maximum)

    grown = increased(limit, maximum, phase)

    assert min(limit + 1, maximum) <= grown <= min(2 * limit + 1, maximum)


@given(best=st.floats(1.0, 1e10), rate=_RATES, phase=_PHASES)
def test_increase_that_gained_is_kept(best: float, rate: float, phase: Phase) -> None:
    """A higher limit is kept if the rate grew by 25 %, and undone if it fell by a third."""
    verdict = judge_increase(rate, best, phase)

    if rate >= 1.25 * best:
        assert verdict is Verdict.KEEP
    if rate < 2 / 3 * best:
        assert verdict is Verdict.UNDO


@given(best=st.floats(1.0, 1e10), rate=_RATES)
def test_early_measurement_undoes_nothing(best: float, rate: float) -> None:
    """While new connections accelerate, a doubling is kept or measured again."""
    verdict = judge_increase(rate, best, Phase.SLOW_START, is_early=True)

    assert verdict in (Verdict.KEEP, Verdict.MEASURE_AGAIN)


@pytest.mark.parametrize(
    ("phase", "gain", "verdict"),
    [
        (Phase.SLOW_START, 1.3, Verdict.KEEP),
        (Phase.SLOW_START, 1.1, Verdict.KEEP_AND_PAUSE),
        (Phase.SLOW_START, 0.8, Verdict.KEEP_AND_PAUSE),
        (Phase.SLOW_START, 0.6, Verdict.UNDO),
        (Phase.STEADY, 1.1, Verdict.KEEP),
        (Phase.STEADY, 1.05, Verdict.UNDO),
    ],
)
def test_gain_decides_about_an_increase(phase: Phase, gain: float, verdict: Verdict) -> None:
    """Doubling ends if it gains less than 25 %; a small step is kept if it gains 8 % or more."""
    assert judge_increase(gain * 100 * MB, 100 * MB, phase) is verdict


@given(
    best=_RATES,
    rate=_RATES,
    halving=st.none() | st.builds(Halving, st.integers(1, 64), _RATES),
)
def test_only_a_collapse_halves(best: float, rate: float, halving: Halving | None) -> None:
    """A halving is undone only if it lowered the rate further."""
    verdict = judge_rate(rate, best, halving)

    if verdict is Verdict.UNDO:
        assert halving is not None
        assert rate < halving.collapsed_rate
    elif verdict is Verdict.HALVE:
        assert rate < best / 2
    else:
        assert verdict is Verdict.KEEP
        assert rate >= best / 2


# --- the controller


@settings(deadline=None)  # a simulation may take long on a busy machine
@given(
    start=st.integers(1, 100),
    maximum=st.integers(1, 100),
    steps=st.lists(
        st.tuples(
            st.floats(0.0, 2.0), st.integers(0, 1000 * MB), st.booleans(), st.floats(0.0, 2.0)
        ),
        min_size=1,
        max_size=50,
    ),
    throttled=st.sets(st.integers(0, 49)),
)
def test_limit_stays_within_its_bounds(
    start: int,
    maximum: int,
    steps: list[tuple[float, int, bool, float]],
    throttled: set[int],
) -> None:
    """Whatever the network does; a throttled request never raises the limit."""
    controller = ConcurrencyController(start=start, maximum=maximum)
    now, moved = 0.0, 0
    for index, (seconds, count, saturated, latency) in enumerate(steps):
        now, moved = now + seconds, moved + count
        before = controller.limit
        if index in throttled:
            assert controller.slow_down(now) <= before
            assert controller.phase is Phase.STEADY
        limit = controller.update(now, moved, saturated=saturated, latency=latency)
        assert limit == controller.limit
        assert 1 <= limit <= maximum


def _run(
    controller: ConcurrencyController,
    network: Callable[[int], float],
    *,
    seconds: float,
    start: float = 0.0,
    moved: float = 0.0,
    saturated: bool = True,
) -> tuple[float, float]:
    """Simulate `seconds` in steps of 50 ms; return the time and the bytes moved.

    Args:
        controller: decides on the number of connections.
        network: bytes per second that a number of connections achieves.
        seconds: how long.
        start: the time at the beginning.
        moved: bytes moved before.
        saturated: whether all connections are in use.
    """
    now = start
    while now < start + seconds:
        now += 0.05
        moved += 0.05 * network(controller.limit)
        controller.update(now, int(moved), saturated=saturated)
    return now, moved


@settings(deadline=None)  # a simulation may take long on a busy machine
@given(per_connection=st.integers(1, 200), capacity=st.integers(1, 10_000))
def test_most_of_the_capacity_is_used(per_connection: int, capacity: int) -> None:
    """At least 80 % of it after 20 seconds, with at most four times the connections needed."""
    controller = ConcurrencyController(start=8, maximum=64)

    def network(connections: int) -> float:
        return MB * min(connections * per_connection, capacity)

    _run(controller, network, seconds=20.0)

    assert network(controller.limit) >= 0.8 * network(64)
    # The last doubling may gain only in part, and one more that lowers nothing is kept.
    needed = max(8, -(-capacity // per_connection))
    assert controller.limit <= 4 * needed


class FarConnection:
    """One connection over a far network, with one request after another.

    It takes some round trips to open, its rate doubles in each as TCP's slow start does,
    and each request waits one round trip for its response.

    Args:
        now: when it is opened, in seconds.
        round_trip: seconds.
        speed: bytes per second at most.
    """

    PIECE = 4 * MB

    def __init__(self, now: float, round_trip: float, speed: float) -> None:
        self._round_trip = round_trip
        self._speed = speed
        self._rate = min(speed, 20_000 / round_trip)
        self._requested = now
        self._response = now + 3.5 * round_trip
        self._left: float = self.PIECE

    def receive(self, now: float, seconds: float) -> float:
        """Return the bytes that arrive in the `seconds` before `now`."""
        if now < self._response:
            return 0.0
        self._rate = min(self._speed, self._rate * 2 ** (seconds / self._round_trip))
        count = min(self._left, self._rate * seconds)
        self._left -= count
        if not self._left:
            self._left = self.PIECE
            self._requested, self._response = now, now + self._round_trip
        return count

    def latency(self, now: float) -> float:
        return min(now, self._response) - self._requested


@settings(deadline=None)  # a simulation may take long on a busy machine
@given(round_trip=st.floats(0.005, 0.25), speed=st.integers(5, 100))
def test_far_network_is_measured_at_full_rate(round_trip: float, speed: int) -> None:
    """All connections are used where each is slow, however long they take to open.

    All connections pause between two requests, and that is not taken for a collapse.
    """
    controller = ConcurrencyController(start=16, maximum=64)
    connections: list[FarConnection] = []
    moved = 0.0
    for step in range(1, 1001):
        now = step / 100
        while len(connections) < controller.limit:
            connections.append(FarConnection(now, round_trip, speed * MB))
        del connections[controller.limit :]
        moved += sum(each.receive(now, 0.01) for each in connections)
        if step % 5 == 0:
            latency = sum(each.latency(now) for each in connections) / len(connections)
            controller.update(now, int(moved), saturated=True, latency=latency)

    assert controller.limit == 64


def _network_with(rate: float) -> Callable[[int], float]:
    """Return a network in which every connection achieves `rate` bytes per second."""
    return lambda connections: rate * connections


def test_halving_that_lowers_throughput_is_undone() -> None:
    """Where every connection became slower, fewer of them do not help."""
    controller = ConcurrencyController(start=8, maximum=64)
    now, moved = _run(controller, _network_with(50 * MB), seconds=3.0)
    assert controller.limit == 64

    _run(controller, _network_with(15 * MB), seconds=3.0, start=now, moved=moved)

    assert controller.limit == 64


def test_slow_start_doubles_quickly() -> None:
    """From 8 to 64 in less than a second if every doubling raises the throughput."""
    controller = ConcurrencyController(start=8, maximum=64)
    assert controller.limit == 8

    _run(controller, _network_with(50 * MB), seconds=0.9)

    assert controller.limit == 64


def test_limit_stays_where_more_connections_gain_nothing() -> None:
    """A network that one connection saturates gets one doubling at most."""
    controller = ConcurrencyController(start=8, maximum=64)

    _run(controller, lambda connections: 1000 * MB, seconds=10.0)

    assert controller.limit <= 16
    assert controller.phase is Phase.STEADY


def test_step_that_lowers_throughput_is_undone() -> None:
    """Some stores collapse beyond a number of connections: the limit stays below it."""
    controller = ConcurrencyController(start=8, maximum=64)

    def network(connections: int) -> float:
        return 50 * MB * connections if connections <= 20 else 10 * MB

    _run(controller, network, seconds=20.0)

    assert 12 <= controller.limit <= 20


def test_limit_is_halved_while_goodput_is_collapsed() -> None:
    """A limit of the server that appears in the middle of a transfer is found."""
    controller = ConcurrencyController(start=8, maximum=64)
    now, moved = _run(controller, _network_with(50 * MB), seconds=3.0)
    assert controller.limit == 64

    def collapsed(connections: int) -> float:
        return 1 * MB if connections > 10 else 400 * MB

    _run(controller, collapsed, seconds=60.0, start=now, moved=moved)

    assert controller.limit <= 10


def test_slower_network_is_not_taken_for_an_overloaded_server() -> None:
    """Where everything became ten times slower, the limit does not stay low."""
    controller = ConcurrencyController(start=8, maximum=64)
    now, moved = _run(controller, _network_with(50 * MB), seconds=3.0)

    _run(controller, _network_with(5 * MB), seconds=60.0, start=now, moved=moved)

    assert controller.limit >= 32


def test_throttling_of_every_connection_halves_once() -> None:
    """The limit grows again after some seconds."""
    controller = ConcurrencyController(start=32, maximum=64)

    limits = [controller.slow_down(1.0) for _ in range(5)]

    assert limits == [16] * 5
    now, moved = _run(controller, _network_with(50 * MB), seconds=8.0, start=1.0)
    assert controller.limit == 16
    _run(controller, _network_with(50 * MB), seconds=10.0, start=now, moved=moved)
    assert controller.limit > 16


def test_an_outage_of_silence_does_not_change_the_limit() -> None:
    """120 s without a byte, all connections in use: no measurement, so no collapse."""
    controller = ConcurrencyController(start=16, maximum=64)
    now, moved = _run(controller, _network_with(50 * MB), seconds=5.0)
    before = controller.limit

    now, moved = _run(controller, lambda connections: 0.0, seconds=120.0, start=now, moved=moved)

    assert controller.limit == before
    _run(controller, _network_with(50 * MB), seconds=10.0, start=now, moved=moved)
    assert controller.limit >= before


def test_an_outage_with_429_halves_once_and_recovers() -> None:
    """A refusal every 15 s for two minutes, without a byte in between, is one refusal."""
    controller = ConcurrencyController(start=16, maximum=64)
    now, moved = _run(controller, _network_with(50 * MB), seconds=5.0)
    before = controller.limit

    for _ in range(8):
        controller.slow_down(now)
        now, moved = _run(controller, lambda connections: 0.0, seconds=15.0, start=now, moved=moved)

    assert controller.limit >= before // 4  # bytes of the time before the first refusal count
    _run(controller, _network_with(50 * MB), seconds=60.0, start=now, moved=moved)
    assert controller.limit >= before


def test_later_throttling_halves_again() -> None:
    """Down to one connection."""
    controller = ConcurrencyController(start=8, maximum=64)
    now = 0.0
    for expected in (4, 2, 1, 1):
        assert controller.slow_down(now) == expected
        now, _ = _run(controller, lambda connections: MB, seconds=2.0, start=now)


def test_unused_connections_are_not_measured() -> None:
    """While there is too little work for all connections, the limit stays."""
    controller = ConcurrencyController(start=8, maximum=64)

    _run(controller, _network_with(50 * MB), seconds=5.0, saturated=False)

    assert controller.limit == 8


@pytest.mark.parametrize("start", [1, 100])
def test_maximum_is_reached_and_kept(start: int) -> None:
    """Wherever the limit starts."""
    controller = ConcurrencyController(start=start, maximum=20)

    _run(controller, _network_with(50 * MB), seconds=30.0)

    assert controller.limit == 20
