"""Two kinds of tools: Python scripts in an environment's interpreter, and other programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from perf.model import Command, RunSpec, Tool
from perf.run.environments import python_of

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
    has_output: bool = True,
) -> Tool:
    """Return a script of `clients/` as a tool. Its first argument is the run's JSON file.

    Args:
        name: of the tool.
        script: file name without its suffix.
        distribution: the Python distribution whose version is the tool's.
        environment: name of the virtual environment; None for this interpreter.
        environ: further environment variables; None removes one.
        arguments: further arguments of the script.
        has_output: see `Tool`.
    """
    find_python = partial(python_of, environment) if environment else _this_python

    def find() -> str | None:
        python = find_python()
        return _distribution_version(python, distribution) if python else None

    def command(spec: RunSpec) -> Command:
        python = find_python()
        assert python is not None, "called only if `find` returned a version"
        argv = (python, str(_CLIENTS / f"{script}.py"), str(spec.write()), *arguments)
        return Command(argv, {**spec.environ, **(environ or {})})

    return Tool(name, find, command, has_output=has_output)


def _this_python() -> str:
    return sys.executable


@cache
def _distribution_version(python: str, distribution: str) -> str | None:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def program(
    name: str,
    arguments: Callable[[RunSpec], Sequence[str]],
    *,
    version_word: int,
    install_hint: str,
    find: Callable[[], str | None] | None = None,
    version_argument: str = "--version",
    environ: Mapping[str, str | None] | None = None,
) -> Tool:
    """Return a program as a tool.

    Args:
        name: of the tool, and of the program on PATH.
        arguments: returns the program's arguments for a run.
        version_word: index of the version among the words that the program prints about it.
        install_hint: see `Tool`.
        find: returns the path of a program that is not on PATH, or None.
        version_argument: argument with which the program prints its version.
        environ: further environment variables; None removes one.
    """
    locate = find or partial(shutil.which, name)

    def version() -> str | None:
        path = locate()
        return _program_version(path, version_argument, version_word) if path else None

    def command(spec: RunSpec) -> Command:
        path = locate()
        assert path is not None, "called only if `find` returned a version"
        return Command((path, *arguments(spec)), {**spec.environ, **(environ or {})})

    return Tool(name, version, command, install_hint)


@cache
def _program_version(path: str, argument: str, word: int) -> str | None:
    found = subprocess.run([path, argument], capture_output=True, text=True, check=False)
    words = found.stdout.split()
    return words[word] if len(words) > word else None
