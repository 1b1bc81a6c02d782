"""The JSON form of results, and the summary of each tool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf.report.results import (
    ResultError,
    fastest_peer,
    latest_results,
    read_results,
    summaries,
)
from support.perf import make_result, make_run


def test_the_json_has_the_documented_keys() -> None:
    """Other programs read these keys; `perf/README.md` documents them."""
    value = json.loads(json.dumps(make_result().to_json()))

    assert {"scenario", "bytes", "files", "runs", "ratio", "machine"} <= value.keys()
    required = {"tool", "version", "wall_s", "user_s", "sys_s", "peak_rss_mb", "ok"}
    assert all(required <= each.keys() for each in value["runs"])
    assert value["ratio"]["curl"] == {"wall": 0.5, "cpu": 0.5}
    assert "hftransfer" not in value["ratio"]
    assert value["runs"][0]["timeline"][0] == [0.2, 250_000_000]


def test_a_failed_run_has_no_ratio() -> None:
    """The runs of a tool that failed are counted, but enter no ratio."""
    rows = {row.tool: row for row in summaries(make_result())}

    assert make_result().to_json()["ratio"]["aria2c"] == {"wall": None, "cpu": None}
    assert (rows["aria2c"].good, rows["aria2c"].runs) == (0, 1)


def test_the_busy_share_is_of_all_cores() -> None:
    """It is at most 1, although clock ticks can add up to more, and None if not measured."""
    runs = [
        make_run("curl", 0, 2.0, machine_s=3.0),
        make_run("limit", 0, 1.0, machine_s=99.0),
        make_run("rclone", 0, 1.0),
    ]
    rows = {row.tool: row.busy for row in summaries(make_result(runs=runs))}

    assert rows == {"curl": 0.75, "limit": 1.0, "rclone": None}


def test_ours_is_the_first_row_and_the_limit_the_last() -> None:
    """Between them are the peers by wall time, those that failed after the others."""
    tools = [row.tool for row in summaries(make_result())]

    assert tools == ["hftransfer", "curl", "aria2c", "limit"]


def test_the_fastest_peer_is_a_third_party_that_succeeded() -> None:
    """Variants of hftransfer and of the limit are not peers, and neither is a failed tool."""
    others = ("hftransfer-nosha", "limit-stored", "half-download")
    runs = [*make_result().runs, *(make_run(tool, 0, 0.1) for tool in others)]
    runs.append(make_run("wget", 0, 0.1, ok=False))

    peer = fastest_peer(summaries(make_result(runs=runs)))

    assert peer is not None
    assert peer.tool == "curl"
    assert fastest_peer([]) is None


def test_results_survive_a_file(tmp_path: Path) -> None:
    """A file may contain several results; reading returns what was written."""
    path = tmp_path / "runs.json"
    both = [make_result(), make_result("hub-small", notes=["a note"])]
    path.write_text("\n".join(json.dumps(each.to_json()) for each in both))

    read = read_results([path])

    assert [each.to_json() for each in read] == [each.to_json() for each in both]


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"scenario": "x", "runs": 3}'])
def test_a_file_of_another_form_is_rejected(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    path = tmp_path / "other.json"
    path.write_text(text)

    with pytest.raises(ResultError, match=r"other\.json"):
        read_results([path])


def test_the_last_result_of_a_scenario_counts() -> None:
    """A repeated measurement replaces the previous one."""
    again = make_result(bytes=1)
    other = make_result("hub-small")

    assert latest_results([make_result(), other, again]) == [again, other]
