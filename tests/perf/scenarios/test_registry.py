"""Names of scenarios and of groups."""

from __future__ import annotations

import pytest

from perf.scenarios.hub import HUB_SCENARIOS
from perf.scenarios.registry import GROUPS, SCENARIOS, resolve


def test_a_group_stands_for_its_scenarios() -> None:
    """Each scenario runs once, in the order of its first mention."""
    names = [scenario.name for scenario in resolve(["hub-rss", "hub-large", "hub-rss-8g"])]

    assert names == ["hub-rss-200m", "hub-rss-8g", "hub-large"]
    assert [s.name for s in resolve(["all"])][: len(HUB_SCENARIOS)] == [
        s.name for s in HUB_SCENARIOS
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_names_known_scenarios(group: str) -> None:
    """No group is empty or contains a name that does not exist."""
    assert GROUPS[group]
    assert set(GROUPS[group]) <= set(SCENARIOS)
