"""The terms of the benchmark: command, run, tool, testbed, workspace and scenario.

To add a family of scenarios, add a testbed to `fixtures`, its tools to `tools`, its rows to
`scenarios` and one line to `scenarios.registry`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = (
    "LIMIT",
    "OURS",
    "Command",
    "RunSpec",
    "Scenario",
    "Testbed",
    "TestbedFactory",
    "Tool",
    "Workspace",
    "is_limit",
)

OURS = "hftransfer"
"""Name of the tool that the others are compared with."""
LIMIT = "limit"
"""Name of the tool that only receives or sends bytes: a bound on speed, not a peer."""


def is_limit(tool: str) -> bool:
    """Return whether a tool is `LIMIT` or one of its variants, named ``limit-…``."""
    return tool.partition("-")[0] == LIMIT


@dataclass(frozen=True)
class Command:
    """A program to start.

    Attributes:
        argv: arguments; the first is the absolute path of the program.
        environ: changes to the environment. None removes a variable.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSpec:
    """What one run of one tool is to do.

    Attributes:
        parameters: what the scripts in `clients/` read from JSON; the keys depend on the testbed.
        workdir: an empty directory for the files of this run.
        environ: environment variables for every tool. None removes a variable.
    """

    parameters: Mapping[str, Any]
    workdir: Path
    environ: Mapping[str, str | None]

    @property
    def metrics_path(self) -> Path:
        """File in which a client may store its own measurements, as one JSON object."""
        return self.workdir / "metrics.json"

    def write(self) -> Path:
        """Write the parameters and ``metrics_path`` to a JSON file and return its path."""
        path = self.workdir / "spec.json"
        path.write_text(json.dumps({**self.parameters, "metrics_path": str(self.metrics_path)}))
        return path


@dataclass(frozen=True)
class Workspace:
    """Directories, scale and settings of one testbed.

    Attributes:
        root: directory of this testbed only.
        datasets: directory of generated data sets, shared by all testbeds.
        scale: factor on sizes, or on the number of files where there are many.
        log: prints one line of progress.
        settings: ``bucket`` and ``endpoint_url`` of an existing S3 store, if one is to be used.
    """

    root: Path
    datasets: Path
    scale: float
    log: Callable[[str], None]
    settings: Mapping[str, str] = field(default_factory=dict)


class Testbed(ABC):
    """Running servers and the data set that they serve.

    Attributes:
        bytes: number of bytes that one run transfers.
        files: number of files that one run transfers.
        notes: what a reader of the results must know about the servers.
    """

    __test__ = False  # pytest would collect it, because of its name
    bytes: int
    files: int
    notes: Sequence[str] = ()

    @abstractmethod
    @contextmanager
    def prepare_run(self, tool: str) -> Iterator[RunSpec]:
        """Prepare one run of a tool; on exit, remove what the run wrote."""
        yield NotImplemented

    @abstractmethod
    def find_error(self, spec: RunSpec) -> str | None:
        """Compare the output of a run with the data set; return the first error, or None."""

    @abstractmethod
    def requests(self) -> Mapping[str, int]:
        """Return the number of requests that each server has received so far."""


TestbedFactory = Callable[[Workspace], AbstractContextManager[Testbed]]
"""Starts the servers of a testbed, and stops them when the context exits."""


@dataclass(frozen=True)
class Tool:
    """A program that can be measured on one kind of testbed.

    Attributes:
        name: name on the command line. The same name may stand for another command on another
            kind of testbed.
        find: returns the installed version, or None.
        command: returns the command for a run; called only if `find` returned a version.
        install_hint: one line on how to install it.
        has_output: whether it leaves files or objects that can be compared with the data set.
    """

    name: str
    find: Callable[[], str | None]
    command: Callable[[RunSpec], Command]
    install_hint: str = "python -m perf install"
    has_output: bool = True


@dataclass(frozen=True)
class Scenario:
    """A measurement: one testbed and the tools that run on it.

    Attributes:
        name: name on the command line.
        summary: one line, with sizes.
        open_testbed: starts the testbed.
        tools: tools that run by default; hftransfer has the name `OURS`.
        optional: further tools, which run if the command line names them.
        timeout: seconds after which one run is ended.
        warm_up: run every tool once before the measured rounds.
        missing_requirement: returns what must be installed before the scenario can run, or None.
    """

    name: str
    summary: str
    open_testbed: TestbedFactory
    tools: Sequence[Tool]
    optional: Sequence[Tool] = ()
    timeout: float = 300.0
    warm_up: bool = False
    missing_requirement: Callable[[], str | None] = lambda: None
