"""The lanes of a soak: each runs its episodes in a thread, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from perf.run.process import clean_environ
from perf.soak.plan import Episode, episodes
from perf.soak.summary import Outcome, Resources
from perf.soak.testbed import SoakTestbed

__all__ = ("KillingLane", "Lane", "WorkerLane")

# Far more than an episode takes, with every fault and outage in it.
_STUCK_SECONDS = 600.0
# Assumed duration of the first transfer of a lane, with the start of the process.
_FIRST_DURATION = 2.0


class Lane(Protocol):
    """Runs episodes, one after the other."""

    def run(
        self, seed: int, is_over: Callable[[], bool], record: Callable[[Outcome], object]
    ) -> None:
        """Run episodes until the soak is over.

        Args:
            seed: of the soak.
            is_over: called before each episode; no other follows if it returns True.
            record: called after each episode.
        """
        ...


class WorkerLane:
    """All episodes in one process with one client, which reports what it holds after each.

    Args:
        number: of the lane.
        testbed: where to transfer.
    """

    def __init__(self, number: int, testbed: SoakTestbed) -> None:
        self._number = number
        self._testbed = testbed

    def run(
        self, seed: int, is_over: Callable[[], bool], record: Callable[[Outcome], object]
    ) -> None:
        with self._start() as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            for episode in episodes(seed, self._number, kill=False):
                if is_over():
                    return
                record(self._run_episode(episode, worker, worker.stdin, worker.stdout))

    @contextmanager
    def _start(self) -> Iterator[subprocess.Popen[str]]:
        log = self._testbed.root / f"worker-{self._number}.log"
        with (
            log.open("w") as errors,
            subprocess.Popen(
                [sys.executable, "-m", "perf.soak.worker"],
                env=_environ(self._testbed),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as worker,
        ):
            try:
                yield worker
            finally:
                assert worker.stdin is not None
                worker.stdin.close()

    def _run_episode(
        self, episode: Episode, worker: subprocess.Popen[str], requests: IO[str], answers: IO[str]
    ) -> Outcome:
        destination = self._testbed.destination(episode, self._number)
        request = {"source": self._testbed.source(episode), "destination": destination}
        watchdog = threading.Timer(_STUCK_SECONDS, worker.kill)
        watchdog.start()
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            answer = answers.readline()
        finally:
            watchdog.cancel()
        outcome = Outcome(self._number, episode)
        if not answer:
            outcome.problem = "the worker was stuck or ended"
            return outcome
        result = json.loads(answer)
        outcome.problem = result.pop("error")
        outcome.resources = Resources(**result)
        return _checked(outcome, self._testbed, destination)


class KillingLane:
    """Each episode in one process or two, which are killed at random and started again.

    Args:
        number: of the lane.
        testbed: where to transfer.
    """

    def __init__(self, number: int, testbed: SoakTestbed) -> None:
        self._number = number
        self._testbed = testbed
        self._duration = _FIRST_DURATION

    def run(
        self, seed: int, is_over: Callable[[], bool], record: Callable[[Outcome], object]
    ) -> None:
        for episode in episodes(seed, self._number, kill=True):
            if is_over():
                return
            record(self._run_episode(episode))

    def _run_episode(self, episode: Episode) -> Outcome:
        destination = self._testbed.destination(episode, self._number)
        outcome = Outcome(self._number, episode)
        for share in episode.kills:
            outcome.kills += self._run_and_kill(episode, destination, share * self._duration)
        started = time.monotonic()
        outcome.problem = self._run_to_the_end(episode, destination)
        self._duration = (self._duration + time.monotonic() - started) / 2
        return _checked(outcome, self._testbed, destination)

    def _start(self, episode: Episode, destination: str) -> list[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "hftransfer", "cp", "--json"]
        command += [self._testbed.source(episode), destination]
        return [
            subprocess.Popen(
                command,
                env=_environ(self._testbed),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(1 + episode.pair)
        ]

    def _run_and_kill(self, episode: Episode, destination: str, seconds: float) -> int:
        """Kill the first process after `seconds`, the other at once after it; return the number."""
        killed = 0
        for process in self._start(episode, destination):
            with process:
                try:
                    process.wait(seconds)
                except subprocess.TimeoutExpired:
                    process.kill()
                    killed += 1
            seconds = 0
        return killed

    def _run_to_the_end(self, episode: Episode, destination: str) -> str | None:
        """Run the processes until they end by themselves; return what went wrong, or None."""
        problem = None
        for process in self._start(episode, destination):
            try:
                _, errors = process.communicate(timeout=_STUCK_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                _, errors = process.communicate()
                problem = f"stuck for {_STUCK_SECONDS:.0f} s: {errors[-2000:]}"
            else:
                if process.returncode:
                    problem = problem or f"exit code {process.returncode}: {errors[-2000:]}"
        return problem


def _environ(testbed: SoakTestbed) -> Mapping[str, str]:
    checkout = str(Path(__file__).parents[2])
    return clean_environ({**testbed.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", checkout)})


def _checked(outcome: Outcome, testbed: SoakTestbed, destination: str) -> Outcome:
    """Compare the result with its source; remove it unless something is wrong with it."""
    if outcome.problem is None:
        outcome.problem = testbed.find_error(outcome.episode, destination)
    if outcome.problem is None:
        testbed.remove(destination)
    return outcome
