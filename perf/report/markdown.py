"""Results as Markdown: the full report, and the short table of the README.

Each goes between two markers in a file, ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``.
"""

from __future__ import annotations

from collections.abc import Sequence

from perf.model import OURS
from perf.report.results import ScenarioResult, Summary, fastest_peer, summaries
from perf.report.table import busy_text, ratio_text

__all__ = (
    "REPORT_BLOCK",
    "SUMMARY_BLOCK",
    "SUMMARY_SCENARIOS",
    "markdown_table",
    "render_report",
    "render_summary",
    "replace_block",
)

REPORT_BLOCK = "perf"
"""Name in the markers around the full report."""
SUMMARY_BLOCK = "perf-summary"
"""Name in the markers around the short table."""
SUMMARY_SCENARIOS = (
    "hub-large",
    "hub-small",
    "hub-to-s3",
    "s3-get-large",
    "s3-put-large",
    "mf-warm",
)
"""The rows of the short table, in order."""
_PEER_NAMES = {
    "aria2c": "aria2c (no listing, verifies nothing)",
    "curl": "curl (no listing, verifies nothing)",
    "hf_transfer": "hf_transfer (no listing, verifies nothing)",
    "hub-then-boto3": "huggingface_hub, then boto3",
    "rclone": "rclone (verifies no multipart object)",
}
"""What the short table must say about a peer, because it does less or is two programs."""


def render_report(results: Sequence[ScenarioResult], charts: Sequence[tuple[str, str]] = ()) -> str:
    """Return the full report: the machine, one row per scenario, the charts, and every tool.

    Args:
        results: one per scenario.
        charts: alternative text and address of each chart.
    """
    parts = [_machines(results), _overview(results)]
    parts += [f"![{text}]({address})" for text, address in charts]
    details = "\n\n".join(_details(result) for result in results)
    parts.append(
        f"<details>\n<summary>Every tool in every scenario</summary>\n\n{details}\n\n</details>"
    )
    return "\n\n".join(parts)


def render_summary(
    results: Sequence[ScenarioResult], charts: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the charts and a table of the `SUMMARY_SCENARIOS` that `results` contains."""
    head = ("scenario", OURS, "fastest peer", "its time", "ratio")
    by_name = {result.scenario: result for result in results}
    rows = [
        row
        for name in SUMMARY_SCENARIOS
        if name in by_name and (row := _summary_row(by_name[name])) is not None
    ]
    parts = [f"![{text}]({address})" for text, address in charts]
    return "\n\n".join([*parts, markdown_table(head, rows, left={0, 2})])


def _summary_row(result: ScenarioResult) -> tuple[str, ...] | None:
    rows = summaries(result)
    ours = next((row for row in rows if row.tool == OURS and row.good), None)
    if ours is None:
        return None
    name = f"**{result.scenario}**: {result.summary}"
    peer = fastest_peer(rows)
    if peer is None:
        return (name, _seconds(ours.wall_s), "", "", "")
    return (
        name,
        _seconds(ours.wall_s),
        _PEER_NAMES.get(peer.tool, peer.tool),
        _seconds(peer.wall_s),
        ratio_text(peer.wall_ratio),
    )


def replace_block(text: str, name: str, block: str) -> str:
    """Return `text` with `block` between the markers of that name.

    Raises:
        ValueError: `text` does not contain each marker once, in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found_begin, remaining = text.partition(begin)
    _, found_end, after = remaining.partition(end)
    if not found_begin or not found_end or begin in remaining or end in before + after:
        raise ValueError(f"must contain {begin} and, after it, {end}, once each")
    return f"{before}{begin}\n{block}\n{end}{after}"


def _machines(results: Sequence[ScenarioResult]) -> str:
    lines = dict.fromkeys(_machine(result) for result in results)
    return "\n".join(lines)


def _machine(result: ScenarioResult) -> str:
    machine = result.machine
    kernel = str(machine.get("kernel", "?")).partition("-")[0]
    return (
        f"Measured on {machine.get('date', '?')} with client and servers on one machine: "
        f"{machine.get('cores', '?')} cores ({machine.get('cpu', '?')}), "
        f"{machine.get('memory_gb', '?')} GB, Linux {kernel}, Python {machine.get('python', '?')}."
    )


def _overview(results: Sequence[ScenarioResult]) -> str:
    head = (
        "scenario", f"{OURS} wall", "CPU s/GB", "peak RSS", "requests",
        "fastest peer", "wall", "our wall ÷ its", "our CPU ÷ its",
    )  # fmt: skip
    rows = [row for result in results if (row := _overview_row(result)) is not None]
    text = markdown_table(head, rows, left={0, 5})
    return (
        f"{text}\n\nTimes are medians over alternating runs; ratios are medians of the ratios "
        "within a round; RSS is the largest of all runs. A ratio below 1 means that hftransfer "
        "needs less."
    )


def _overview_row(result: ScenarioResult) -> tuple[str, ...] | None:
    rows = summaries(result)
    ours = next((row for row in rows if row.tool == OURS and row.good), None)
    if ours is None:
        return None
    peer = fastest_peer(rows)
    own = (
        f"**{result.scenario}**: {result.summary}",
        _seconds(ours.wall_s),
        _per_gb(ours, result),
        f"{ours.peak_rss_mb:.0f} MB",
        f"{ours.requests:,}",
    )
    if peer is None:
        return (*own, "", "", "", "")
    return (
        *own,
        peer.tool,
        _seconds(peer.wall_s),
        ratio_text(peer.wall_ratio),
        ratio_text(peer.cpu_ratio),
    )


def _details(result: ScenarioResult) -> str:
    head = (
        "tool", "version", "wall", "user", "sys", "CPU s/GB", "cores busy", "peak RSS",
        "faults minor/major", "requests", "our wall ÷ its", "our CPU ÷ its",
    )  # fmt: skip
    rows = [_details_row(row, result) for row in summaries(result)]
    runs = max(row.runs for row in summaries(result))
    title = f"**{result.scenario}**: {result.summary}; {runs} run{'s' if runs != 1 else ''} of each"
    if result.scale != 1:
        title += f"; sizes scaled by {result.scale:g}"
    notes = [f"Note: {note}." for note in result.notes]
    notes += [
        f"{row.tool} measured itself: "
        + ", ".join(f"{name} {value:g}" for name, value in row.extra.items())
        for row in summaries(result)
        if row.extra
    ]
    notes += [f"{row.tool} failed: `{error}`" for row in summaries(result) for error in row.errors]
    return "\n\n".join([title, markdown_table(head, rows, left={0, 1}), *notes])


def _details_row(row: Summary, result: ScenarioResult) -> tuple[str, ...]:
    name = row.tool if row.good == row.runs else f"{row.tool} ({row.good} of {row.runs} runs good)"
    return (
        name,
        row.version,
        _seconds(row.wall_s),
        _seconds(row.user_s),
        _seconds(row.sys_s),
        _per_gb(row, result),
        busy_text(row.busy),
        f"{row.peak_rss_mb:.0f} MB",
        f"{row.minflt:,}/{row.majflt:,}",
        f"{row.requests:,}",
        ratio_text(row.wall_ratio),
        ratio_text(row.cpu_ratio),
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _per_gb(row: Summary, result: ScenarioResult) -> str:
    return f"{row.cpu_s / result.bytes * 1e9:.2f}" if result.bytes > 10_000_000 else ""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: set[int]) -> str:
    """Return a Markdown table; columns whose index is not in `left` are aligned right."""
    rule = ["---" if index in left else "---:" for index in range(len(head))]
    return "\n".join(
        f"| {' | '.join(_cell(each) for each in row)} |" for row in (head, rule, *rows)
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
