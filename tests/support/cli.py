"""The command line in a process of its own, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hftransfer.testing import HubServer

__all__ = ("CHUNK", "DEADLINE", "cli_command", "cli_environ", "run_cli")

CHUNK = 64 * 1024
"""Bytes per chunk: the smallest allowed, so that small files have many."""
DEADLINE = 30.0
"""Seconds after which a process that hangs fails its test."""


def cli_environ(hub: HubServer | None = None) -> dict[str, str]:
    """Return this process's environment, with small chunks and, if given, `hub` as the Hub."""
    return {**os.environ, "HFTRANSFER_CHUNK_SIZE": str(CHUNK), **(hub.environ() if hub else {})}


def cli_command(*arguments: str | Path) -> list[str]:
    """Return the command that runs hftransfer with `arguments`."""
    return [sys.executable, "-m", "hftransfer", *map(str, arguments)]


def run_cli(
    *arguments: str | Path, hub: HubServer | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; a traceback on its standard error fails the test."""
    finished = subprocess.run(
        cli_command(*arguments),
        env=cli_environ(hub),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert "Traceback" not in finished.stderr, finished.stderr
    return finished
