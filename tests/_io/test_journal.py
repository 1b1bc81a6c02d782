"""`hftransfer._io.journal`: only complete records of the same content are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.pieces import Piece
from hftransfer._io.journal import Journal, JournalRecords, format_header, parse_journal

HEADER = format_header("commit:abc", 100, 10)
OTHERS = [
    format_header("commit:abd", 100, 10),
    format_header("commit:abc", 101, 10),
    format_header("commit:abc", 100, 11),
    "",
    "{}",
]

_xxh3 = st.text("0123456789abcdef", min_size=32, max_size=32)
_records = st.lists(st.tuples(st.integers(0, 120), _xxh3), max_size=8)


def _text(records: list[tuple[int, str]]) -> str:
    return "".join([f"{HEADER}\n", *(f"{index} {digest}\n" for index, digest in records)])


@given(records=_records)
def test_records_are_read_back(records: list[tuple[int, str]]) -> None:
    """Index and digest of every record; of two records for one chunk the later one."""
    assert parse_journal(_text(records), HEADER).chunks == dict(records)


@given(records=_records, data=st.data())
def test_a_truncated_journal_yields_no_wrong_record(
    records: list[tuple[int, str]], data: st.DataObject
) -> None:
    """Truncated at any byte, it contains exactly the records before that byte."""
    text = _text(records)
    cut = data.draw(st.integers(0, len(text)))
    whole = text[:cut].count("\n") - 1

    assert parse_journal(text[:cut], HEADER).chunks == dict(records[: max(0, whole)])


@given(records=_records, noise=st.text(max_size=60))
def test_other_lines_are_ignored(records: list[tuple[int, str]], noise: str) -> None:
    """They do not affect the records around them."""
    line = f"x{noise}".replace("\n", " ")

    assert parse_journal(f"{_text(records)}{line}\n", HEADER).chunks == dict(records)


@pytest.mark.parametrize("other", OTHERS)
def test_another_header_means_other_content(other: str) -> None:
    """Identity, size and chunk size must be equal."""
    assert parse_journal(_text([(0, "0" * 32)]), other) == JournalRecords()


@given(identity=st.text())
def test_a_header_is_one_line_of_ascii(identity: str) -> None:
    """No identity can break the format."""
    header = format_header(identity, 1, 1)

    assert header.isascii()
    assert "\n" not in header


def _digest(number: int) -> str:
    return f"{number:032x}"


def test_appended_records_are_read_by_the_next_journal(tmp_path: Path) -> None:
    """Also if the first one was not closed, as after a kill."""
    path = tmp_path / "j"
    first = Journal(path, HEADER)
    emptiness = [first.is_empty]
    first.append(3, _digest(1))
    first.append(0, _digest(2))
    emptiness.append(first.is_empty)

    second = Journal(path, HEADER)

    assert second.records.chunks == {3: _digest(1), 0: _digest(2)}
    assert [*emptiness, second.is_empty] == [True, False, False]
    first.close()
    second.close()


@pytest.mark.parametrize("cut", range(1, 36))
def test_appending_after_an_incomplete_record(tmp_path: Path, cut: int) -> None:
    """The incomplete line is not joined with the record after it."""
    path = tmp_path / "j"
    path.write_text(_text([(1, _digest(1)), (2, _digest(2))])[:-cut])
    journal = Journal(path, HEADER)
    journal.append(7, _digest(7))
    journal.close()

    again = Journal(path, HEADER)

    torn = {2: _digest(2)} if cut == 1 else {}  # only its newline was missing
    assert again.records.chunks == {1: _digest(1), 7: _digest(7), **torn}
    again.close()


def test_a_journal_of_other_content_is_discarded(tmp_path: Path) -> None:
    """Its records are deleted, not only skipped."""
    path = tmp_path / "j"
    old = Journal(path, HEADER)
    old.append(0, _digest(1))
    old.close()

    new = Journal(path, OTHERS[0])
    assert new.records.chunks == {}
    new.close()

    assert path.read_text() == f"{OTHERS[0]}\n"


def test_a_damaged_journal_is_empty(tmp_path: Path) -> None:
    """The transfer starts from the beginning."""
    path = tmp_path / "j"
    path.write_bytes(bytes(range(256)))
    journal = Journal(path, HEADER)

    assert journal.records.chunks == {}
    journal.append(0, _digest(5))
    journal.close()
    assert path.read_text() == _text([(0, _digest(5))])


def test_close_and_remove_can_be_repeated(tmp_path: Path) -> None:
    """The second call has no effect."""
    journal = Journal(tmp_path / "j", HEADER)
    journal.close()
    journal.remove()
    journal.remove()

    assert list(tmp_path.iterdir()) == []


def test_pieces_are_read_back_until_their_chunk_is_whole(tmp_path: Path) -> None:
    """Of two pieces at one offset the later counts; a whole chunk replaces its pieces."""
    path = tmp_path / "j"
    journal = Journal(path, HEADER)
    journal.append_pieces([(1, Piece(10, 2, _digest(1))), (2, Piece(20, 3, _digest(2)))])
    journal.append_pieces([(1, Piece(10, 4, _digest(3))), (1, Piece(16, 2, _digest(4)))])
    journal.append(2, _digest(5))
    assert not journal.is_empty
    journal.close()

    records = Journal(path, HEADER).records

    assert dict(records.chunks) == {2: _digest(5)}
    assert dict(records.pieces) == {1: (Piece(10, 4, _digest(3)), Piece(16, 2, _digest(4)))}


def test_a_piece_after_its_whole_chunk_replaces_it() -> None:
    """The chunk had turned out wrong, and is being fetched again."""
    text = f"{HEADER}\n3 {_digest(1)}\n3 30 5 {_digest(2)}\n"

    records = parse_journal(text, HEADER)

    assert dict(records.chunks) == {}
    assert dict(records.pieces) == {3: (Piece(30, 5, _digest(2)),)}


def test_a_journal_of_version_1_is_continued(tmp_path: Path) -> None:
    """An update of this package in the middle of a download loses nothing."""
    path = tmp_path / "j"
    old = '{"chunk_size": 10, "hftransfer": 1, "identity": "commit:abc", "size": 100}'
    path.write_text(f"{old}\n4 {_digest(4)}\n")

    journal = Journal(path, HEADER)
    journal.append_pieces([(5, Piece(50, 1, _digest(5)))])
    journal.close()

    records = Journal(path, HEADER).records
    assert dict(records.chunks) == {4: _digest(4)}
    assert dict(records.pieces) == {5: (Piece(50, 1, _digest(5)),)}
