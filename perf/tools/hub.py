"""The tools of the Hub scenarios."""

from __future__ import annotations

import json
from functools import partial

from perf.model import Job, Tool
from perf.report.results import OURS
from perf.tools.base import client, program

_ours = partial(client, script="hftransfer_snapshot", distribution="hftransfer")
HFTRANSFER = _ours(OURS)
VARIANTS = (
    _ours("hftransfer-nosha", environ={"HFTRANSFER_VERIFY": "0"}),
    _ours("hftransfer-direct", environ={"HFTRANSFER_DIRECT_IO": "on"}),
    _ours("hftransfer-2loops", environ={"HFTRANSFER_LOOPS": "2"}),
    _ours("hftransfer-uvloop", arguments=("--uvloop",)),
    client("limit-stored", "limit", distribution="hftransfer", arguments=("--store",)),
)
"""Ours with one setting changed each, and the limit that hashes and stores."""

_hub = partial(client, script="hub_snapshot", distribution="huggingface_hub", environment="hub")
HUGGINGFACE_HUB = _hub("huggingface_hub", environ={"HF_HUB_DISABLE_XET": "1"})
HUGGINGFACE_HUB_XET = _hub("huggingface_hub-xet", environ={"HF_HUB_DISABLE_XET": None})


def hf_transfer(connections: int, chunk_mib: int) -> Tool:
    """Return hf_transfer with the setting that was fastest in a scenario.

    Tried were 4 to 128 connections for a file and chunks of 4 to 32 MiB; huggingface_hub
    had 100 connections and 10 MB, which was faster nowhere.
    """
    return client(
        "hf_transfer",
        "hf_transfer_get",
        distribution="hf_transfer",
        environment="hf_transfer",
        environ={"HFT_MAX_FILES": str(connections), "HFT_CHUNK_MIB": str(chunk_mib)},
    )


LIMIT = client("limit", "limit", distribution="hftransfer", stores=False)

HFTRANSFER_HIT = client(OURS, "warm_hit", distribution="hftransfer", arguments=("hftransfer",))
HUGGINGFACE_HUB_HIT = client(
    "huggingface_hub",
    "warm_hit",
    distribution="huggingface_hub",
    environment="hub",
    arguments=("huggingface_hub",),
)


def _aria2c(job: Job) -> list[str]:
    """Sixteen connections per file; eight files at once, or sixteen if they are small."""
    values = job.values
    small = max(file["size"] for file in values["files"]) < 1 << 20
    listed = job.scratch / "aria2.txt"
    listed.write_text("".join(f"{f['url']}\n  out={f['path']}\n" for f in values["files"]))
    argv = ["-i", str(listed), "-d", values["destination"], "--quiet=true", "--no-conf=true"]
    argv += ["-x16", "-s16", "-k1M", f"-j{16 if small else 8}", "--file-allocation=none"]
    if values["ca"]:
        argv.append(f"--ca-certificate={values['ca']}")
    return argv


def _curl(job: Job) -> list[str]:
    """Sixteen files at once; one connection for each file is all that curl can do."""
    listed = job.scratch / "curl.txt"
    lines = ["fail", "location", "silent", "show-error", "parallel", "create-dirs"]
    lines.append("parallel-max = 16")
    for file in job.values["files"]:
        output = f"{job.values['destination']}/{file['path']}"
        lines += [f"url = {json.dumps(file['url'])}", f"output = {json.dumps(output)}"]
    listed.write_text("\n".join(lines))
    return ["-q", "-K", str(listed)]


ARIA2C = program("aria2c", _aria2c, version_word=2, how_to_install="apt-get install aria2")
CURL = program("curl", _curl, version_word=1, how_to_install="apt-get install curl")
