"""The tools of the Hub scenarios."""

from __future__ import annotations

import json
from functools import partial

from perf.model import LIMIT as LIMIT_NAME
from perf.model import OURS, RunSpec, Tool
from perf.tools.base import client, program

__all__ = (
    "ARIA2C",
    "CURL",
    "HFTRANSFER",
    "HFTRANSFER_HIT",
    "HUGGINGFACE_HUB",
    "HUGGINGFACE_HUB_HIT",
    "HUGGINGFACE_HUB_XET",
    "LIMIT",
    "VARIANTS",
    "hf_transfer",
)

_ours = partial(client, script="hftransfer_snapshot", distribution="hftransfer")
HFTRANSFER = _ours(OURS)
VARIANTS = (
    _ours("hftransfer-nosha", environ={"HFTRANSFER_VERIFY": "0"}),
    _ours("hftransfer-direct", environ={"HFTRANSFER_DIRECT_IO": "on"}),
    _ours("hftransfer-2loops", environ={"HFTRANSFER_LOOPS": "2"}),
    _ours("hftransfer-uvloop", arguments=("--uvloop",)),
    client("limit-stored", "limit", distribution="hftransfer", arguments=("--store",)),
)
"""hftransfer with one setting changed in each, and the limit that also hashes and writes."""

_hub = partial(client, script="hub_snapshot", distribution="huggingface_hub", environment="hub")
HUGGINGFACE_HUB = _hub("huggingface_hub", environ={"HF_HUB_DISABLE_XET": "1"})
HUGGINGFACE_HUB_XET = _hub("huggingface_hub-xet", environ={"HF_HUB_DISABLE_XET": None})


def hf_transfer(connections: int, chunk_mib: int) -> Tool:
    """Return hf_transfer with the given connections per file and chunk size in MiB.

    Each scenario uses the fastest setting of 4 to 128 connections and 4 to 32 MiB.
    huggingface_hub used 100 connections and 10 MB, which was the fastest nowhere.
    """
    return client(
        "hf_transfer",
        "hf_transfer_get",
        distribution="hf_transfer",
        environment="hf_transfer",
        environ={"HFT_MAX_FILES": str(connections), "HFT_CHUNK_MIB": str(chunk_mib)},
    )


LIMIT = client(LIMIT_NAME, "limit", distribution="hftransfer", has_output=False)

HFTRANSFER_HIT = client(OURS, "cache_hit", distribution="hftransfer", arguments=("hftransfer",))
HUGGINGFACE_HUB_HIT = client(
    "huggingface_hub",
    "cache_hit",
    distribution="huggingface_hub",
    environment="hub",
    arguments=("huggingface_hub",),
)


def _aria2c(spec: RunSpec) -> list[str]:
    """16 connections per file; 8 files at a time, or 16 if all are smaller than 1 MiB."""
    parameters = spec.parameters
    small = max(file["size"] for file in parameters["files"]) < 1 << 20
    urls = spec.workdir / "aria2.txt"
    urls.write_text("".join(f"{f['url']}\n  out={f['path']}\n" for f in parameters["files"]))
    argv = ["-i", str(urls), "-d", parameters["destination"], "--quiet=true", "--no-conf=true"]
    argv += ["-x16", "-s16", "-k1M", f"-j{16 if small else 8}", "--file-allocation=none"]
    if parameters["ca"]:
        argv.append(f"--ca-certificate={parameters['ca']}")
    return argv


def _curl(spec: RunSpec) -> list[str]:
    """16 files at a time; curl uses one connection for each file."""
    config = spec.workdir / "curl.txt"
    lines = ["fail", "location", "silent", "show-error", "parallel", "create-dirs"]
    lines.append("parallel-max = 16")
    for file in spec.parameters["files"]:
        output = f"{spec.parameters['destination']}/{file['path']}"
        lines += [f"url = {json.dumps(file['url'])}", f"output = {json.dumps(output)}"]
    config.write_text("\n".join(lines))
    return ["-q", "-K", str(config)]


ARIA2C = program("aria2c", _aria2c, version_word=2, install_hint="apt-get install aria2")
CURL = program("curl", _curl, version_word=1, install_hint="apt-get install curl")
