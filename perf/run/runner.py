"""Runs the tools of a scenario in turn and collects their resource usage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.model import RunSpec, Scenario, Testbed, Tool, Workspace
from perf.report.results import Run, ScenarioResult, describe_machine
from perf.report.stats import rotated
from perf.run.process import Usage, measure, tail

__all__ = ("run_scenario", "select_tools")


def select_tools(
    scenario: Scenario, names: Sequence[str], log: Callable[[str], None]
) -> dict[Tool, str]:
    """Return the tools to run, with their versions; log those that are not installed.

    Args:
        scenario: whose tools.
        names: of the tools; empty for the default ones.
        log: prints one line.

    Raises:
        ValueError: the scenario has no tool of that name, or none is installed.
    """
    known = {tool.name: tool for tool in (*scenario.tools, *scenario.optional)}
    for name in names:
        if name not in known:
            raise ValueError(f"{scenario.name} has no tool {name!r}; it has {', '.join(known)}")
    versions = {}
    for tool in [known[name] for name in dict.fromkeys(names)] or scenario.tools:
        version = tool.find()
        if version is None:
            log(f"{tool.name} is skipped: it is not installed ({tool.install_hint})")
        else:
            versions[tool] = version
    if not versions:
        raise ValueError(f"no tool of {scenario.name} is installed")
    return versions


def run_scenario(
    scenario: Scenario, versions: Mapping[Tool, str], workspace: Workspace, *, runs: int
) -> ScenarioResult:
    """Start the testbed of a scenario and run every tool once in each of `runs` rounds.

    Each round starts with another tool, so that no tool always runs after the same one.
    """
    workspace.log(f"{scenario.name}: {scenario.summary}; preparing")
    finished: list[Run] = []
    with scenario.open_testbed(workspace) as testbed:
        for index in range(-1 if scenario.warm_up else 0, runs):
            for tool in rotated(list(versions), index):
                run = _run_once(testbed, tool, versions[tool], index, scenario.timeout)
                if index >= 0:
                    finished.append(run)
                    workspace.log(f"{scenario.name} {index + 1}/{runs} {_line(run)}")
        return ScenarioResult(
            scenario=scenario.name,
            summary=scenario.summary,
            bytes=testbed.bytes,
            files=testbed.files,
            runs=finished,
            machine=describe_machine(),
            scale=workspace.scale,
            notes=testbed.notes,
        )


def _run_once(testbed: Testbed, tool: Tool, version: str, index: int, timeout: float) -> Run:
    with testbed.prepare_run(tool.name) as spec:
        command = tool.command(spec)
        os.sync()  # the kernel must not write back the data of the previous run during this one
        before = testbed.requests()
        output = spec.workdir / "output.log"
        usage = measure(command, cwd=spec.workdir, log=output, timeout=timeout)
        after = testbed.requests()
        error = _find_error(testbed, tool, spec, usage, output)
        metrics = _read_metrics(spec)
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
        ok=error is None,
        error=error,
        timeline=metrics.pop("timeline", ()),
        extra=metrics,
    )


def _find_error(
    testbed: Testbed, tool: Tool, spec: RunSpec, usage: Usage, output: Path
) -> str | None:
    if usage.timed_out:
        return f"timed out after {usage.wall_s:.0f} s"
    if usage.status:
        return f"exit status {usage.status}: {tail(output)}"
    return testbed.find_error(spec) if tool.has_output else None


def _read_metrics(spec: RunSpec) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = json.loads(spec.metrics_path.read_text())
    except FileNotFoundError:
        return {}
    return metrics


def _line(run: Run) -> str:
    text = f"{run.tool}: {run.wall_s:.2f} s, CPU {run.cpu_s:.2f} s, {run.peak_rss_mb:.0f} MB"
    return text if run.ok else f"{text}: FAILED: {run.error}"
