"""All scenarios by name, and names for groups of them."""

from __future__ import annotations

from collections.abc import Sequence

from perf.model import Scenario
from perf.scenarios.hub import HUB_SCENARIOS
from perf.scenarios.metaflow import METAFLOW_SCENARIOS
from perf.scenarios.s3 import S3_SCENARIOS

__all__ = ("GROUPS", "SCENARIOS", "resolve")

SCENARIOS = {
    scenario.name: scenario for scenario in (*HUB_SCENARIOS, *S3_SCENARIOS, *METAFLOW_SCENARIOS)
}
"""The scenarios by name."""

GROUPS = {
    "hub": [s.name for s in HUB_SCENARIOS if s.name.startswith("hub-") and "-rss-" not in s.name],
    "hub-rss": ["hub-rss-200m", "hub-rss-8g"],
    "s3": [scenario.name for scenario in S3_SCENARIOS],
    "s3-get": ["s3-get-large", "s3-get-shards", "s3-get-small"],
    "s3-put": ["s3-put-large", "s3-put-shards", "s3-put-small"],
    "mf": [scenario.name for scenario in METAFLOW_SCENARIOS],
    "all": list(SCENARIOS),
}
"""Names of scenarios by the name of their group."""


def resolve(names: Sequence[str]) -> list[Scenario]:
    """Return the scenarios that the given names of scenarios and groups stand for, each once.

    Raises:
        ValueError: a name is unknown; the message lists the known ones.
    """
    found: dict[str, Scenario] = {}
    for name in names:
        if name not in SCENARIOS and name not in GROUPS:
            known = ", ".join([*SCENARIOS, *GROUPS])
            raise ValueError(f"there is no scenario {name!r}; there are {known}")
        found |= {each: SCENARIOS[each] for each in GROUPS.get(name, [name])}
    return list(found.values())
