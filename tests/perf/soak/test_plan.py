"""`perf.soak.plan`: a seed decides everything that happens."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.soak.plan import Direction, episodes, weather

SEEDS = st.integers(min_value=0, max_value=1 << 40)


@given(seed=SEEDS, lane=st.integers(min_value=0, max_value=9), kill=st.booleans())
def test_a_seed_and_a_lane_give_the_same_episodes(seed: int, lane: int, kill: bool) -> None:
    """So a soak that found something can be run again."""
    first = list(islice(episodes(seed, lane, kill=kill), 10))

    assert list(islice(episodes(seed, lane, kill=kill), 10)) == first
    assert [each.number for each in first] == list(range(10))


@given(seed=SEEDS)
def test_a_seed_gives_the_same_weather(seed: int) -> None:
    """Line rates, faults and outages."""
    assert list(islice(weather(seed), 10)) == list(islice(weather(seed), 10))


def test_every_kind_of_transfer_occurs() -> None:
    """All directions and all file sets, with and without kills, alone and in pairs."""
    found = list(islice(episodes(1, 0, kill=True), 300))

    assert {each.direction for each in found} == set(Direction)
    assert len({each.files.name for each in found}) == 3
    assert {bool(each.kills) for each in found} == {True, False}
    assert {each.pair for each in found} == {True, False}


@pytest.mark.parametrize("seed", range(3))
def test_a_lane_without_kills_has_none(seed: int) -> None:
    """Its process lives as long as the soak."""
    found = list(islice(episodes(seed, 0, kill=False), 100))

    assert not any(each.kills or each.pair for each in found)
