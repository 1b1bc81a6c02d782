"""What a scenario opens: servers with a payload, and one job after another against them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ("Job", "Place", "Setup", "World")


@dataclass(frozen=True)
class Place:
    """Where a world may put its files, how large it is to be, and whom it tells.

    Attributes:
        root: directory for all files; the payload in it is used again by a later world.
        scale: factor on sizes and counts.
        tell: shows one line to the operator.
        settings: what the command line adds, for example an S3 endpoint.
    """

    root: Path
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
