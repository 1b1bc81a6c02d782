"""The table for the terminal."""

from __future__ import annotations

from perf.report.table import text_table
from support.perf import make_result


def test_a_failed_run_is_marked() -> None:
    """The row says how many runs succeeded, and the error is printed below the table."""
    table = text_table(make_result())

    assert "aria2c (0/1 good)" in table
    assert "aria2c failed: exit status 1" in table


def test_scale_and_notes_are_printed() -> None:
    """The reader must know that sizes are not the scenario's, and what limits the servers."""
    table = text_table(make_result(scale=0.125, notes=["SeaweedFS is the server"]))

    assert "scaled by 0.125" in table
    assert "note: SeaweedFS is the server" in table
