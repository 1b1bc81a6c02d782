"""`hftransfer._engine.concurrency`: the number of connections follows what they bring."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._engine.concurrency import ConcurrencyController

MB = 1_000_000


def _run(
    controller: ConcurrencyController,
    network: Callable[[int], float],
    *,
    seconds: float,
    start: float = 0.0,
    moved: float = 0.0,
    saturated: bool = True,
) -> tuple[float, float]:
    """Let time pass in ticks of 50 ms; return the time and the bytes moved."""
    now = start
    while now < start + seconds:
        now += 0.05
        moved += 0.05 * network(controller.limit)
        controller.update(now, int(moved), saturated=saturated)
    return now, moved


@given(per_connection=st.integers(1, 200), capacity=st.integers(1, 10_000))
def test_it_fills_a_network_that_holds_each_connection_back(
    per_connection: int, capacity: int
) -> None:
    """Most of what can be had is had within some seconds, with no crowd of idle connections."""
    controller = ConcurrencyController(start=8, maximum=64)

    def network(connections: int) -> float:
        return MB * min(connections * per_connection, capacity)

    _run(controller, network, seconds=20.0)

    assert network(controller.limit) >= 0.8 * network(64)
    # The last doubling that paid may have been one too many; one more that cost nothing is kept.
    needed = max(8, -(-capacity // per_connection))
    assert controller.limit <= 4 * needed


class FarConnection:
    """One connection of a far network, over which pieces of a file are asked for one by one.

    It takes some round trips to open, its speed doubles in each as TCP's slow start does,
    and each request waits for one.

    Args:
        now: when it is opened, in seconds.
        round_trip: seconds.
        speed: bytes per second at most.
    """

    PIECE = 4 * MB

    def __init__(self, now: float, round_trip: float, speed: float) -> None:
        self._round_trip = round_trip
        self._speed = speed
        self._current = min(speed, 20_000 / round_trip)
        self._asked = now
        self._answered = now + 3.5 * round_trip
        self._left: float = self.PIECE

    def bring(self, now: float, seconds: float) -> float:
        """Return the bytes that come in the `seconds` before `now`."""
        if now < self._answered:
            return 0.0
        self._current = min(self._speed, self._current * 2 ** (seconds / self._round_trip))
        count = min(self._left, self._current * seconds)
        self._left -= count
        if not self._left:
            self._left = self.PIECE
            self._asked, self._answered = now, now + self._round_trip
        return count

    def wait(self, now: float) -> float:
        return min(now, self._answered) - self._asked


@given(round_trip=st.floats(0.005, 0.25), speed=st.integers(5, 100))
def test_a_far_network_is_not_judged_before_it_is_at_full_speed(
    round_trip: float, speed: int
) -> None:
    """Where each connection is held back all of them are used, however long they take to open.

    Neither does the silence between two requests of all of them pass for a collapse.
    """
    controller = ConcurrencyController(start=16, maximum=64)
    connections: list[FarConnection] = []
    moved = 0.0
    for tick in range(1, 1001):
        now = tick / 100
        while len(connections) < controller.limit:
            connections.append(FarConnection(now, round_trip, speed * MB))
        del connections[controller.limit :]
        moved += sum(each.bring(now, 0.01) for each in connections)
        if tick % 5 == 0:
            latency = sum(each.wait(now) for each in connections) / len(connections)
            controller.update(now, int(moved), saturated=True, latency=latency)

    assert controller.limit == 64


def test_halving_is_taken_back_where_it_makes_things_worse() -> None:
    """Where every connection became slower, fewer of them are not what was wanted."""
    controller = ConcurrencyController(start=8, maximum=64)
    now, moved = _run(controller, lambda connections: 50 * MB * connections, seconds=3.0)
    assert controller.limit == 64

    _run(controller, lambda connections: 15 * MB * connections, seconds=3.0, start=now, moved=moved)

    assert controller.limit == 64


def test_it_starts_modest_and_doubles_quickly() -> None:
    """From 8 to 64 in less than a second where that pays."""
    controller = ConcurrencyController(start=8, maximum=64)
    assert controller.limit == 8

    _run(controller, lambda connections: 50 * MB * connections, seconds=0.9)

    assert controller.limit == 64


def test_it_stays_where_more_bring_nothing() -> None:
    """A network that one connection fills sees hardly more than the first ones."""
    controller = ConcurrencyController(start=8, maximum=64)

    _run(controller, lambda connections: 1000 * MB, seconds=10.0)

    assert controller.limit <= 16


def test_it_takes_back_a_step_that_costs() -> None:
    """Some stores collapse beyond a number of connections: it goes back below that number."""
    controller = ConcurrencyController(start=8, maximum=64)

    def network(connections: int) -> float:
        return 50 * MB * connections if connections <= 20 else 10 * MB

    _run(controller, network, seconds=20.0)

    assert 12 <= controller.limit <= 20


def test_it_tries_fewer_when_goodput_collapses() -> None:
    """A limit that appears in the middle of a transfer is found."""
    controller = ConcurrencyController(start=8, maximum=64)
    now, moved = _run(controller, lambda connections: 50 * MB * connections, seconds=3.0)
    assert controller.limit == 64

    def collapsed(connections: int) -> float:
        return 1 * MB if connections > 10 else 400 * MB

    _run(controller, collapsed, seconds=60.0, start=now, moved=moved)

    assert controller.limit <= 10


def test_a_slow_network_is_not_taken_for_a_crowded_one() -> None:
    """Where everything became ten times slower, few connections are not enough for long."""
    controller = ConcurrencyController(start=8, maximum=64)
    now, moved = _run(controller, lambda connections: 50 * MB * connections, seconds=3.0)

    _run(controller, lambda connections: 5 * MB * connections, seconds=60.0, start=now, moved=moved)

    assert controller.limit >= 32


def test_one_complaint_halves_once() -> None:
    """All connections hear the same refusal at once; growing waits some seconds."""
    controller = ConcurrencyController(start=32, maximum=64)

    limits = [controller.slow_down(1.0) for _ in range(5)]

    assert limits == [16] * 5
    now, moved = _run(controller, lambda connections: 50 * MB * connections, seconds=8.0, start=1.0)
    assert controller.limit == 16
    _run(controller, lambda n: 50 * MB * n, seconds=10.0, start=now, moved=moved)
    assert controller.limit > 16


def test_a_later_complaint_halves_again() -> None:
    """If half as many are still too many, a quarter is next, and at least one remains."""
    controller = ConcurrencyController(start=8, maximum=64)
    now = 0.0
    for expected in (4, 2, 1, 1):
        assert controller.slow_down(now) == expected
        now, _ = _run(controller, lambda connections: MB, seconds=2.0, start=now)


def test_what_is_not_used_says_nothing() -> None:
    """While there is too little work for all connections the number stays."""
    controller = ConcurrencyController(start=8, maximum=64)

    _run(controller, lambda connections: 50 * MB * connections, seconds=5.0, saturated=False)

    assert controller.limit == 8


@pytest.mark.parametrize("start", [1, 100])
def test_the_maximum_holds(start: int) -> None:
    """Never more than the maximum, wherever it starts."""
    controller = ConcurrencyController(start=start, maximum=20)

    _run(controller, lambda connections: 50 * MB * connections, seconds=30.0)

    assert controller.limit == 20
