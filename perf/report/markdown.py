"""Documents as Markdown, and the README's part that is made from them."""

from __future__ import annotations

from collections.abc import Sequence

from perf.report.results import OURS, Document, Summary, is_limit, summaries
from perf.report.table import busy_text, ratio_text

__all__ = ("BEGIN", "END", "insert", "latest", "markdown")

BEGIN = "<!-- perf:begin -->"
END = "<!-- perf:end -->"


def latest(documents: Sequence[Document]) -> list[Document]:
    """Return one document per scenario, the last one read, in the order of first sight."""
    return list({document.scenario: document for document in documents}.values())


def is_peer(tool: str) -> bool:
    """Return whether a tool is somebody else's and does the whole job."""
    return not is_limit(tool) and tool.partition("-")[0] not in (OURS, "half")


def markdown(documents: Sequence[Document], charts: Sequence[tuple[str, str]] = ()) -> str:
    """Return the report: machine, one row per scenario, charts, and every tool below.

    Args:
        documents: one per scenario.
        charts: alternative text and address of each picture.
    """
    parts = [_machines(documents), _overview(documents)]
    parts += [f"![{text}]({address})" for text, address in charts]
    details = "\n\n".join(_details(document) for document in documents)
    parts.append(
        f"<details>\n<summary>Every tool in every scenario</summary>\n\n{details}\n\n</details>"
    )
    return "\n\n".join(parts)


def insert(text: str, block: str) -> str:
    """Return `text` with `block` between its two markers.

    Raises:
        ValueError: the markers are not there once each, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"needs {BEGIN} and, behind it, {END}, once each")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _machines(documents: Sequence[Document]) -> str:
    lines = dict.fromkeys(_machine(document) for document in documents)
    return "\n".join(lines)


def _machine(document: Document) -> str:
    machine = document.machine
    kernel = str(machine.get("kernel", "?")).partition("-")[0]
    return (
        f"Measured on {machine.get('date', '?')} with client and servers on one machine: "
        f"{machine.get('cores', '?')} cores ({machine.get('cpu', '?')}), "
        f"{machine.get('memory_gb', '?')} GB, Linux {kernel}, Python {machine.get('python', '?')}."
    )


def _overview(documents: Sequence[Document]) -> str:
    head = (
        "scenario", f"{OURS} wall", "CPU s/GB", "peak RSS", "requests",
        "fastest peer", "wall", "our wall ÷ its", "our CPU ÷ its",
    )  # fmt: skip
    rows = [row for document in documents if (row := _overview_row(document)) is not None]
    text = _table(head, rows, left={0, 5})
    return (
        f"{text}\n\nMedians of alternating runs, ratios paired within a round, the largest RSS. "
        "Below 1, hftransfer needs less."
    )


def _overview_row(document: Document) -> tuple[str, ...] | None:
    rows = {row.tool: row for row in summaries(document)}
    ours = rows.get(OURS)
    if ours is None or not ours.good:
        return None
    peers = [row for row in rows.values() if is_peer(row.tool) and row.good]
    best = min(peers, key=lambda row: row.wall_s, default=None)
    own = (
        f"**{document.scenario}**: {document.summary}",
        _seconds(ours.wall_s),
        _per_gb(ours, document),
        f"{ours.peak_rss_mb:.0f} MB",
        f"{ours.requests:,}",
    )
    if best is None:
        return (*own, "", "", "", "")
    return (
        *own,
        best.tool,
        _seconds(best.wall_s),
        ratio_text(best.wall_ratio),
        ratio_text(best.cpu_ratio),
    )


def _details(document: Document) -> str:
    head = (
        "tool", "version", "wall", "user", "sys", "CPU s/GB", "cores busy", "peak RSS",
        "faults minor/major", "requests", "our wall ÷ its", "our CPU ÷ its",
    )  # fmt: skip
    rows = [_details_row(row, document) for row in summaries(document)]
    runs = max(row.runs for row in summaries(document))
    title = f"**{document.scenario}**: {document.summary}; {runs} runs of each"
    if document.scale != 1:
        title += f"; sizes scaled by {document.scale:g}"
    notes = [
        f"{row.tool} measured itself: "
        + ", ".join(f"{name} {value:g}" for name, value in row.extra.items())
        for row in summaries(document)
        if row.extra
    ]
    notes += [
        f"{row.tool} failed: `{error}`" for row in summaries(document) for error in row.errors
    ]
    return "\n\n".join([title, _table(head, rows, left={0, 1}), *notes])


def _details_row(row: Summary, document: Document) -> tuple[str, ...]:
    name = row.tool if row.good == row.runs else f"{row.tool} ({row.good} of {row.runs} runs good)"
    return (
        name,
        row.version,
        _seconds(row.wall_s),
        _seconds(row.user_s),
        _seconds(row.sys_s),
        _per_gb(row, document),
        busy_text(row.busy),
        f"{row.peak_rss_mb:.0f} MB",
        f"{row.minflt:,}/{row.majflt:,}",
        f"{row.requests:,}",
        ratio_text(row.wall_ratio),
        ratio_text(row.cpu_ratio),
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _per_gb(row: Summary, document: Document) -> str:
    return f"{row.cpu_s / document.bytes * 1e9:.2f}" if document.bytes > 10_000_000 else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: set[int]) -> str:
    rule = ["---" if index in left else "---:" for index in range(len(head))]
    return "\n".join(
        f"| {' | '.join(_cell(each) for each in row)} |" for row in (head, rule, *rows)
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
