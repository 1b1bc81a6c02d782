"""`hftransfer._io.version_records`: a sorted file of records, which may be lost at any time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._io import version_records
from hftransfer._io.version_records import RECORD_SIZE, VersionRecords, record_of

_sets = st.sets(st.binary(min_size=RECORD_SIZE, max_size=RECORD_SIZE), max_size=20)


@given(first=_sets, second=_sets, others=_sets)
def test_what_was_added_is_found_by_the_next_run(
    first: set[bytes], second: set[bytes], others: set[bytes]
) -> None:
    """Records of several runs are merged, sorted and without duplicates; no other is found."""
    with tempfile.TemporaryDirectory() as folder:
        for records in (first, second):
            run = VersionRecords("destination", Path(folder))
            run.load()
            for record in records:
                run.add(record)
            run.save()
        last = VersionRecords("destination", Path(folder))
        last.load()

        for record in first | second | others:
            assert (record in last) == (record in first | second)
        if first | second:
            stored = last.path.read_bytes().partition(b"\n")[2]
            assert stored == b"".join(sorted(first | second))


def test_destinations_have_files_of_their_own(tmp_path: Path) -> None:
    record = record_of("x")
    one, other = VersionRecords("one", tmp_path), VersionRecords("other", tmp_path)
    one.add(record)
    one.save()
    other.load()

    assert record not in other


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_different_parts_have_different_records(one: list[str], other: list[str]) -> None:
    """Also if they are the same text when they are joined."""
    assert (record_of(*one) == record_of(*other)) == (one == other)


def test_a_name_that_is_not_utf8_has_a_record() -> None:
    """Names of local files are bytes."""
    assert record_of(os.fsdecode(b"\xff")) != record_of(os.fsdecode(b"\xfe"))


@pytest.mark.parametrize(
    "content", [b"", b"hftransfer-records 2\n" + bytes(16), b"hftransfer-records 1\n" + bytes(15)]
)
def test_a_file_of_another_format_has_no_records(tmp_path: Path, content: bytes) -> None:
    """It is replaced when there are new records."""
    run = VersionRecords("destination", tmp_path)
    run.path.write_bytes(content)
    run.load()
    assert bytes(16) not in run
    run.add(record_of("x"))
    run.save()
    run.load()

    assert record_of("x") in run
    assert bytes(16) not in run


def test_records_of_a_concurrent_run_are_kept(tmp_path: Path) -> None:
    """A run that ends merges its records into the file as it is by then."""
    runs = [VersionRecords("destination", tmp_path) for _ in range(2)]
    for number, run in enumerate(runs):
        run.load()
        run.add(record_of(str(number)))
    for run in runs:
        run.save()
    last = VersionRecords("destination", tmp_path)
    last.load()

    assert record_of("0") in last
    assert record_of("1") in last


def test_a_full_file_keeps_what_this_run_has_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of replaced objects are never asked for again, and make room."""
    monkeypatch.setattr(version_records, "_MAX_RECORDS", 4)
    first = VersionRecords("destination", tmp_path)
    for number in range(4):
        first.add(record_of(str(number)))
    first.save()
    second = VersionRecords("destination", tmp_path)
    second.load()
    assert record_of("2") in second
    second.add(record_of("new"))
    second.save()
    last = VersionRecords("destination", tmp_path)
    last.load()

    found = [name for name in ("0", "1", "2", "3", "new") if record_of(name) in last]
    assert found == ["2", "new"]


def test_files_of_destinations_that_are_not_used_are_deleted(tmp_path: Path) -> None:
    """After 90 days without a new record."""
    old, recent, new = (VersionRecords(name, tmp_path) for name in ("old", "recent", "new"))
    for run in (old, recent):
        run.add(record_of("x"))
        run.save()
    os.utime(old.path, (0, 0))
    new.add(record_of("x"))
    new.save()

    assert not old.path.exists()
    assert recent.path.exists()


def test_a_folder_that_cannot_be_written_is_no_error() -> None:
    run = VersionRecords("destination", Path("/dev/null/records"))
    run.load()
    run.add(record_of("x"))
    run.save()
    assert record_of("x") in run
