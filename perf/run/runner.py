"""Runs the tools of a scenario in turn and collects what they used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.model import Job, Place, Scenario, Tool, World
from perf.report.results import Document, Run, machine
from perf.report.stats import rotated
from perf.run.process import Usage, measure, tail

__all__ = ("choose_tools", "run_scenario")


def choose_tools(
    scenario: Scenario, wanted: Sequence[str], tell: Callable[[str], None]
) -> dict[Tool, str]:
    """Return the tools to run with their versions; tell of those that are not installed.

    Raises:
        ValueError: a wanted tool is unknown or does not suit the scenario, or none is left.
    """
    suited = {tool.name: tool for tool in (*scenario.tools, *scenario.optional)}
    for name in wanted:
        if name not in suited:
            raise ValueError(f"{scenario.name} has no tool {name!r}; it has {', '.join(suited)}")
    versions = {}
    for tool in [suited[name] for name in dict.fromkeys(wanted)] or scenario.tools:
        version = tool.find()
        if version is None:
            tell(f"{tool.name} is not installed and left out: {tool.how_to_install}")
        else:
            versions[tool] = version
    if not versions:
        raise ValueError(f"no tool of {scenario.name} is installed")
    return versions


def run_scenario(
    scenario: Scenario, versions: Mapping[Tool, str], place: Place, *, runs: int
) -> Document:
    """Open the world of a scenario and run every tool `runs` times, in turn."""
    place.tell(f"{scenario.name}: {scenario.summary}; preparing")
    results: list[Run] = []
    with scenario.open(place) as world:
        for index in range(-1 if scenario.rehearse else 0, runs):
            for tool in rotated(list(versions), index):
                result = _run_once(world, tool, versions[tool], index, scenario.timeout)
                if index >= 0:
                    results.append(result)
                    place.tell(f"{scenario.name} {index + 1}/{runs} {_line(result)}")
        return Document(
            scenario=scenario.name,
            summary=scenario.summary,
            bytes=world.bytes,
            files=world.files,
            runs=results,
            machine=machine(),
            scale=place.scale,
        )


def _run_once(world: World, tool: Tool, version: str, index: int, timeout: float) -> Run:
    with world.job(tool.name) as job:
        command = tool.command(job)
        os.sync()  # what the run before left to be written is not this one's burden
        before = world.requests()
        log = job.scratch / "output.log"
        usage = measure(command, cwd=job.scratch, log=log, timeout=timeout)
        after = world.requests()
        problem = _problem(world, tool, job, usage, log)
        facts = _facts(job)
    return Run(
        tool=tool.name,
        version=version,
        round=index,
        wall_s=round(usage.wall_s, 4),
        user_s=round(usage.user_s, 4),
        sys_s=round(usage.sys_s, 4),
        machine_s=round(usage.machine_s, 2),
        peak_rss_mb=round(usage.peak_rss_kb * 1024 / 1e6, 1),
        minflt=usage.minflt,
        majflt=usage.majflt,
        requests={host: after[host] - before.get(host, 0) for host in after},
        ok=problem is None,
        error=problem,
        timeline=facts.pop("timeline", ()),
        extra=facts,
    )


def _problem(world: World, tool: Tool, job: Job, usage: Usage, log: Path) -> str | None:
    if usage.timed_out:
        return f"ended after {usage.wall_s:.0f} s"
    if usage.status:
        return f"exit status {usage.status}: {tail(log)}"
    return world.problem(job) if tool.stores else None


def _facts(job: Job) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(job.facts.read_text())
    except FileNotFoundError:
        return {}
    return facts


def _line(run: Run) -> str:
    text = f"{run.tool}: {run.wall_s:.2f} s, CPU {run.cpu_s:.2f} s, {run.peak_rss_mb:.0f} MB"
    return text if run.ok else f"{text}: FAILED: {run.error}"
