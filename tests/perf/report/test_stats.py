"""Order of the tools in a round, and ratios paired within a round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.report.stats import paired_ratio, rotated

times = st.dictionaries(
    st.integers(0, 20), st.floats(0.01, 1000, allow_nan=False), min_size=1, max_size=9
)


@given(st.lists(st.integers(), unique=True, max_size=8), st.integers(0, 30))
def test_a_round_has_every_tool_once(items: list[int], index: int) -> None:
    """Rotation changes only the order."""
    assert sorted(rotated(items, index)) == sorted(items)


@given(st.lists(st.integers(), unique=True, min_size=1, max_size=8))
def test_every_tool_is_first_in_one_round_of_a_cycle(items: list[int]) -> None:
    """In as many rounds as there are tools, each is the first one once."""
    assert [rotated(items, index)[0] for index in range(len(items))] == items


@given(times, st.floats(0.01, 100))
def test_a_constant_factor_is_the_ratio(ours: dict[int, float], factor: float) -> None:
    """The ratio does not depend on how the rounds differ from each other."""
    theirs = {index: seconds * factor for index, seconds in ours.items()}

    assert paired_ratio(ours, theirs) == pytest.approx(1 / factor)


@given(times, times)
def test_swapping_inverts_the_ratio_of_one_common_round(
    ours: dict[int, float], theirs: dict[int, float]
) -> None:
    """Only common rounds count; with exactly one, the ratio of the swapped tools is inverse."""
    common = ours.keys() & theirs.keys()
    ratio = paired_ratio(ours, theirs)

    assert (ratio is None) == (not common)
    if len(common) == 1 and ratio is not None:
        assert paired_ratio(theirs, ours) == pytest.approx(1 / ratio)


def test_one_slow_round_does_not_change_the_median() -> None:
    """A round in which one tool was disturbed does not affect the ratio."""
    assert paired_ratio({0: 1.0, 1: 9.0, 2: 1.0}, {0: 2.0, 1: 2.0, 2: 2.0}) == 0.5
