"""Makes tools: Python clients in some environment's interpreter, and programs found on PATH."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from perf.model import Job, Tool
from perf.run.environments import python_of
from perf.run.process import Command

__all__ = ("client", "program")

_CLIENTS = Path(__file__).parents[1] / "clients"


def client(
    name: str,
    script: str,
    *,
    distribution: str,
    environment: str | None = None,
    environ: Mapping[str, str | None] | None = None,
    arguments: Sequence[str] = (),
    stores: bool = True,
) -> Tool:
    """Return a script of `clients/` as a tool; it gets the job's JSON file as first argument.

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

    return Tool(name, find, command, stores=stores)


def _this_python() -> str:
    return sys.executable


@cache
def _distribution_version(python: str, distribution: str) -> str | None:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def program(
    name: str,
    arguments: Callable[[Job], Sequence[str]],
    *,
    version_word: int,
    how_to_install: str,
    find: Callable[[], str | None] | None = None,
    version_argument: str = "--version",
    environ: Mapping[str, str | None] | None = None,
) -> Tool:
    """Return a program as a tool.

    Args:
        name: of the tool, and of the program on PATH.
        arguments: returns the command line behind the program for a job.
        version_word: which word of what it says of its version is the version.
        how_to_install: see `Tool`.
        find: returns the program's path where it is not on PATH.
        version_argument: makes it tell its version.
        environ: further variables.
    """
    locate = find or partial(shutil.which, name)

    def version() -> str | None:
        path = locate()
        return _program_version(path, version_argument, version_word) if path else None

    def command(job: Job) -> Command:
        path = locate()
        assert path is not None, "asked for only after `find`"
        return Command((path, *arguments(job)), {**job.environ, **(environ or {})})

    return Tool(name, version, command, how_to_install)


@cache
def _program_version(path: str, argument: str, word: int) -> str | None:
    found = subprocess.run([path, argument], capture_output=True, text=True, check=False)
    words = found.stdout.split()
    return words[word] if len(words) > word else None
