"""The tools that can be measured: how to find each, and how to start it on a job."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from perf.documents import OURS
from perf.environments import python_of
from perf.process import Command
from perf.worlds import Job

__all__ = ("TOOLS", "Tool")

_CLIENTS = Path(__file__).with_name("clients")


@dataclass(frozen=True)
class Tool:
    """Something that does the job of a scenario.

    Attributes:
        name: as on the command line.
        find: returns its version, or None where it is not installed.
        command: returns what to start for a job.
        how_to_install: one line for who does not have it.
        stores: whether it leaves files that can be checked.
    """

    name: str
    find: Callable[[], str | None]
    command: Callable[[Job], Command]
    how_to_install: str = "python -m perf install"
    stores: bool = True


TOOLS: dict[str, Tool] = {}
"""Every tool by its name."""


def add(tool: Tool) -> None:
    """Make a tool known.

    Raises:
        ValueError: the name is taken.
    """
    if tool.name in TOOLS:
        raise ValueError(f"there is already a tool {tool.name!r}")
    TOOLS[tool.name] = tool


# --- Python clients: a script of clients/ in some environment's interpreter


def add_client(
    name: str,
    script: str,
    *,
    distribution: str,
    environment: str | None = None,
    environ: Mapping[str, str | None] | None = None,
    arguments: Sequence[str] = (),
    stores: bool = True,
) -> None:
    """Make a script of `clients/` known as a tool.

    Args:
        name: of the tool.
        script: file name without its suffix.
        distribution: whose version is the tool's.
        environment: where it is installed; None for this interpreter.
        environ: further variables.
        arguments: of the script, behind the job's file.
        stores: see `Tool`.
    """
    find_python = partial(python_of, environment) if environment else _this_python

    def find() -> str | None:
        python = find_python()
        return _distribution_version(python, distribution) if python else None

    def command(job: Job) -> Command:
        python = find_python()
        assert python is not None, "asked for only after `find`"
        argv = (python, str(_CLIENTS / f"{script}.py"), str(job.path), *arguments)
        return Command(argv, {**job.environ, **(environ or {})})

    add(Tool(name, find, command, stores=stores))


def _this_python() -> str:
    return sys.executable


@cache
def _distribution_version(python: str, distribution: str) -> str | None:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


_ours = partial(add_client, distribution="hftransfer")
_ours(OURS, "hftransfer_snapshot")
_ours("hftransfer-nosha", "hftransfer_snapshot", environ={"HFTRANSFER_VERIFY": "0"})
_ours("hftransfer-direct", "hftransfer_snapshot", environ={"HFTRANSFER_DIRECT_IO": "on"})
_ours("hftransfer-2loops", "hftransfer_snapshot", environ={"HFTRANSFER_LOOPS": "2"})
_ours("hftransfer-uvloop", "hftransfer_snapshot", arguments=("--uvloop",))
_hub = partial(add_client, distribution="huggingface_hub", environment="hub")
_hub("huggingface_hub", "hub_snapshot", environ={"HF_HUB_DISABLE_XET": "1"})
_hub("huggingface_hub-xet", "hub_snapshot", environ={"HF_HUB_DISABLE_XET": None})
add_client(
    "hf_transfer",
    "hf_transfer_get",
    distribution="hf_transfer",
    environment="hf_transfer",
    environ={"HFT_MAX_FILES": "16", "HFT_CHUNK_MIB": "8"},
)
add_client("limit", "limit", distribution="hftransfer", stores=False)


# --- programs


@dataclass(frozen=True)
class _Program:
    """A program found on PATH, whose version is a word of its first line of output."""

    name: str
    word: int
    build: Callable[[str, Job], tuple[str, ...]]
    environ: Mapping[str, str | None] = field(default_factory=dict)

    def find(self) -> str | None:
        path = shutil.which(self.name)
        return _program_version(path, self.word) if path else None

    def command(self, job: Job) -> Command:
        path = shutil.which(self.name)
        assert path is not None, "asked for only after `find`"
        return Command(self.build(path, job), {**job.environ, **self.environ})


@cache
def _program_version(path: str, word: int) -> str | None:
    found = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    words = found.stdout.split()
    return words[word] if len(words) > word else None


def _aria2c(path: str, job: Job) -> tuple[str, ...]:
    """Sixteen connections per file; eight files at once, or many if they are small."""
    values: Mapping[str, Any] = job.values
    small = max(file["size"] for file in values["files"]) < 1 << 20
    listed = job.scratch / "aria2.txt"
    listed.write_text("".join(f"{f['url']}\n  out={f['path']}\n" for f in values["files"]))
    argv = [path, "-i", str(listed), "-d", values["destination"], "--quiet=true"]
    argv += ["-x16", "-s16", "-k1M", f"-j{16 if small else 8}", "--file-allocation=none"]
    if values["ca"]:
        argv.append(f"--ca-certificate={values['ca']}")
    return (*argv, "--no-conf=true", "--auto-file-renaming=false", "--allow-overwrite=true")


def _curl(path: str, job: Job) -> tuple[str, ...]:
    """Return curl with every file at once; one connection for each file is all it can do."""
    listed = job.scratch / "curl.txt"
    lines = ["fail", "location", "silent", "show-error", "parallel", "create-dirs"]
    lines.append("parallel-max = 16")
    for file in job.values["files"]:
        output = f"{job.values['destination']}/{file['path']}"
        lines += [f"url = {json.dumps(file['url'])}", f"output = {json.dumps(output)}"]
    listed.write_text("\n".join(lines))
    return (path, "-q", "-K", str(listed))


_aria2 = _Program("aria2c", 2, _aria2c)
add(Tool("aria2c", _aria2.find, _aria2.command, "apt-get install aria2"))
_curl_program = _Program("curl", 1, _curl)
add(Tool("curl", _curl_program.find, _curl_program.command, "apt-get install curl"))
