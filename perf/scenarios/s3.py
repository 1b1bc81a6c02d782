"""The scenarios that transfer files from S3, to S3, and from the Hub to S3."""

from __future__ import annotations

from functools import partial

from perf.fixtures.s3 import Direction, hub_to_s3, missing_for_s3, s3
from perf.model import Scenario, Tool
from perf.run.dataset import FileSpec
from perf.tools.s3 import HUB_TO_S3_TOOLS, LIMIT_HASHED, LIMIT_STORED, S3_TOOLS, S3_VARIANTS

__all__ = ("S3_SCENARIOS",)

_MIB = 1 << 20
_LARGE = (FileSpec("model.safetensors", 2048 * _MIB),)
_SHARDS = tuple(FileSpec(f"shard-{i:02d}.bin", 100 * _MIB) for i in range(20))
_SMALL = tuple(FileSpec(f"part-{i:04d}.bin", 50_000) for i in range(2000))
_REPO = (
    *(FileSpec(f"model-{i:05d}-of-00004.safetensors", 256 * _MIB) for i in range(1, 5)),
    *(FileSpec(f"config-{i}.json", 2_000, "text") for i in range(8)),
    FileSpec("tokenizer.json", 9_000_000, "text"),
)
_VARIANTS: dict[Direction, tuple[Tool, ...]] = {
    "get": (*S3_VARIANTS, LIMIT_STORED),
    "put": (*S3_VARIANTS, LIMIT_HASHED),
}
_scenario = partial(Scenario, timeout=600.0, missing_requirement=missing_for_s3)

S3_SCENARIOS = (
    *(
        _scenario(
            f"s3-{direction}-{kind}", summary, s3(files, direction), S3_TOOLS, _VARIANTS[direction]
        )
        for direction in _VARIANTS
        for kind, summary, files in (
            ("large", "2 GiB in one object", _LARGE),
            ("shards", "20 objects of 100 MiB", _SHARDS),
            ("small", "2,000 objects of 50 KB", _SMALL),
        )
    ),
    _scenario("hub-to-s3", "2 GiB in one file, Hub to S3", hub_to_s3(_LARGE), HUB_TO_S3_TOOLS),
    _scenario("hub-to-s3-repo", "13 files, 1 GiB, Hub to S3", hub_to_s3(_REPO), HUB_TO_S3_TOOLS),
)
