"""The frame: what a scenario, a world, a job and a tool are.

A family of scenarios adds a module of worlds, one of tools and one of scenarios, and a line to
`scenarios`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf.run.process import Command

__all__ = ("Job", "Place", "Scenario", "Setup", "Tool", "World")


@dataclass(frozen=True)
class Place:
    """Where a world may put its files, how large it is to be, and whom it tells.

    Attributes:
        root: directory of this world alone.
        payloads: directory of what `payload` makes, which other worlds may use too.
        scale: factor on sizes and counts.
        tell: shows one line to the operator.
        settings: of the operator's own store: ``bucket`` and ``endpoint_url``.
    """

    root: Path
    payloads: Path
    scale: float
    tell: Callable[[str], None]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run of one tool.

    Attributes:
        values: what clients read from their JSON file (`path`); the keys depend on the world.
        scratch: an empty directory for files of this run.
        environ: variables that every tool gets.
    """

    values: Mapping[str, Any]
    scratch: Path
    environ: Mapping[str, str | None]

    @property
    def facts(self) -> Path:
        """Where a client may leave what it measured itself, as JSON."""
        return self.scratch / "facts.json"

    @property
    def path(self) -> Path:
        """The JSON file of this job, for the scripts in `clients/`."""
        path = self.scratch / "job.json"
        path.write_text(json.dumps({**self.values, "facts": str(self.facts)}))
        return path


class World(ABC):
    """Running servers and their payload.

    Attributes:
        bytes: how many one job moves.
        files: how many one job moves.
    """

    bytes: int
    files: int

    @abstractmethod
    @contextmanager
    def job(self, tool: str) -> Iterator[Job]:
        """Make room for one run of a tool; what the run left is removed afterwards."""
        yield NotImplemented

    @abstractmethod
    def problem(self, job: Job) -> str | None:
        """Return what is wrong with the outcome of a job, or None."""

    @abstractmethod
    def requests(self) -> Mapping[str, int]:
        """Return how many requests each server has received so far."""


Setup = Callable[[Place], AbstractContextManager[World]]
"""Opens a world."""


@dataclass(frozen=True)
class Tool:
    """Something that does the jobs of one kind of world.

    Attributes:
        name: as on the command line; one tool may have other commands in other worlds.
        find: returns its version, or None where it is not installed.
        command: returns what to start for a job; called only if `find` found it.
        how_to_install: one line for who does not have it.
        stores: whether it leaves an outcome that can be checked.
    """

    name: str
    find: Callable[[], str | None]
    command: Callable[[Job], Command]
    how_to_install: str = "python -m perf install"
    stores: bool = True


@dataclass(frozen=True)
class Scenario:
    """Something to be measured.

    Attributes:
        name: as on the command line.
        summary: one line, with the sizes.
        open: opens its world.
        tools: those that run unless others are named; ours is called as `documents.OURS`.
        optional: further tools that suit it, run on request.
        timeout: seconds for one run.
        rehearse: run every tool once before, not measured.
        missing: returns what must be installed before it can run, or None.
    """

    name: str
    summary: str
    open: Setup
    tools: Sequence[Tool]
    optional: Sequence[Tool] = ()
    timeout: float = 300.0
    rehearse: bool = False
    missing: Callable[[], str | None] = lambda: None
