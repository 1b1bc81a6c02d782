"""Throughput in windows of equal length."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("metaflow.decorators")

from hypothesis import given
from hypothesis import strategies as st

from metaflow_extensions.hftransfer.plugins.engine.throughput import ThroughputWindows

pytestmark = pytest.mark.metaflow

arrivals = st.lists(
    st.tuples(st.floats(0, 5000), st.integers(0, 10**9)), min_size=1, max_size=50
).map(sorted)


@given(arrivals, st.floats(0.01, 100))
def test_the_windows_are_without_gaps_and_have_all_bytes(
    arrivals: list[tuple[float, int]], rest: float
) -> None:
    """From the start to the end, at most 241 of them, however long the transfer takes."""
    windows = ThroughputWindows()
    for seconds, size in arrivals:
        windows.add(seconds, size)
    end = arrivals[-1][0] + rest

    rates = windows.rates(end)

    assert rates[0].start == 0
    assert rates[-1].end == end
    assert all(a.end == b.start for a, b in pairwise(rates))
    total = sum((rate.end - rate.start) * rate.bytes_per_second for rate in rates)
    assert total == pytest.approx(sum(size for _, size in arrivals), abs=1e-3)


@given(st.floats(0.0001, 0.2))
def test_a_burst_at_the_end_is_no_spike(late: float) -> None:
    """Bytes of a last window that has just begun count with the window before it."""
    windows = ThroughputWindows()
    for tenth in range(100):
        windows.add(tenth / 10, 1_000_000)
    windows.add(10 + late / 2, 1_000_000)

    assert max(rate.bytes_per_second for rate in windows.rates(10 + late)) < 2 * 12_000_000


def test_long_transfers_have_wider_windows_and_pauses_are_zero() -> None:
    """At most 240 windows are kept."""
    windows = ThroughputWindows()
    for second in range(1000):
        if not 400 <= second < 600:
            windows.add(float(second), 1000)

    rates = windows.rates(1000.0)

    assert len(rates) <= 241
    assert {rate.bytes_per_second for rate in rates if rate.start >= 404 and rate.end <= 596} == {0}


def test_bytes_that_are_taken_back_give_no_negative_rate() -> None:
    """A file that is transferred again counts again."""
    windows = ThroughputWindows()
    windows.add(0.1, -500)

    assert [rate.bytes_per_second for rate in windows.rates(1.0)] == [0, 0, 0, 0]
