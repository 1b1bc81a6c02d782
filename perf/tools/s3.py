"""The tools of the S3 scenarios."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from perf.model import Job, Tool
from perf.report.results import OURS
from perf.run.environments import python_of
from perf.run.process import Command
from perf.tools.base import client, program

__all__ = ("HUB_TO_S3_TOOLS", "LIMIT_HASHED", "LIMIT_STORED", "S3_TOOLS", "S3_VARIANTS")


def _ours(
    name: str,
    arguments: Callable[[Job], Sequence[str]],
    environ: Mapping[str, str] | None = None,
    *,
    stores: bool = True,
) -> Tool:
    def command(job: Job) -> Command:
        argv = (sys.executable, "-m", "hftransfer", "cp", "--json", *arguments(job))
        return Command(argv, {**job.environ, **(environ or {})})

    return Tool(name, lambda: version("hftransfer"), command, stores=stores)


def _url(job: Job) -> str:
    return f"s3://{job.values['bucket']}/{job.values['prefix']}"


def _is_get(job: Job) -> bool:
    return bool(job.values["folder"].startswith(job.values["scratch"]))


def _there(job: Job) -> list[str]:
    """Source and destination, for our own command line."""
    ends = [_url(job), job.values["folder"]]
    return ends if _is_get(job) else ends[::-1]


HFTRANSFER = _ours(OURS, _there)
S3_VARIANTS = (
    _ours("hftransfer-noverify", _there, {"HFTRANSFER_VERIFY": "0"}),
    _ours("hftransfer-direct", _there, {"HFTRANSFER_DIRECT_IO": "on"}),
    _ours("hftransfer-2loops", _there, {"HFTRANSFER_LOOPS": "2"}),
)
"""Ours with one setting changed each."""
LIMIT_STORED = client("limit-stored", "s3_limit", distribution="hftransfer", arguments=("--store",))
"""The limit that hashes and stores; for downloads."""
LIMIT_HASHED = client(
    "limit-hashed", "s3_limit", distribution="hftransfer", arguments=("--hash",), stores=False
)
"""The limit that reads and hashes; for uploads."""


def _s5cmd(job: Job) -> list[str]:
    argv = ["--log", "error"]
    if job.values["endpoint"]:
        argv += ["--endpoint-url", job.values["endpoint"]]
    if _is_get(job):
        return [*argv, "cp", f"{_url(job)}*", f"{job.values['folder']}/"]
    return [*argv, "cp", f"{job.values['folder']}/", _url(job)]


def _rclone(job: Job) -> list[str]:
    remote = ":s3,provider=Other,env_auth=true"
    if job.values["endpoint"]:
        remote += f',endpoint="{job.values["endpoint"]}"'
    ends = [f"{remote}:{job.values['bucket']}/{job.values['prefix']}", job.values["folder"]]
    many = len(job.values["files"]) > 100
    argv = ["--config", os.devnull, "--transfers", "32" if many else "8"]
    return ["copy", *argv, *(ends if _is_get(job) else ends[::-1])]


def _in_environment(command: str) -> str | None:
    python = python_of("s3")
    found = Path(python).with_name(command) if python else None
    return str(found) if found is not None and found.exists() else None


_installed = partial(program, how_to_install="python -m perf install")
S5CMD = _installed(
    "s5cmd",
    _s5cmd,
    version_word=0,
    version_argument="version",
    find=partial(_in_environment, "s5cmd"),
)
RCLONE = _installed("rclone", _rclone, version_word=1, find=partial(_in_environment, "rclone"))

_peer = partial(client, environment="s3")
OBSTORE = _peer("obstore", "s3_obstore", distribution="obstore")
AWSCRT = _peer("aws-crt", "s3_awscrt", distribution="awscrt")
BOTO3 = _peer("boto3", "s3_boto3", distribution="boto3")
AIOBOTOCORE = _peer("aiobotocore", "s3_aiobotocore", distribution="aiobotocore")
METAFLOW = _peer("metaflow", "s3_metaflow", distribution="metaflow")
LIMIT = client("limit", "s3_limit", distribution="hftransfer", stores=False)

S3_TOOLS = (HFTRANSFER, S5CMD, AWSCRT, OBSTORE, BOTO3, RCLONE, AIOBOTOCORE, METAFLOW, LIMIT)


def _repository(job: Job) -> str:
    return f"hf://{job.values['hub']['repo_id']}@{job.values['hub']['revision']}"


HUB_TO_S3_TOOLS = (
    _ours(OURS, lambda job: [_repository(job), _url(job)]),
    # The two halves alone, for what going through memory costs above the slower of them.
    _ours(
        "half-download",
        lambda job: [_repository(job), str(job.scratch / "half")],
        stores=False,
    ),
    _ours("half-upload", _there),
    _peer("hub-then-boto3", "hub_then_boto3", distribution="boto3"),
)
