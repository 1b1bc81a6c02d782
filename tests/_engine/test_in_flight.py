"""`hftransfer._engine.in_flight`: few bytes in flight on a slow line, enough on a fast one."""

from __future__ import annotations

import heapq

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._engine.in_flight import (
    MIN_WINDOW,
    WINDOW_SECONDS,
    InFlightWindow,
    WindowController,
)

PART = 8 << 20
MB = 1e6
MOST = 32  # parts in flight


def _simulate(
    controller: WindowController, seconds: float, *, line: float, connection: float = 1e12
) -> tuple[float, int]:
    """Upload parts over a line that is shared by the parts in flight; return rate and window.

    Args:
        controller: is asked after each part.
        seconds: that the upload lasts.
        line: bytes per second of all parts together.
        connection: most bytes per second of one part.
    """
    now, stored, started = 0.0, 0, 0
    remaining: list[float] = []
    controller.begin(now)
    while now < seconds:
        while not remaining or (
            len(remaining) < MOST and (len(remaining) + 1) * PART <= controller.window
        ):
            heapq.heappush(remaining, PART * (1 + (started % 7) / 1000))
            started += 1
        rate = min(line / len(remaining), connection)
        step = remaining[0] / rate
        now += step
        remaining = [left - rate * step for left in remaining]
        heapq.heappop(remaining)
        stored += PART
        controller.stored(now, PART, waiting=True)
    return stored / now, controller.window


@pytest.mark.parametrize("line", [0.1 * MB, 2 * MB, 10 * MB])
def test_a_slow_line_gets_two_parts_at_a_time(line: float) -> None:
    """More of them would be complete later, and not faster."""
    controller = WindowController()
    for _ in range(4):
        _, window = _simulate(controller, 300 * PART / line, line=line)

    assert window <= 1.5 * MIN_WINDOW
    assert controller._earned == MIN_WINDOW


def test_a_fast_line_gets_what_it_moves_in_a_second() -> None:
    """And it gets it after the first measurement."""
    controller = WindowController()
    _simulate(controller, 0.5, line=800 * MB)

    assert controller.window >= 0.8 * 800 * MB * WINDOW_SECONDS


def test_slow_connections_get_more_parts() -> None:
    """Where each connection has 2 MB/s, a window that grows brings ten times the rate."""
    controller = WindowController()
    rate, window = _simulate(controller, 300, line=1000 * MB, connection=2 * MB)

    assert window >= MOST / 2 * PART
    assert rate >= 20 * MB


@given(
    gaps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 64 << 20), st.booleans()), max_size=80)
)
def test_the_window_is_bounded_by_the_rate(gaps: list[tuple[float, int, bool]]) -> None:
    """Whatever is measured, it is at least the minimum, and spacing is at most 5 s."""
    controller = WindowController()
    now = 0.0
    controller.begin(now)
    for seconds, size, waiting in gaps:
        now += seconds
        assert controller.stored(now, size, waiting=waiting) >= MIN_WINDOW
        assert 0 <= controller.spacing(size) <= 5.0


@pytest.mark.anyio
async def test_chunks_begin_in_order_when_they_fit() -> None:
    """A small chunk does not overtake a large one, and a chunk beyond the window begins alone."""
    window = InFlightWindow(clock=lambda: 0.0)
    begun: list[int] = []

    async def begin(size: int) -> None:
        await window.acquire(size)
        begun.append(size)

    async with anyio.create_task_group() as tasks:
        await begin(MIN_WINDOW)
        for size in (2 * MIN_WINDOW, 1):
            tasks.start_soon(begin, size)
            await _settle()
        assert begun == [MIN_WINDOW]
        window.release(MIN_WINDOW, stored=False)
        await _settle()
        assert begun == [MIN_WINDOW, 2 * MIN_WINDOW]
        window.release(2 * MIN_WINDOW, stored=False)
    assert begun == [MIN_WINDOW, 2 * MIN_WINDOW, 1]
    assert window.in_use == 1


@pytest.mark.anyio
async def test_a_cancelled_chunk_gives_its_place_back() -> None:
    """Neither a waiting one nor one that was just let in keeps bytes of the window."""
    window = InFlightWindow(clock=lambda: 0.0)
    await window.acquire(MIN_WINDOW)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(window.acquire, MIN_WINDOW)
        await _settle()
        tasks.cancel_scope.cancel()
    window.release(MIN_WINDOW, stored=False)

    assert window.in_use == 0
    await window.acquire(1)
    assert window.in_use == 1


async def _settle() -> None:
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
