"""Results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from perf.model import OURS
from perf.report.results import ScenarioResult, Summary, summaries

__all__ = ("busy_text", "name_text", "ratio_text", "text_table")

_HEAD = (
    *("tool", "version", "wall s", "user s", "sys s", "CPU s/GB", "busy", "RSS MB"),
    *("minflt", "majflt", "requests", "wall ratio", "CPU ratio"),
)


def text_table(result: ScenarioResult) -> str:
    """Return the results of one scenario as aligned columns, with a legend and the errors."""
    rows = [_HEAD, *(_cells(row, result) for row in summaries(result))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [f"{result.scenario}: {result.summary} ({_counts(result)})"]
    lines += ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    lines.append("busy: share of all cores, servers included")
    lines.append(
        f"medians over the runs, RSS: the largest; ratios: {OURS} divided by the tool, "
        "median over the rounds"
    )
    lines += [f"note: {note}" for note in result.notes]
    for row in summaries(result):
        if row.extra:
            measured = (f"{name} {value:g}" for name, value in row.extra.items())
            lines.append(f"{row.tool} measured itself: {', '.join(measured)}")
        lines += [f"{row.tool} failed: {error}" for error in row.errors]
    return "\n".join(lines)


def _counts(result: ScenarioResult) -> str:
    runs = max((row.runs for row in summaries(result)), default=0)
    files = f"{result.files:,} file{'s' if result.files != 1 else ''}"
    text = f"{result.bytes:,} bytes, {files}, {runs} run{'s' if runs != 1 else ''} of each"
    return text if result.scale == 1 else f"{text}, scaled by {result.scale:g}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    left = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
    return left + [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]


def _cells(row: Summary, result: ScenarioResult) -> tuple[str, ...]:
    per_gb = row.cpu_s / (result.bytes / 1e9) if result.bytes else 0.0
    return (
        name_text(row),
        row.version,
        f"{row.wall_s:.2f}",
        f"{row.user_s:.2f}",
        f"{row.sys_s:.2f}",
        f"{per_gb:.2f}",
        busy_text(row.busy),
        f"{row.peak_rss_mb:.0f}",
        f"{row.minflt:,}",
        f"{row.majflt:,}",
        f"{row.requests:,}",
        ratio_text(row.wall_ratio),
        ratio_text(row.cpu_ratio),
    )


def name_text(row: Summary) -> str:
    """Return the name of a tool and, if some of its runs failed, how many succeeded."""
    return row.tool if row.good == row.runs else f"{row.tool} ({row.good}/{row.runs} good)"


def busy_text(busy: float | None) -> str:
    """Return a fraction as a percentage; empty if None."""
    return "" if busy is None else f"{busy:.0%}"


def ratio_text(ratio: float | None) -> str:
    """Return a ratio with 2 decimals, or 3 below 0.1; empty if None."""
    if ratio is None:
        return ""
    return f"{ratio:.3f}" if ratio < 0.1 else f"{ratio:.2f}"
