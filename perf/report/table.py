"""Documents as tables: for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from perf.report.results import OURS, Document, Summary, summaries

__all__ = ("text_table",)

_HEAD = (
    *("tool", "version", "wall s", "user s", "sys s", "CPU s/GB", "busy", "RSS MB"),
    *("minflt", "majflt", "requests", "wall ratio", "CPU ratio"),
)


def text_table(document: Document) -> str:
    """Return the table of one document, for people at a terminal."""
    rows = [_HEAD, *(_cells(row, document) for row in summaries(document))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = [f"{document.scenario}: {document.summary} ({_counts(document)})"]
    lines += ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    lines.append("busy: the machine's cores, servers included")
    lines.append(f"medians; RSS is the largest; ratios are {OURS} to the tool, medians over rounds")
    for row in summaries(document):
        if row.extra:
            measured = (f"{name} {value:g}" for name, value in row.extra.items())
            lines.append(f"{row.tool} measured itself: {', '.join(measured)}")
        lines += [f"{row.tool} failed: {error}" for error in row.errors]
    return "\n".join(lines)


def _counts(document: Document) -> str:
    runs = max((row.runs for row in summaries(document)), default=0)
    files = f"{document.files:,} file{'s' if document.files != 1 else ''}"
    return f"{document.bytes:,} bytes, {files}, {runs} run{'s' if runs != 1 else ''} of each"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    left = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
    return left + [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]


def _cells(row: Summary, document: Document) -> tuple[str, ...]:
    per_gb = row.cpu_s / (document.bytes / 1e9) if document.bytes else 0.0
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
    """Return the name of a tool, and how many of its runs were good if not all were."""
    return row.tool if row.good == row.runs else f"{row.tool} ({row.good}/{row.runs} good)"


def busy_text(busy: float | None) -> str:
    """Return a share of the machine's cores in per cent."""
    return "" if busy is None else f"{busy:.0%}"


def ratio_text(ratio: float | None) -> str:
    """Return a ratio with about three significant digits."""
    if ratio is None:
        return ""
    return f"{ratio:.3f}" if ratio < 0.1 else f"{ratio:.2f}"
