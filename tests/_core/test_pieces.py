"""`hftransfer._core.pieces`: which parts of a chunk are stored, and whether they are right."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.digests import chunk_digest
from hftransfer._core.pieces import Piece, digest_with_pieces, missing_ranges, select_disjoint

START, STOP = 100, 200

_pieces = st.lists(
    st.builds(Piece, st.integers(80, 210), st.integers(0, 60), st.sampled_from("ab")), max_size=10
)


@given(pieces=_pieces)
def test_selected_and_missing_ranges_are_the_chunk(pieces: list[Piece]) -> None:
    """Every byte of the chunk is in exactly one selected piece or missing range."""
    selected = select_disjoint(pieces, START, STOP)
    ranges = [(piece.start, piece.stop) for piece in selected]
    ranges += missing_ranges(selected, START, STOP)

    assert sorted(b for start, stop in ranges for b in range(start, stop)) == [*range(START, STOP)]
    assert set(selected) <= set(pieces)


@given(data=st.data(), pieces=_pieces)
def test_the_selection_depends_only_on_the_set(data: st.DataObject, pieces: list[Piece]) -> None:
    """The order of the records does not matter."""
    other = data.draw(st.permutations(pieces))

    assert select_disjoint(pieces, START, STOP) == select_disjoint(other, START, STOP)


@given(
    data=st.binary(min_size=1, max_size=300),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    damaged=st.sets(st.integers(0, 5)),
)
def test_only_pieces_with_the_bytes_of_the_chunk_are_intact(
    data: bytes, cuts: list[int], damaged: set[int]
) -> None:
    """The digest is that of the whole chunk, whatever its pieces are."""
    bounds = sorted({0, *(min(cut, len(data)) for cut in cuts)})
    pieces, right = [], []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if number % 2 and number not in damaged:
            continue  # a gap
        digest = chunk_digest(memoryview(data[start:stop]))
        piece = Piece(START + start, stop - start, "0" * 32 if number in damaged else digest)
        pieces.append(piece)
        if number not in damaged:
            right.append(piece)

    digest, intact = digest_with_pieces(memoryview(data), START, pieces)

    assert digest == chunk_digest(memoryview(data))
    assert intact == right
