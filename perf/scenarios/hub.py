"""The scenarios that download from the Hub."""

from __future__ import annotations

from importlib.util import find_spec

from perf.fixtures.hub import hub
from perf.fixtures.xet import hub_with_xet, missing_for_xet
from perf.model import Scenario, Tool
from perf.run.dataset import FileSpec
from perf.tools.hub import (
    ARIA2C,
    CURL,
    HFTRANSFER,
    HFTRANSFER_HIT,
    HUGGINGFACE_HUB,
    HUGGINGFACE_HUB_HIT,
    HUGGINGFACE_HUB_XET,
    LIMIT,
    VARIANTS,
    hf_transfer,
)

__all__ = ("HUB_SCENARIOS",)

_MIB = 1 << 20
_GIB = 1 << 30
_ONE_FILE = (FileSpec("model.safetensors", 2 * _GIB),)
_SHARDS = tuple(FileSpec(f"model-{i:05d}-of-00008.safetensors", 256 * _MIB) for i in range(1, 9))
_SMALL = tuple(FileSpec(f"data/part-{i:05d}.json", 50_000, "text") for i in range(3000))


def _tools(connections: int = 16, chunk_mib: int = 8) -> tuple[Tool, ...]:
    """Return every tool, with the fastest setting of hf_transfer in the scenario."""
    return (
        HFTRANSFER,
        HUGGINGFACE_HUB,
        hf_transfer(connections, chunk_mib),
        ARIA2C,
        CURL,
        LIMIT,
    )


def _missing_for_tls() -> str | None:
    return None if find_spec("trustme") else "trustme: pip install --group perf"


HUB_SCENARIOS = (
    Scenario(
        "hub-throttled",
        "2 GiB in one file, 50 MB/s per connection",
        hub(_ONE_FILE, bytes_per_second=50_000_000, connections=64),
        _tools(64, 4),
        VARIANTS,
    ),
    Scenario("hub-large", "2 GiB in one file", hub(_ONE_FILE), _tools(), VARIANTS),
    Scenario(
        "hub-large-tls",
        "2 GiB in one file over TLS",
        hub(_ONE_FILE, tls=True),
        _tools(16, 4),
        VARIANTS,
        missing_requirement=_missing_for_tls,
    ),
    Scenario("hub-shards", "8 files of 256 MiB", hub(_SHARDS), _tools(8, 8), VARIANTS),
    Scenario(
        "hub-small",
        "3,000 files of 50 KB, none in LFS",
        hub(_SMALL, proxy=True),
        # Without hf_transfer: it downloads one file in parallel parts, which small files lack.
        (HFTRANSFER, HUGGINGFACE_HUB, ARIA2C, CURL, LIMIT),
        VARIANTS,
    ),
    Scenario(
        "hub-xet",
        "2 GiB in one file in Xet storage",
        hub_with_xet(_ONE_FILE),
        (HFTRANSFER, HUGGINGFACE_HUB_XET, HUGGINGFACE_HUB, LIMIT),
        (hf_transfer(16, 8), ARIA2C, CURL, *VARIANTS),
        missing_requirement=missing_for_xet,
    ),
    Scenario(
        "hub-rss-200m",
        "200 MB in one file; for the peak memory",
        hub((FileSpec("model.safetensors", 200_000_000),)),
        (HFTRANSFER,),
        (*_tools()[1:], *VARIANTS),
    ),
    Scenario(
        "hub-rss-8g",
        "8 GB in one file, sparse on the server; for the peak memory",
        hub((FileSpec("model.safetensors", 8_000_000_000, "sparse"),)),
        (HFTRANSFER,),
        (*_tools()[1:], *VARIANTS),
        timeout=900.0,
    ),
    Scenario(
        "fixed-cost",
        "import, and 20 small files of a pinned commit that are in the cache",
        hub(_SMALL[:20], cached=True),
        (HFTRANSFER_HIT, HUGGINGFACE_HUB_HIT),
        warm_up=True,
    ),
)
