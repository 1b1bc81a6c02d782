"""The Markdown report, the short table, and the blocks of files that contain them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.report.markdown import SUMMARY_SCENARIOS, render_report, render_summary, replace_block
from support.perf import make_result, make_run

BEGIN, END = "<!-- block:begin -->", "<!-- block:end -->"


def test_the_overview_compares_with_the_fastest_peer() -> None:
    """The row of a scenario ends with the fastest peer, its wall time and both ratios."""
    line = next(each for each in render_report([make_result()]).splitlines() if "hub-large" in each)

    assert line.endswith("| curl | 4.00 s | 0.50 | 0.50 |")


def test_a_failed_run_is_marked() -> None:
    """The details say how many runs of a tool succeeded."""
    assert "aria2c (0 of 1 runs good)" in render_report([make_result()])


def test_the_short_table_has_the_chosen_scenarios_in_order() -> None:
    """Other scenarios, and those without a result or a good run, have no row."""
    failed = make_result("hub-small", runs=[make_run("hftransfer", 0, 1.0, ok=False)])
    results = [make_result("mf-warm"), failed, make_result("hub-xet"), make_result("hub-large")]

    table = render_summary(results, [("a chart", "perf/charts/summary.svg")])

    assert table.splitlines() == [
        "![a chart](perf/charts/summary.svg)",
        "",
        "| scenario | hftransfer | fastest peer | its time | ratio |",
        "| --- | ---: | --- | ---: | ---: |",
        "| **hub-large**: 2 GB | 2.00 s | curl (no listing, verifies nothing) | 4.00 s | 0.50 |",
        "| **mf-warm**: 2 GB | 2.00 s | curl (no listing, verifies nothing) | 4.00 s | 0.50 |",
    ]
    assert len(SUMMARY_SCENARIOS) == 6


@given(st.text(), st.text(), st.text())
def test_only_the_text_between_the_markers_changes(before: str, old: str, after: str) -> None:
    """The text before and after the markers is not modified."""
    text = f"{before}{BEGIN}{old}{END}{after}"
    if text.count(BEGIN) == text.count(END) == 1:
        assert replace_block(text, "block", "new") == f"{before}{BEGIN}\nnew\n{END}{after}"


@pytest.mark.parametrize("text", ["", BEGIN, END, END + BEGIN, 2 * (BEGIN + END)])
def test_missing_or_repeated_markers_are_rejected(text: str) -> None:
    """A file is only changed if the place is unambiguous."""
    with pytest.raises(ValueError, match="once each"):
        replace_block(text, "block", "new")
