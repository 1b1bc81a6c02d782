"""The charts as SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.report.charts import rates, render_charts, render_summary_chart
from perf.report.results import ScenarioResult
from support.perf import make_result


@pytest.mark.parametrize("first", [make_result(), make_result(runs=[]), make_result(bytes=0)])
def test_every_chart_is_well_formed(first: ScenarioResult) -> None:
    """For all results the charts are XML with escaped texts."""
    results = [first, make_result("s3-get-large"), make_result("hub <&> odd")]
    charts = {**render_charts(results), **render_summary_chart(results)}

    assert "summary.svg" in charts
    for title, picture in charts.values():
        root = ElementTree.fromstring(picture)  # noqa: S314 - our own text
        assert root.tag.endswith("svg")
        assert title in "".join(root.itertext())


def test_a_chart_labels_every_tool_with_its_values() -> None:
    """The lengths of the bars are also given as numbers."""
    _, picture = render_charts([make_result()])["hub-times.svg"]

    for label in ("hftransfer", "curl", "limit", "aria2c", "4.00", "3.00", "failed in every run"):
        assert f">{label}<" in picture


def test_the_summary_compares_with_the_fastest_peer() -> None:
    """It has two bars per scenario, and is omitted if there is no scenario to show."""
    _, picture = render_summary_chart([make_result()])["summary.svg"]

    assert ">2.00 s  hftransfer<" in picture
    assert ">4.00 s  curl<" in picture
    assert render_summary_chart([make_result("hub-xet")]) == {}


@given(
    st.lists(st.tuples(st.floats(0.001, 2), st.integers(0, 10**9)), min_size=1, max_size=60),
    st.integers(1, 90),
)
def test_the_area_under_the_rates_is_the_bytes(steps: list[tuple[float, int]], points: int) -> None:
    """The sum over the intervals of rate times length is the total of the timeline."""
    timeline, now, total = [], 0.0, 0
    for seconds, count in steps:
        now, total = now + seconds, total + count
        timeline.append((now, total))

    curve = rates(timeline, points)

    width = now / len(curve)
    assert sum(rate * width for _, rate in curve) == pytest.approx(total, rel=1e-6, abs=1)
    assert all(0 <= time <= now for time, _ in curve)
