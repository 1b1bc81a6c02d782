"""The scenarios, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perf.documents import OURS
from perf.hub_world import hub
from perf.payload import FileSpec
from perf.worlds import Setup
from perf.xet_world import hub_with_xet, missing_for_xet

__all__ = ("GROUPS", "SCENARIOS", "Scenario", "resolve")

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Scenario:
    """Something to be measured.

    Attributes:
        name: as on the command line.
        summary: one line.
        open: opens its world.
        tools: those that run unless others are named.
        optional: further tools that suit it, run on request.
        timeout: seconds for one run.
        missing: returns what must be installed before it can run, or None.
    """

    name: str
    summary: str
    open: Setup
    tools: Sequence[str]
    optional: Sequence[str] = ()
    timeout: float = 300.0
    missing: Callable[[], str | None] = lambda: None


_VARIANTS = ("hftransfer-nosha", "hftransfer-direct", "hftransfer-2loops", "hftransfer-uvloop")
_HUB_PEERS = ("huggingface_hub", "hf_transfer", "aria2c", "curl", "limit")
_ONE_FILE = (FileSpec("model.safetensors", 2 * GIB),)
_SHARDS = tuple(FileSpec(f"model-{i:05d}-of-00008.safetensors", 256 * MIB) for i in range(1, 9))
_SMALL = tuple(FileSpec(f"data/part-{i:05d}.json", 50_000, "text") for i in range(3000))

_ALL = (
    Scenario(
        "hub-throttled",
        "2 GiB in one file, 50 MB/s per connection",
        hub(_ONE_FILE, bytes_per_second=50_000_000),
        (OURS, *_HUB_PEERS),
        _VARIANTS,
    ),
    Scenario("hub-large", "2 GiB in one file", hub(_ONE_FILE), (OURS, *_HUB_PEERS), _VARIANTS),
    Scenario(
        "hub-large-tls",
        "2 GiB in one file over TLS",
        hub(_ONE_FILE, tls=True),
        (OURS, *_HUB_PEERS),
        _VARIANTS,
    ),
    Scenario("hub-shards", "8 files of 256 MiB", hub(_SHARDS), (OURS, *_HUB_PEERS), _VARIANTS),
    Scenario(
        "hub-small",
        "3,000 files of 50 KB, none in LFS",
        hub(_SMALL, front=True),
        (OURS, "huggingface_hub", "aria2c", "curl", "limit"),
        ("hftransfer-nosha", "hftransfer-2loops", "hftransfer-uvloop"),
    ),
    Scenario(
        "hub-xet",
        "2 GiB in one file in Xet storage: huggingface_hub with hf_xet, as it is installed",
        hub_with_xet(_ONE_FILE),
        (OURS, "huggingface_hub-xet", "huggingface_hub", "limit"),
        (*_VARIANTS, "hf_transfer", "aria2c", "curl"),
        missing=missing_for_xet,
    ),
)

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
"""Every scenario by its name."""

GROUPS = {"hub": [name for name in SCENARIOS if name.startswith("hub-")]}
"""Names for several scenarios."""


def resolve(names: Sequence[str]) -> list[Scenario]:
    """Return the scenarios that names of scenarios and groups stand for, each once.

    Raises:
        ValueError: a name is unknown; the message lists those that are not.
    """
    found: dict[str, Scenario] = {}
    for name in names:
        if name not in SCENARIOS and name not in GROUPS:
            known = ", ".join([*SCENARIOS, *GROUPS])
            raise ValueError(f"there is no scenario {name!r}; there are {known}")
        found |= {each: SCENARIOS[each] for each in GROUPS.get(name, [name])}
    return list(found.values())
