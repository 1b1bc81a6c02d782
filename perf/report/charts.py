"""Charts: wall and CPU time per tool, throughput over time, and the summary of the README."""

from __future__ import annotations

from collections.abc import Sequence

from perf.model import LIMIT, OURS, is_limit
from perf.report.markdown import SUMMARY_SCENARIOS
from perf.report.results import Run, ScenarioResult, Summary, fastest_peer, summaries
from perf.report.svg import line, nice_ticks, path, picture, rectangle, text
from perf.report.table import name_text

__all__ = ("rates", "render_charts", "render_summary_chart")

# All lengths are in pixels.
_WIDTH = 880
_MARGIN = 24
_LABELS = 160
_GAP = 28
_COLUMN = (_WIDTH - 2 * _MARGIN - _LABELS - _GAP) / 2
_ROW = 23
_BAR = 13
_HEADER = 84
_PANEL_HEADER = 34
_PANEL_GAP = 20
_VALUE = 56  # space after the longest bar, for its value


def render_charts(results: Sequence[ScenarioResult]) -> dict[str, tuple[str, str]]:
    """Return title and SVG of every chart of the full report, by file name."""
    pictures = {}
    for family in dict.fromkeys(_family(result) for result in results):
        members = [result for result in results if _family(result) == family]
        compared = [result for result in members if len(result.tools) > 1]
        timed = [result for result in members if _runs_with_timeline(result)]
        if compared:
            title = f"{_TITLES[family]}: wall and CPU time of every tool"
            pictures[f"{family}-times.svg"] = (title, _times(title, compared))
        if timed:
            title = f"{_TITLES[family]}: throughput of {OURS} over time"
            pictures[f"{family}-throughput.svg"] = (title, _throughput(title, timed))
    return pictures


_TITLES = {"hub": "From the Hub", "s3": "S3", "metaflow": "Metaflow", "other": "Fixed cost"}


def _family(result: ScenarioResult) -> str:
    name = result.scenario
    if name.startswith("s3-") or name == "hub-to-s3":
        return "s3"
    first = name.partition("-")[0]
    return {"hub": "hub", "mf": "metaflow"}.get(first, "other")


# --- summary

_SUMMARY_LABELS = 330


def render_summary_chart(results: Sequence[ScenarioResult]) -> dict[str, tuple[str, str]]:
    """Return title and SVG of the README's chart by its file name; empty without results.

    It has one panel for each of `SUMMARY_SCENARIOS` that succeeded, with the wall time of ours
    and of the fastest peer.
    """
    by_name = {result.scenario: result for result in results}
    panels = []
    for name in SUMMARY_SCENARIOS:
        rows = summaries(by_name[name]) if name in by_name else []
        ours = next((row for row in rows if row.tool == OURS and row.good), None)
        if ours is not None:
            peer = fastest_peer(rows)
            panels.append((by_name[name], [ours, *([peer] if peer is not None else [])]))
    if not panels:
        return {}
    title = f"Wall time of {OURS} and of the fastest peer"
    longest = max(row.wall_s for _, rows in panels for row in rows)
    scale = (_WIDTH - 2 * _MARGIN - _SUMMARY_LABELS - 190) / max(longest, 1e-9)
    body = [
        text(_MARGIN, 34, title, "bold"),
        text(_MARGIN, 56, "seconds, median; shorter is better", "f-soft small"),
    ]
    y = float(_HEADER)
    for result, rows in panels:
        body.append(line(_MARGIN, y - 8, _WIDTH - _MARGIN, y - 8, "s-grid"))
        body.append(text(_MARGIN, y + 11, result.scenario, "bold"))
        body.append(text(_MARGIN, y + 28, result.summary, "f-soft small"))
        for row in rows:
            x, colour = _MARGIN + _SUMMARY_LABELS, "ours" if row.tool == OURS else "peer"
            width = max(1.0, scale * row.wall_s)
            body.append(rectangle(x, y, width, _BAR, _FILLS[colour][0]))
            label = f"{row.wall_s:.2f} s  {row.tool}"
            body.append(text(x + width + 7, y + _BAR - 2, label, "small num"))
            y += _ROW - 4
        y += _PANEL_GAP if len(rows) > 1 else _PANEL_GAP + _ROW - 4
    return {"summary.svg": (title, picture(_WIDTH, y, title, body))}


# --- wall and CPU time


def _times(title: str, results: Sequence[ScenarioResult]) -> str:
    wall_x = _MARGIN + _LABELS
    cpu_x = wall_x + _COLUMN + _GAP
    body = [
        text(_MARGIN, 34, title, "bold"),
        text(wall_x, 62, "wall seconds", "f-soft small"),
        text(cpu_x, 62, "CPU seconds, user and system", "f-soft small"),
        *_legend(cpu_x + _COLUMN),
    ]
    y = float(_HEADER)
    for result in results:
        rows = summaries(result)
        body += _panel(result, rows, y, wall_x, cpu_x)
        y += _PANEL_HEADER + len(rows) * _ROW + _PANEL_GAP
    return picture(_WIDTH, y, title, body)


def _legend(right: float) -> list[str]:
    drawn = []
    entries = (("ours", OURS), ("peer", "peers"), ("limit", "limit: only receives or sends"))
    widths = [18 + 6.1 * len(label) + 16 for _, label in entries]
    x = right - sum(widths) + 16
    for (colour, label), width in zip(entries, widths, strict=True):
        drawn.append(rectangle(x, 24.5, 10, 10, _FILLS[colour][0]))
        drawn.append(text(x + 17, 34, label, "f-soft small"))
        x += width
    return drawn


_FILLS = {
    "ours": ("f-ours", "f-ours-soft"),
    "peer": ("f-peer", "f-peer-soft"),
    "limit": ("f-page s-peer", ""),  # an outline, because it is not a peer
}


def _panel(
    result: ScenarioResult, rows: Sequence[Summary], top: float, wall_x: float, cpu_x: float
) -> list[str]:
    longest = [
        max((run.wall_s for run in result.good_runs(row.tool)), default=row.wall_s) for row in rows
    ]
    wall_scale = (_COLUMN - _VALUE) / max([*longest, 1e-9])
    cpu_scale = (_COLUMN - _VALUE) / max([*(row.cpu_s for row in rows), 1e-9])
    drawn = [
        line(_MARGIN, top - 8, _WIDTH - _MARGIN, top - 8, "s-grid"),
        text(_MARGIN, top + 14, result.scenario, "bold"),
        text(_MARGIN + _LABELS, top + 14, result.summary, "f-soft small"),
    ]
    y = top + _PANEL_HEADER - 8
    for row in rows:
        ours = row.tool == OURS
        colour = "ours" if ours else "limit" if is_limit(row.tool) else "peer"
        base = y + _BAR - 2
        name = name_text(row) if row.good else row.tool
        style = ("bold f-ours" if ours else "") + (" small" if name != row.tool else "")
        drawn.append(text(_MARGIN, base, name, style))
        if not row.good:
            drawn.append(text(wall_x, base, "failed in every run", "f-bad small"))
        else:
            runs = [run.wall_s for run in result.good_runs(row.tool)]
            drawn += _wall_bar(row, runs, wall_x, y, wall_scale, colour)
            drawn += _cpu_bar(row, cpu_x, y, cpu_scale, colour)
        y += _ROW
    return drawn


def _wall_bar(
    row: Summary, runs: Sequence[float], x: float, y: float, scale: float, colour: str
) -> list[str]:
    """Draw the median as a bar, and the range of all runs as a thin line."""
    middle = y + _BAR / 2
    end = x + scale * max(runs) + 7
    return [
        rectangle(x, y, max(1.0, scale * row.wall_s), _BAR, _FILLS[colour][0]),
        line(x + scale * min(runs), middle, x + scale * max(runs), middle, "s-ink",
             stroke_opacity="0.55"),
        text(end, y + _BAR - 2, f"{row.wall_s:.2f}", "small num"),
    ]  # fmt: skip


def _cpu_bar(row: Summary, x: float, y: float, scale: float, colour: str) -> list[str]:
    user, system = scale * row.user_s, scale * row.sys_s
    if is_limit(row.tool):
        user, system = user + system, 0.0  # one outline for both
    return [
        rectangle(x, y, user, _BAR, _FILLS[colour][0]),
        rectangle(x + user, y, system, _BAR, _FILLS[colour][1]),
        text(x + user + system + 7, y + _BAR - 2, f"{row.cpu_s:.2f}", "small num"),
    ]


# --- throughput over time

_CELL_HEIGHT = 224
_PLOT_HEIGHT = 118
_AXIS = 44
_POINTS = 40


def rates(timeline: Sequence[tuple[float, int]], points: int) -> list[tuple[float, float]]:
    """Return throughput over time, in bytes per second, from a timeline of bytes stored.

    Args:
        timeline: samples of seconds and total bytes, both non-decreasing.
        points: maximum number of intervals. An interval is at least 0.1 s long, because the
            samples have 50 ms between them and shorter intervals would only show noise.

    Returns:
        The middle, in seconds, and the rate of each interval; all have the same length.
    """
    if not timeline or timeline[-1][0] <= 0:
        return []
    known = [(0.0, 0), *timeline]
    end = known[-1][0]
    count = max(1, min(points, int(end / 0.1)))
    edges = [end * index / count for index in range(count + 1)]
    totals = [_interpolate(known, edge) for edge in edges]
    width = end / count
    return [
        ((edges[i] + edges[i + 1]) / 2, max(0.0, (totals[i + 1] - totals[i]) / width))
        for i in range(count)
    ]


def _interpolate(timeline: Sequence[tuple[float, int]], time: float) -> float:
    """Return the bytes stored at a time, interpolated linearly between two samples."""
    before = timeline[0]
    for sample in timeline:
        if sample[0] >= time:
            interval = sample[0] - before[0]
            fraction = (time - before[0]) / interval if interval > 0 else 1.0
            return before[1] + fraction * (sample[1] - before[1])
        before = sample
    return float(before[1])


def _runs_with_timeline(result: ScenarioResult) -> list[Run]:
    """Return our runs that have a timeline of more than three samples, by wall time."""
    runs = [run for run in result.good_runs(OURS) if len(run.timeline) > 3]
    return sorted(runs, key=lambda run: run.wall_s)


def _throughput(title: str, results: Sequence[ScenarioResult]) -> str:
    cell = (_WIDTH - 2 * _MARGIN + _GAP) / 2
    body = [
        text(_MARGIN, 34, title, "bold"),
        text(_MARGIN, 56, "GB/s verified and stored: the median run, and the others as thin lines",
             "f-soft small"),
    ]  # fmt: skip
    for index, result in enumerate(results):
        x = _MARGIN + (index % 2) * cell
        y = _HEADER + (index // 2) * _CELL_HEIGHT
        body += _plot(result, x, y, cell - _GAP)
    height = _HEADER + -(-len(results) // 2) * _CELL_HEIGHT
    return picture(_WIDTH, height, title, body)


def _plot(result: ScenarioResult, left: float, top: float, width: float) -> list[str]:
    runs = _runs_with_timeline(result)
    middle = runs[len(runs) // 2]
    curves = {run.round: rates(run.timeline, _POINTS) for run in runs}
    means = _mean_rates(result)
    peak = max([rate for curve in curves.values() for _, rate in curve] + list(means.values()))
    ticks = nice_ticks(max(peak, 1.0) / 1e9, 4)
    end = nice_ticks(max(run.wall_s for run in runs), 6)[-1]
    x0, y0 = left + _AXIS, top + 50 + _PLOT_HEIGHT
    plot_width = width - _AXIS

    def position(time: float, rate: float) -> tuple[float, float]:
        return x0 + plot_width * time / end, y0 - _PLOT_HEIGHT * rate / 1e9 / ticks[-1]

    drawn = [
        text(left, top + 14, result.scenario, "bold"),
        text(left, top + 30, result.summary, "f-soft small"),
    ]
    for tick in ticks:
        y = position(0, tick * 1e9)[1]
        drawn.append(line(x0, y, x0 + plot_width, y, "s-grid"))
        drawn.append(text(x0 - 8, y + 4, f"{tick:g}", "f-soft small end num"))
    drawn += [
        text(position(tick, 0)[0], y0 + 16, f"{tick:g} s", "f-soft small middle num")
        for tick in nice_ticks(end, 6)
    ]
    for run in runs:
        if run is not middle:
            points = [position(*point) for point in curves[run.round]]
            drawn.append(path(points, "s-ours-soft", fill="none", stroke_width=1.0, opacity=0.6))
    points = [position(*point) for point in curves[middle.round]]
    closed = [(points[0][0], y0), *points, (points[-1][0], y0)]
    drawn.append(path(closed, "f-ours", fill_opacity=0.16))
    drawn.append(path(points, "s-ours", fill="none", stroke_width=2.0))
    return drawn + _mean_lines(means, x0, plot_width, y0, ticks[-1])


def _mean_rates(result: ScenarioResult) -> dict[str, float]:
    """Return mean bytes per second, process start included, of the limit and the fastest peer."""
    rows = [row for row in summaries(result) if row.good]
    chosen = [row for row in rows if row.tool == LIMIT]
    if (peer := fastest_peer(rows)) is not None:
        chosen.append(peer)
    return {row.tool: result.bytes / row.wall_s for row in chosen}


def _mean_lines(
    means: dict[str, float], x0: float, width: float, y0: float, top: float
) -> list[str]:
    """Draw a dashed horizontal line with a label at each mean rate."""
    drawn = []
    labels: list[float] = []
    for tool, rate in sorted(means.items(), key=lambda item: -item[1]):
        y = y0 - _PLOT_HEIGHT * rate / 1e9 / top
        label = y - 4
        while any(abs(label - other) < 12 for other in labels):
            label += 12  # labels would overlap: move the one of the lower rate below its line
        labels.append(label)
        drawn.append(line(x0, y, x0 + width, y, "s-soft", stroke_dasharray="4 4"))
        words = f"{tool}: {rate / 1e9:.2f} on average"
        drawn.append(text(x0 + width, label, words, "f-soft small end halo"))
    return drawn
