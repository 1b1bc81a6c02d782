"""The results of one scenario, their JSON form, and one summary per tool."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

from perf.model import OURS, is_limit
from perf.report.stats import paired_ratio

__all__ = (
    "ResultError",
    "Run",
    "ScenarioResult",
    "Summary",
    "describe_machine",
    "fastest_peer",
    "is_peer",
    "latest_results",
    "read_results",
    "summaries",
)


class ResultError(ValueError):
    """A file does not hold results that `python -m perf run` wrote."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measured process. Times are in seconds, memory is in MB (10^6 bytes)."""

    tool: str
    version: str
    round: int
    wall_s: float
    user_s: float
    sys_s: float
    peak_rss_mb: float
    ok: bool
    machine_s: float | None = None
    """Core seconds that the whole machine was busy during the run, servers included."""
    minflt: int = 0
    majflt: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    """Number of requests by server, as the servers counted them."""
    error: str | None = None
    """Why `ok` is false."""
    timeline: Sequence[tuple[float, int]] = ()
    """Samples: seconds since the process started, and bytes stored by then."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """What the tool measured itself."""

    @property
    def cpu_s(self) -> float:
        """User time plus system time."""
        return self.user_s + self.sys_s


@dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """All runs of one scenario on one machine."""

    scenario: str
    bytes: int
    files: int
    runs: Sequence[Run]
    machine: Mapping[str, Any]
    scale: float = 1.0
    summary: str = ""
    notes: Sequence[str] = ()

    @property
    def tools(self) -> list[str]:
        """The tools in the order of their first run."""
        return list(dict.fromkeys(run.tool for run in self.runs))

    def good_runs(self, tool: str) -> list[Run]:
        """Return the runs of one tool that succeeded."""
        return [run for run in self.runs if run.tool == tool and run.ok]

    def ratio(self, tool: str, base: str) -> dict[str, float | None]:
        """Return wall and CPU time of `tool` relative to `base`.

        Each is the median over the rounds in which both succeeded, with 4 significant digits;
        None if there is no such round.
        """
        mine, other = self.good_runs(tool), self.good_runs(base)
        wall = paired_ratio(
            {run.round: run.wall_s for run in mine}, {run.round: run.wall_s for run in other}
        )
        cpu = paired_ratio(
            {run.round: run.cpu_s for run in mine}, {run.round: run.cpu_s for run in other}
        )
        return {"wall": _rounded(wall), "cpu": _rounded(cpu)}

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON values; `perf/README.md` describes the keys."""
        peers = [tool for tool in self.tools if tool != OURS] if OURS in self.tools else []
        return {
            "scenario": self.scenario,
            "summary": self.summary,
            "bytes": self.bytes,
            "files": self.files,
            "scale": self.scale,
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "runs": [_run_to_json(run) for run in self.runs],
            "ratio": {peer: self.ratio(OURS, peer) for peer in peers},
        }

    @classmethod
    def from_json(cls, value: Any) -> ScenarioResult:
        """Return the results that `to_json` wrote.

        Raises:
            ResultError: `value` has another form.
        """
        try:
            return cls(
                scenario=str(value["scenario"]),
                bytes=int(value["bytes"]),
                files=int(value["files"]),
                runs=[_run_from_json(each) for each in value["runs"]],
                machine=dict(value.get("machine", {})),
                scale=float(value.get("scale", 1.0)),
                summary=str(value.get("summary", "")),
                notes=[str(note) for note in value.get("notes", ())],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultError(f"not a result of perf: {error!r}") from error


def _run_to_json(run: Run) -> dict[str, Any]:
    """Return a run without its empty fields."""
    value = {**asdict(run), "timeline": [list(sample) for sample in run.timeline]}
    return {name: each for name, each in value.items() if each not in ([], {}, None)}


def _run_from_json(value: Mapping[str, Any]) -> Run:
    """Return a run; unknown fields, which a later version may add, are ignored."""
    names = {each.name for each in fields(Run)}
    known = {name: each for name, each in value.items() if name in names}
    timeline = tuple((float(time), int(count)) for time, count in value.get("timeline", ()))
    return Run(**{**known, "timeline": timeline})


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else float(f"{ratio:.4g}")


@dataclass(frozen=True)
class Summary:
    """One tool in one scenario: medians over its good runs, and the largest RSS of all."""

    tool: str
    version: str
    good: int
    runs: int
    wall_s: float
    user_s: float
    sys_s: float
    busy: float | None
    """Fraction of the machine's cores that was busy, servers included; None if not measured."""
    peak_rss_mb: float
    minflt: int
    majflt: int
    requests: int
    wall_ratio: float | None
    """Wall time of `OURS` divided by this tool's."""
    cpu_ratio: float | None
    """CPU time of `OURS` divided by this tool's."""
    extra: Mapping[str, float]
    errors: tuple[str, ...]

    @property
    def cpu_s(self) -> float:
        """User time plus system time."""
        return self.user_s + self.sys_s


def is_peer(tool: str) -> bool:
    """Return whether a tool is a third party's and does the whole transfer."""
    return not is_limit(tool) and tool.partition("-")[0] not in (OURS, "half")


def summaries(result: ScenarioResult) -> list[Summary]:
    """Return one row per tool: ours, the others by wall time, those that failed, the limits."""
    rows = [_summary(result, tool) for tool in result.tools]
    return sorted(
        rows, key=lambda row: (row.tool != OURS, is_limit(row.tool), not row.good, row.wall_s)
    )


def fastest_peer(rows: Iterable[Summary]) -> Summary | None:
    """Return the peer with the least wall time among those that succeeded, or None."""
    peers = [row for row in rows if is_peer(row.tool) and row.good]
    return min(peers, key=lambda row: row.wall_s, default=None)


def _summary(result: ScenarioResult, tool: str) -> Summary:
    every = [run for run in result.runs if run.tool == tool]
    # For a tool that never succeeded, show the times of its failures; `good` marks them.
    runs = result.good_runs(tool) or every
    ratio = result.ratio(OURS, tool) if tool != OURS else {"wall": None, "cpu": None}
    return Summary(
        tool=tool,
        version=every[0].version,
        good=len(result.good_runs(tool)),
        runs=len(every),
        wall_s=median(run.wall_s for run in runs),
        user_s=median(run.user_s for run in runs),
        sys_s=median(run.sys_s for run in runs),
        busy=_busy(runs, result.machine.get("cores")),
        peak_rss_mb=max(run.peak_rss_mb for run in runs),
        minflt=round(median(run.minflt for run in runs)),
        majflt=round(median(run.majflt for run in runs)),
        requests=round(median(sum(run.requests.values()) for run in runs)),
        wall_ratio=ratio["wall"],
        cpu_ratio=ratio["cpu"],
        extra={
            name: median(run.extra[name] for run in runs if name in run.extra)
            for name in dict.fromkeys(name for run in runs for name in run.extra)
        },
        errors=tuple(dict.fromkeys(run.error for run in every if run.error)),
    )


def _busy(runs: Sequence[Run], cores: int | None) -> float | None:
    fractions = [run.machine_s / run.wall_s / cores for run in runs if run.machine_s and cores]
    return min(1.0, median(fractions)) if fractions else None


def read_results(paths: Iterable[Path]) -> list[ScenarioResult]:
    """Read files that hold the results of one or more scenarios each.

    Raises:
        ResultError: a file is empty or has another form.
        OSError: a file cannot be read.
    """
    results = []
    decoder = json.JSONDecoder()
    for path in paths:
        remaining = path.read_text().strip()
        if not remaining:
            raise ResultError(f"{path} is empty")
        while remaining:
            try:
                value, stop = decoder.raw_decode(remaining)
                results.append(ScenarioResult.from_json(value))
            except ValueError as error:
                raise ResultError(f"{path}: {error}") from error
            remaining = remaining[stop:].lstrip()
    return results


def latest_results(results: Sequence[ScenarioResult]) -> list[ScenarioResult]:
    """Return the last result of each scenario, in the order of their first results."""
    return list({result.scenario: result for result in results}.values())


def describe_machine() -> dict[str, Any]:
    """Return the properties of this machine that measurements depend on, and the date."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_gb": round(memory / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
