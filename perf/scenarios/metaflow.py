"""The scenarios that run Metaflow flows, with hftransfer and with only metaflow-checkpoint."""

from __future__ import annotations

from perf.fixtures.metaflow import METAFLOW_CHECKPOINT, metaflow, missing_for_metaflow
from perf.model import OURS, Scenario
from perf.run.dataset import FileSpec
from perf.tools.base import client

__all__ = ("METAFLOW_SCENARIOS",)

_MIB = 1 << 20
_LARGE = (
    *(FileSpec(f"model-{i:05d}-of-00008.safetensors", 256 * _MIB) for i in range(1, 9)),
    FileSpec("config.json", 700, "text"),
    FileSpec("README.md", 12_000, "text"),
    FileSpec("tokenizer.json", 2_000_000, "text"),
    FileSpec("tokenizer_config.json", 1_500, "text"),
    FileSpec("vocab.txt", 230_000, "text"),
)
_SMALL = tuple(FileSpec(f"data/{i % 8}/part-{i:05d}.json", 50_000, "text") for i in range(500))

_TOOLS = (
    client(OURS, "mf_run", distribution="hftransfer"),
    client(
        METAFLOW_CHECKPOINT,
        "mf_run",
        distribution="metaflow-checkpoint",
        environment="metaflow",
    ),
)

METAFLOW_SCENARIOS = tuple(
    Scenario(
        name, summary, open_testbed, _TOOLS, timeout=300.0, missing_requirement=missing_for_metaflow
    )
    for name, summary, open_testbed in (
        (
            "mf-cold",
            "a step loads 2 GiB in 13 files, first from the Hub",
            metaflow(_LARGE, "load"),
        ),
        (
            "mf-cold-small",
            "a step loads 500 files of 50 KB, first from the Hub",
            metaflow(_SMALL, "load"),
        ),
        (
            "mf-warm",
            "a step loads 2 GiB in 13 files that the datastore has",
            metaflow(_LARGE, "load", filled=True),
        ),
        (
            "mf-warm-small",
            "a step loads 500 files of 50 KB that the datastore has",
            metaflow(_SMALL, "load", filled=True),
        ),
        (
            "mf-model-load",
            "@model loads 2 GiB in 13 files",
            metaflow(_LARGE, "model", filled=True),
        ),
        (
            "mf-model-load-small",
            "@model loads 500 files of 50 KB",
            metaflow(_SMALL, "model", filled=True),
        ),
        (
            "mf-checkpoint-save",
            "@checkpoint saves 2 GiB in 13 files",
            metaflow(_LARGE, "checkpoint"),
        ),
    )
)
