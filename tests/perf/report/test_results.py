"""The JSON document, and what is drawn from it: table, README, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.report.charts import charts, rates
from perf.report.markdown import BEGIN, END, insert, latest, markdown
from perf.report.results import Document, DocumentError, Run, read_documents, summaries
from perf.report.table import text_table

MACHINE = {"cores": 2, "cpu": "a <b> & c", "memory_gb": 24.0, "kernel": "6.1", "python": "3.11"}


def run(tool: str, index: int, wall: float, **changes: object) -> Run:
    values: dict[str, object] = {
        "version": "1.0",
        "user_s": wall / 2,
        "sys_s": wall / 4,
        "peak_rss_mb": 100.0 + wall,
        "ok": True,
        "requests": {"hub": 2, "cdn": 5},
        **changes,
    }
    return Run(tool=tool, round=index, wall_s=wall, **values)  # type: ignore[arg-type]


def document(name: str = "hub-large", **changes: object) -> Document:
    timeline = [(0.2 * i, 250_000_000 * i) for i in range(1, 9)]
    runs = [
        *(run("hftransfer", i, 1.0 + i, timeline=timeline) for i in range(3)),
        *(run("curl", i, 2.0 + 2 * i) for i in range(3)),
        *(run("limit", i, 0.5) for i in range(3)),
        run("aria2c", 0, 3.0, ok=False, error="exit status 1: no | pipes"),
    ]
    values: dict[str, object] = {"bytes": 2_000_000_000, "files": 1, "runs": runs, **changes}
    return Document(scenario=name, machine=MACHINE, summary="2 GB", **values)  # type: ignore[arg-type]


def test_the_document_has_the_agreed_form() -> None:
    """Other programs read these keys."""
    value = json.loads(json.dumps(document().to_json()))

    assert {"scenario", "bytes", "files", "runs", "ratio", "machine"} <= value.keys()
    required = {"tool", "version", "wall_s", "user_s", "sys_s", "peak_rss_mb", "ok"}
    assert all(required <= each.keys() for each in value["runs"])
    assert value["ratio"]["curl"] == {"wall": 0.5, "cpu": 0.5}
    assert "hftransfer" not in value["ratio"]
    assert value["runs"][0]["timeline"][0] == [0.2, 250_000_000]


def test_a_failed_run_is_reported_and_never_counted() -> None:
    """A tool that failed has ok false, its reason, and no ratio."""
    rows = {row.tool: row for row in summaries(document())}

    assert document().to_json()["ratio"]["aria2c"] == {"wall": None, "cpu": None}
    assert (rows["aria2c"].good, rows["aria2c"].runs) == (0, 1)
    assert "aria2c (0/1 good)" in text_table(document())
    assert "aria2c failed: exit status 1" in text_table(document())
    assert "0 of 1 runs good" in markdown([document()])


def test_how_busy_the_machine_was_is_a_share_of_its_cores() -> None:
    """Of two here, at most both, whatever the ticks say; nothing where it was not measured."""
    runs = [run("curl", 0, 2.0, machine_s=3.0), run("limit", 0, 1.0, machine_s=99.0)]
    rows = {row.tool: row.busy for row in summaries(document(runs=[*runs, run("rclone", 0, 1.0)]))}

    assert rows == {"curl": 0.75, "limit": 1.0, "rclone": None}


def test_ours_comes_first_and_the_limit_last() -> None:
    """Peers are by wall time; behind those that failed stands the limit, which is no peer."""
    assert [row.tool for row in summaries(document())] == ["hftransfer", "curl", "aria2c", "limit"]


def test_documents_survive_a_file(tmp_path: Path) -> None:
    """A file may hold several documents; nothing is lost between writing and reading."""
    path = tmp_path / "runs.json"
    both = [document(), document("hub-small")]
    path.write_text("\n".join(json.dumps(each.to_json()) for each in both))

    read = read_documents([path])

    assert [each.to_json() for each in read] == [each.to_json() for each in both]


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", '{"scenario": "x", "runs": 3}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    """What is no document is named as such, with the file."""
    path = tmp_path / "other.json"
    path.write_text(text)

    with pytest.raises(DocumentError, match=r"other\.json"):
        read_documents([path])


def test_the_last_document_of_a_scenario_counts() -> None:
    """A run that was repeated replaces the one before."""
    again = document(bytes=1)

    assert latest([document(), document("hub-small"), again]) == [again, document("hub-small")]


def test_the_fastest_peer_is_nobody_of_ours() -> None:
    """Neither the limit nor a variant of it or of ours is a peer."""
    variants = [run(tool, 0, 0.1) for tool in ("hftransfer-nosha", "limit-stored")]
    runs = [*document().runs, *variants]
    line = next(
        each for each in markdown([document(runs=runs)]).splitlines() if "hub-large" in each
    )

    assert "| curl | 4.00 s | 0.50 | 0.50 |" in line


@given(st.text(), st.text(), st.text())
def test_only_the_part_between_the_markers_changes(before: str, old: str, after: str) -> None:
    """Whatever stands around the markers stays byte for byte."""
    text = f"{before}{BEGIN}{old}{END}{after}"
    if text.count(BEGIN) == text.count(END) == 1:
        assert insert(text, "new") == f"{before}{BEGIN}\nnew\n{END}{after}"


@pytest.mark.parametrize("text", ["", BEGIN, END, END + BEGIN, 2 * (BEGIN + END)])
def test_missing_or_doubled_markers_are_refused(text: str) -> None:
    """A README is not guessed at."""
    with pytest.raises(ValueError, match="once each"):
        insert(text, "new")


@pytest.mark.parametrize("first", [document(), document(runs=[]), document(bytes=0)])
def test_every_picture_is_well_formed(first: Document) -> None:
    """Whatever was measured, the pictures are XML, with the texts escaped."""
    documents = [first, document("s3-get-large"), document("hub <&> odd")]

    for title, picture in charts(documents).values():
        root = ElementTree.fromstring(picture)  # noqa: S314 - our own text
        assert root.tag.endswith("svg")
        assert title in "".join(root.itertext())


def test_a_picture_labels_every_tool_with_its_values() -> None:
    """Nobody has to read lengths off an axis."""
    _, picture = charts([document()])["hub-times.svg"]

    for label in ("hftransfer", "curl", "limit", "aria2c", "4.00", "3.00", "failed in every run"):
        assert f">{label}<" in picture


@given(
    st.lists(st.tuples(st.floats(0.001, 2), st.integers(0, 10**9)), min_size=1, max_size=60),
    st.integers(1, 90),
)
def test_rates_add_up_to_what_was_moved(steps: list[tuple[float, int]], points: int) -> None:
    """The area under the curve is the bytes."""
    timeline, now, total = [], 0.0, 0
    for seconds, count in steps:
        now, total = now + seconds, total + count
        timeline.append((now, total))

    curve = rates(timeline, points)

    width = now / len(curve)
    assert sum(rate * width for _, rate in curve) == pytest.approx(total, rel=1e-6, abs=1)
    assert all(0 <= time <= now for time, _ in curve)
