"""Elements of SVG charts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perf.report.svg import nice_ticks


@given(st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_reach_the_largest_value(largest: float, most: int) -> None:
    """An axis starts at 0, covers the largest value and has few ticks in ascending order."""
    ticks = nice_ticks(largest, most)

    assert ticks[0] == 0
    assert ticks[-1] >= largest * (1 - 1e-6)
    assert 2 <= len(ticks) <= most + 1
    assert ticks == sorted(ticks)
