"""Pairs, ratios and the order of runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.report.stats import paired_ratio, rotated
from perf.report.svg import nice_ticks

times = st.dictionaries(
    st.integers(0, 20), st.floats(0.01, 1000, allow_nan=False), min_size=1, max_size=9
)


@given(st.lists(st.integers(), unique=True, max_size=8), st.integers(0, 30))
def test_a_round_has_every_tool_once(items: list[int], index: int) -> None:
    """Rotation changes the order alone."""
    assert sorted(rotated(items, index)) == sorted(items)


@given(st.lists(st.integers(), unique=True, min_size=1, max_size=8))
def test_every_tool_begins_one_round_of_a_cycle(items: list[int]) -> None:
    """No tool always runs behind the same other one's mess, or always first."""
    assert [rotated(items, index)[0] for index in range(len(items))] == items


@given(times, st.floats(0.01, 100))
def test_a_constant_factor_is_the_ratio(ours: dict[int, float], factor: float) -> None:
    """However the rounds differ, the ratio within them is what counts."""
    theirs = {index: seconds * factor for index, seconds in ours.items()}

    assert paired_ratio(ours, theirs) == pytest.approx(1 / factor)


@given(times, times)
def test_swapping_inverts_where_one_round_is_common(
    ours: dict[int, float], theirs: dict[int, float]
) -> None:
    """Only rounds that both finished count; with one of them the ratio inverts exactly."""
    common = ours.keys() & theirs.keys()
    ratio = paired_ratio(ours, theirs)

    assert (ratio is None) == (not common)
    if len(common) == 1 and ratio is not None:
        assert paired_ratio(theirs, ours) == pytest.approx(1 / ratio)


def test_a_slow_round_does_not_count_twice() -> None:
    """The median over rounds ignores the one that the machine spoilt for one tool."""
    assert paired_ratio({0: 1.0, 1: 9.0, 2: 1.0}, {0: 2.0, 1: 2.0, 2: 2.0}) == 0.5


@given(st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_reach_the_largest_value(largest: float, most: int) -> None:
    """An axis begins at 0, covers everything, and has few ticks of equal distance."""
    ticks = nice_ticks(largest, most)

    assert ticks[0] == 0
    assert ticks[-1] >= largest * (1 - 1e-6)
    assert 2 <= len(ticks) <= most + 1
    assert ticks == sorted(ticks)
