"""Runs a soak: the lanes in threads, and the weather in this one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from perf.soak.lanes import KillingLane, Lane, WorkerLane
from perf.soak.plan import Weather, weather
from perf.soak.summary import Outcome, Summary
from perf.soak.testbed import SoakTestbed, open_testbed

__all__ = ("run_soak",)

_PROGRESS_SECONDS = 60.0


def run_soak(
    root: Path, *, minutes: float, seed: int, lanes: int, log: Callable[[str], object]
) -> dict[str, Any]:
    """Run a soak and return what it found, see `Summary.to_json`.

    Args:
        root: an empty directory for everything on disk.
        minutes: after which no further episode begins.
        seed: of everything random, except the timing.
        lanes: how many transfer at the same time; every other one kills its processes.
        log: prints one line.
    """
    summary = Summary(seed)
    lock = threading.Lock()
    stop = threading.Event()

    def record(outcome: Outcome) -> None:
        with lock:
            summary.outcomes.append(outcome)
            if outcome.problem is not None:
                log(f"problem: lane {outcome.lane}: {outcome.problem}")

    started = time.monotonic()
    with open_testbed(root, seed) as testbed, ThreadPoolExecutor(lanes) as pool:
        deadline = time.monotonic() + minutes * 60

        def is_over() -> bool:
            return stop.is_set() or time.monotonic() > deadline

        running: list[Lane] = [
            (KillingLane if number % 2 else WorkerLane)(number, testbed) for number in range(lanes)
        ]
        ended = [pool.submit(lane.run, seed, is_over, record) for lane in running]
        for future in ended:
            future.add_done_callback(lambda _: stop.set() if _all_done(ended) else None)
        try:
            _make_weather(testbed, seed, stop, summary, log)
        finally:
            stop.set()  # Ctrl-C, too, waits only for the episodes that are running
        for future in ended:
            future.result()
        faults = testbed.counts()
    return summary.to_json(faults, (time.monotonic() - started) / 60)


def _all_done(futures: list[Any]) -> bool:
    return all(future.done() for future in futures)


def _make_weather(
    testbed: SoakTestbed,
    seed: int,
    stop: threading.Event,
    summary: Summary,
    log: Callable[[str], object],
) -> None:
    """Change the condition of the lines until `stop` is set."""
    reported = time.monotonic()
    for each in weather(seed):
        _apply(testbed, each, stop)
        if stop.is_set():
            return
        if time.monotonic() - reported > _PROGRESS_SECONDS:
            reported = time.monotonic()
            kills = sum(outcome.kills for outcome in summary.outcomes)
            log(
                f"{len(summary.outcomes)} transfers, {kills} kills, "
                f"{len(summary.problems)} problems"
            )


def _apply(testbed: SoakTestbed, each: Weather, stop: threading.Event) -> None:
    testbed.conditions.bytes_per_second = each.bytes_per_second
    testbed.conditions.fault_rate = each.fault_rate
    stop.wait(each.seconds)
    if not each.outage or stop.is_set():
        return
    for relay in testbed.relays:
        relay.refuse()
    stop.wait(each.outage)
    for relay in testbed.relays:
        relay.accept()
