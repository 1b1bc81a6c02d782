"""The JSON document of one scenario's runs, and the numbers drawn from it."""

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

from perf.report.stats import paired_ratio

__all__ = (
    "LIMIT",
    "OURS",
    "Document",
    "DocumentError",
    "Run",
    "Summary",
    "is_limit",
    "machine",
    "read_documents",
    "summaries",
)

OURS = "hftransfer"
"""The tool that the others are compared with."""
LIMIT = "limit"
"""The tool that receives and does nothing else: a bound, and no peer. So are its variants."""


class DocumentError(ValueError):
    """A file holds no document of `python -m perf run`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measured process. Times are seconds, memory is MB (10^6 bytes)."""

    tool: str
    version: str
    round: int
    wall_s: float
    user_s: float
    sys_s: float
    peak_rss_mb: float
    ok: bool
    machine_s: float | None = None
    """Core seconds that the whole machine was at work meanwhile, servers included."""
    minflt: int = 0
    majflt: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    """Requests that each server saw."""
    error: str | None = None
    """Why `ok` is false."""
    timeline: Sequence[tuple[float, int]] = ()
    """Seconds since the process started, bytes stored by then."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """What the tool measured itself."""

    @property
    def cpu_s(self) -> float:
        """User and system time together."""
        return self.user_s + self.sys_s


@dataclass(frozen=True, kw_only=True)
class Document:
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

    def of(self, tool: str) -> list[Run]:
        """The good runs of one tool."""
        return [run for run in self.runs if run.tool == tool and run.ok]

    def ratio(self, peer: str) -> dict[str, float | None]:
        """Ours to the peer's: medians over the rounds in which both were good."""
        wall = {tool: {run.round: run.wall_s for run in self.of(tool)} for tool in (OURS, peer)}
        cpu = {tool: {run.round: run.cpu_s for run in self.of(tool)} for tool in (OURS, peer)}
        return {
            "wall": _rounded(paired_ratio(wall[OURS], wall[peer])),
            "cpu": _rounded(paired_ratio(cpu[OURS], cpu[peer])),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the document as JSON values."""
        runs = [_run_to_json(run) for run in self.runs]
        peers = [tool for tool in self.tools if tool != OURS] if OURS in self.tools else []
        return {
            "scenario": self.scenario,
            "summary": self.summary,
            "bytes": self.bytes,
            "files": self.files,
            "scale": self.scale,
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "runs": runs,
            "ratio": {peer: self.ratio(peer) for peer in peers},
        }

    @classmethod
    def from_json(cls, value: Any) -> Document:
        """Return the document that `to_json` made.

        Raises:
            DocumentError: it is none.
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
            raise DocumentError(f"no document of perf: {error!r}") from error


def _run_to_json(run: Run) -> dict[str, Any]:
    """Return a run without the fields that say nothing."""
    value = {**asdict(run), "timeline": [list(sample) for sample in run.timeline]}
    return {name: each for name, each in value.items() if each not in ([], {}, None)}


def _run_from_json(value: Mapping[str, Any]) -> Run:
    """Return a run, passing over fields that a later version may have added."""
    names = {each.name for each in fields(Run)}
    known = {name: each for name, each in value.items() if name in names}
    timeline = tuple((float(time), int(count)) for time, count in value.get("timeline", ()))
    return Run(**{**known, "timeline": timeline})


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else float(f"{ratio:.4g}")


@dataclass(frozen=True)
class Summary:
    """One tool in one scenario: medians over its good runs, worst memory of all."""

    tool: str
    version: str
    good: int
    runs: int
    wall_s: float
    user_s: float
    sys_s: float
    busy: float | None
    """Share of the machine's cores that was at work, servers included."""
    peak_rss_mb: float
    minflt: int
    majflt: int
    requests: int
    wall_ratio: float | None
    cpu_ratio: float | None
    extra: Mapping[str, float]
    errors: tuple[str, ...]

    @property
    def cpu_s(self) -> float:
        """User and system time together."""
        return self.user_s + self.sys_s


def is_limit(tool: str) -> bool:
    """Return whether a tool is a bound: `LIMIT`, or a variant of it."""
    return tool.partition("-")[0] == LIMIT


def summaries(document: Document) -> list[Summary]:
    """Return one row per tool: ours, the others by wall time, those that failed, the limit."""
    rows = [_summary(document, tool) for tool in document.tools]
    return sorted(
        rows, key=lambda row: (row.tool != OURS, is_limit(row.tool), not row.good, row.wall_s)
    )


def _summary(document: Document, tool: str) -> Summary:
    every = [run for run in document.runs if run.tool == tool]
    # Of a tool that never succeeded the times are those of its failures, marked as such.
    runs = document.of(tool) or every
    ratio = document.ratio(tool) if tool != OURS else {"wall": None, "cpu": None}
    return Summary(
        tool=tool,
        version=every[0].version,
        good=len(document.of(tool)),
        runs=len(every),
        wall_s=median(run.wall_s for run in runs),
        user_s=median(run.user_s for run in runs),
        sys_s=median(run.sys_s for run in runs),
        busy=_busy(runs, document.machine.get("cores")),
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
    shares = [run.machine_s / run.wall_s / cores for run in runs if run.machine_s and cores]
    return min(1.0, median(shares)) if shares else None


def read_documents(paths: Iterable[Path]) -> list[Document]:
    """Read the documents of files that hold one or several each.

    Raises:
        DocumentError: a file holds something else.
        OSError: a file cannot be read.
    """
    documents = []
    decoder = json.JSONDecoder()
    for path in paths:
        rest = path.read_text().strip()
        if not rest:
            raise DocumentError(f"{path} is empty")
        while rest:
            try:
                value, stop = decoder.raw_decode(rest)
                documents.append(Document.from_json(value))
            except ValueError as error:
                raise DocumentError(f"{path}: {error}") from error
            rest = rest[stop:].lstrip()
    return documents


def machine() -> dict[str, Any]:
    """Return what figures depend on besides the code."""
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
