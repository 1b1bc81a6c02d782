"""Pieces: parts of a chunk that are stored before the rest of the chunk has arrived."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hftransfer._core.digests import chunk_digest, new_hasher

__all__ = ("Piece", "digest_with_pieces", "missing_ranges", "select_disjoint")


class Piece(NamedTuple):
    """A byte range of a file, and its digest."""

    start: int
    """Offset in the file."""
    size: int
    """Bytes."""
    digest: str
    """XXH3-128 in hex."""

    @property
    def stop(self) -> int:
        """Offset in the file after the last byte."""
        return self.start + self.size


def select_disjoint(pieces: Iterable[Piece], start: int, stop: int) -> list[Piece]:
    """Return pieces inside of ``[start, stop)`` that do not overlap, in file order.

    Of two that overlap the one that begins first is taken, and of two that begin together the
    longer one. The result depends only on the set of pieces.

    Args:
        pieces: in any order.
        start: offset in the file of the chunk.
        stop: offset in the file after the chunk.
    """
    selected: list[Piece] = []
    position = start
    for piece in sorted(pieces, key=lambda piece: (piece.start, -piece.size, piece.digest)):
        if piece.start >= position and piece.size > 0 and piece.stop <= stop:
            selected.append(piece)
            position = piece.stop
    return selected


def missing_ranges(pieces: Sequence[Piece], start: int, stop: int) -> list[tuple[int, int]]:
    """Return the ranges ``[first, second)`` of ``[start, stop)`` that no piece covers.

    Args:
        pieces: as of `select_disjoint`.
        start: offset in the file of the chunk.
        stop: offset in the file after the chunk.
    """
    missing = []
    position = start
    for piece in pieces:
        if piece.start > position:
            missing.append((position, piece.start))
        position = piece.stop
    if position < stop:
        missing.append((position, stop))
    return missing


def digest_with_pieces(
    data: memoryview, start: int, pieces: Sequence[Piece]
) -> tuple[str, list[Piece]]:
    """Return the XXH3-128 of `data` in hex, and those of `pieces` that have the same bytes.

    A piece at the beginning of `data` is compared on the way; another one is hashed once more.

    Args:
        data: a chunk.
        start: offset in the file of the chunk.
        pieces: parts of the chunk, as of `select_disjoint`.
    """
    hasher = new_hasher("xxhash128", len(data))
    hashed = 0
    intact = []
    for piece in pieces:
        first = piece.start - start
        part = data[first : first + piece.size]
        if first == 0:
            hasher.update(part)
            hashed = piece.size
            found = hasher.hexdigest()
        else:
            found = chunk_digest(part)
        if found == piece.digest:
            intact.append(piece)
    hasher.update(data[hashed:])
    return hasher.hexdigest(), intact
