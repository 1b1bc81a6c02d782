"""`hftransfer._goodput`: the number of connections follows what they bring."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._goodput import Controller

MB = 1_000_000


def _run(
    controller: Controller,
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
    controller = Controller(start=8, maximum=64)

    def network(connections: int) -> float:
        return MB * min(connections * per_connection, capacity)

    _run(controller, network, seconds=20.0)

    assert network(controller.limit) >= 0.8 * network(64)
    # The last doubling that paid may have been one too many; one more that cost nothing is kept.
    needed = max(8, -(-capacity // per_connection))
    assert controller.limit <= 4 * needed


def test_it_starts_modest_and_doubles_quickly() -> None:
    """From 8 to 64 in less than a second where that pays."""
    controller = Controller(start=8, maximum=64)
    assert controller.limit == 8

    _run(controller, lambda connections: 50 * MB * connections, seconds=0.9)

    assert controller.limit == 64


def test_it_stays_where_more_bring_nothing() -> None:
    """A network that one connection fills sees hardly more than the first ones."""
    controller = Controller(start=8, maximum=64)

    _run(controller, lambda connections: 1000 * MB, seconds=10.0)

    assert controller.limit <= 16


def test_it_takes_back_a_step_that_costs() -> None:
    """Some stores collapse beyond a number of connections: it goes back below that number."""
    controller = Controller(start=8, maximum=64)

    def network(connections: int) -> float:
        return 50 * MB * connections if connections <= 20 else 10 * MB

    _run(controller, network, seconds=20.0)

    assert 12 <= controller.limit <= 20


def test_it_tries_fewer_when_goodput_collapses() -> None:
    """A limit that appears in the middle of a transfer is found."""
    controller = Controller(start=8, maximum=64)
    now, moved = _run(controller, lambda connections: 50 * MB * connections, seconds=3.0)
    assert controller.limit == 64

    def collapsed(connections: int) -> float:
        return 1 * MB if connections > 10 else 400 * MB

    _run(controller, collapsed, seconds=60.0, start=now, moved=moved)

    assert controller.limit <= 10


def test_a_slow_network_is_not_taken_for_a_crowded_one() -> None:
    """Where everything became ten times slower, few connections are not enough for long."""
    controller = Controller(start=8, maximum=64)
    now, moved = _run(controller, lambda connections: 50 * MB * connections, seconds=3.0)

    _run(controller, lambda connections: 5 * MB * connections, seconds=60.0, start=now, moved=moved)

    assert controller.limit >= 32


def test_one_complaint_halves_once() -> None:
    """All connections hear the same refusal at once; growing waits some seconds."""
    controller = Controller(start=32, maximum=64)

    limits = [controller.slow_down(1.0) for _ in range(5)]

    assert limits == [16] * 5
    now, moved = _run(controller, lambda connections: 50 * MB * connections, seconds=8.0, start=1.0)
    assert controller.limit == 16
    _run(controller, lambda n: 50 * MB * n, seconds=10.0, start=now, moved=moved)
    assert controller.limit > 16


def test_a_later_complaint_halves_again() -> None:
    """If half as many are still too many, a quarter is next, and at least one remains."""
    controller = Controller(start=8, maximum=64)
    now = 0.0
    for expected in (4, 2, 1, 1):
        assert controller.slow_down(now) == expected
        now, _ = _run(controller, lambda connections: MB, seconds=2.0, start=now)


def test_what_is_not_used_says_nothing() -> None:
    """While there is too little work for all connections the number stays."""
    controller = Controller(start=8, maximum=64)

    _run(controller, lambda connections: 50 * MB * connections, seconds=5.0, saturated=False)

    assert controller.limit == 8


@pytest.mark.parametrize("start", [1, 100])
def test_the_maximum_holds(start: int) -> None:
    """Never more than the maximum, wherever it starts."""
    controller = Controller(start=start, maximum=20)

    _run(controller, lambda connections: 50 * MB * connections, seconds=30.0)

    assert controller.limit == 20
