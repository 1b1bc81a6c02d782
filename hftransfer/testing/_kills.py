"""Processes that are killed at random moments, and started again until they succeed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ("KillLoop", "KillOutcome", "copy_command")

# Seconds after which a process that is not to be killed counts as stuck.
_TIMEOUT = 300.0


def copy_command(source: str, destination: str, *options: str) -> list[str]:
    """Return the command line of ``hftransfer cp`` in this interpreter, with a JSON report."""
    return [sys.executable, "-m", "hftransfer", "cp", source, destination, "--json", *options]


@dataclass
class KillOutcome:
    """What happened in `KillLoop.run`."""

    kills: int = 0
    """Processes that were killed with SIGKILL while they ran."""
    runs: int = 0
    """Processes that were started."""
    reports: list[str] = field(default_factory=list)
    """Standard output of the processes that were left to end."""
    costs: list[int] = field(default_factory=list)
    """What `measure` returned after each kill."""


class KillLoop:
    """Starts a command, kills it (SIGKILL) after a random time, and starts it again.

    Args:
        command: the command line.
        environ: variables in addition to those of this process.
        seed: of the random moments.
        after: shortest and longest seconds from the start of a process to its kill.
        processes: how many of the command run side by side, of which one is killed at a time.
            Default 1.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        seed: int,
        after: tuple[float, float],
        processes: int = 1,
    ) -> None:
        self._command = list(command)
        self._environ = {**os.environ, **environ}
        self._random = random.Random(seed)
        self._after = after
        self._count = processes

    def run(self, kills: int, measure: Callable[[], int] | None = None) -> KillOutcome:
        """Kill up to `kills` times; then let the processes end.

        A process that ends before its moment is not started again, and is no kill.

        Args:
            kills: most processes to kill.
            measure: called after each kill, when the process is gone; its result is kept.

        Raises:
            AssertionError: if a process that was not killed fails; the message has its output.
            subprocess.TimeoutExpired: if it does not end within 5 minutes.
        """
        outcome = KillOutcome()
        running = [self._start(outcome) for _ in range(self._count)]
        try:
            while outcome.kills < kills and running:
                victim = self._random.choice(running)
                try:
                    self._finish(victim, outcome, timeout=self._random.uniform(*self._after))
                    running.remove(victim)
                    continue
                except subprocess.TimeoutExpired:
                    victim.send_signal(signal.SIGKILL)
                    victim.communicate()
                outcome.kills += 1
                if measure is not None:
                    outcome.costs.append(measure())
                running[running.index(victim)] = self._start(outcome)
            for process in running:
                self._finish(process, outcome, timeout=_TIMEOUT)
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.communicate()
        return outcome

    def _start(self, outcome: KillOutcome) -> subprocess.Popen[bytes]:
        outcome.runs += 1
        return subprocess.Popen(
            self._command, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    @staticmethod
    def _finish(process: subprocess.Popen[bytes], outcome: KillOutcome, *, timeout: float) -> None:
        out, err = process.communicate(timeout=timeout)
        if process.returncode != 0:
            raise AssertionError(
                f"exit status {process.returncode} of {process.args!r}: "
                f"{err.decode(errors='replace')}"
            )
        outcome.reports.append(out.decode())
