"""The journal: a file beside a partial file that records what has been written.

A journal is a text file. Its first line is a JSON header that identifies the content and the chunk
size. Every other line was appended after the bytes that it records had been written; digests are
XXH3-128 in hex::

    <chunk index> <digest>                               a whole chunk
    <chunk index> <offset in the file> <bytes> <digest>  a piece of a chunk whose rest was missing

The journal is not flushed to the disk, because a resumed transfer reads everything that is
recorded back and verifies it: a record without its data (after a power failure) costs one request.
An incomplete last line is ignored. Of two lines that contradict each other the later one counts.
A journal of version 1, which had no pieces, is continued: its readers ignore their lines.

Everything here but `format_header` and `parse_journal` blocks and belongs in worker threads.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hftransfer._core.pieces import Piece
from hftransfer._io.regular_file import UnsafeFileError, open_regular

__all__ = (
    "Journal",
    "JournalRecords",
    "format_header",
    "parse_journal",
)

_VERSION = 2
_READ_SIZE = 1 << 20  # bytes
_RECORD = re.compile(r"(\d{1,9})(?: (\d{1,19}) (\d{1,19}))? ([0-9a-f]{32})")


@dataclass(frozen=True)
class JournalRecords:
    """What a journal records. Nothing in it is verified."""

    chunks: Mapping[int, str] = field(default_factory=dict)
    """Whole chunks: index to XXH3-128 in hex."""
    pieces: Mapping[int, Sequence[Piece]] = field(default_factory=dict)
    """Pieces of other chunks, by the index of the chunk. They may overlap."""


def format_header(identity: str, size: int, chunk_size: int) -> str:
    """Return the first line of a journal, without its newline.

    Args:
        identity: of the content, such as its digest or ETag.
        size: of the file, bytes.
        chunk_size: bytes.
    """
    fields = {"hftransfer": _VERSION, "identity": identity, "size": size, "chunk_size": chunk_size}
    return json.dumps(fields, sort_keys=True)


def _in_version_1(header: str) -> str:
    # The keys are sorted, so that the identity, which may contain anything, comes later.
    return header.replace(f'"hftransfer": {_VERSION}', '"hftransfer": 1', 1)


def parse_journal(text: str, header: str) -> JournalRecords:
    """Return what a journal records.

    Args:
        text: of the journal.
        header: as of `format_header`. If the first line differs, nothing is returned.
    """
    first, newline, rest = text.partition("\n")
    if not newline or first not in (header, _in_version_1(header)):
        return JournalRecords()
    chunks: dict[int, str] = {}
    pieces: dict[int, dict[int, Piece]] = {}
    # The text after the last newline is an incomplete record, or empty.
    for line in rest.split("\n")[:-1]:
        record = _RECORD.fullmatch(line)
        if record is None:
            continue
        index, digest = int(record[1]), record[4]
        if record[2] is None:
            chunks[index] = digest
            pieces.pop(index, None)
        else:
            # A piece after the whole chunk: what was recorded before it had turned out wrong.
            chunks.pop(index, None)
            piece = Piece(int(record[2]), int(record[3]), digest)
            pieces.setdefault(index, {})[piece.start] = piece
    return JournalRecords(chunks, {index: tuple(found.values()) for index, found in pieces.items()})


class Journal:
    """An open journal.

    Args:
        path: of the file, which is created if it is missing.
        header: as of `format_header`. A journal with another header is discarded.

    Raises:
        OSError: if the file cannot be opened or written.
    """

    def __init__(self, path: Path, header: str) -> None:
        self.path = path
        self._fd = _open(path)
        try:
            text = _read_all(self._fd).decode("ascii", errors="replace")
            self.records = parse_journal(text, header)
            """What an earlier process recorded."""
            self.is_empty = not (self.records.chunks or self.records.pieces)
            """True until something is recorded."""
            if self.is_empty:
                if text:
                    os.ftruncate(self._fd, 0)
                os.write(self._fd, header.encode() + b"\n")
            elif not text.endswith("\n"):
                os.write(self._fd, b"\n")
        except BaseException:
            self.close()
            raise

    def append(self, index: int, digest: str) -> None:
        """Record one chunk. Thread-safe: a single write to a file with O_APPEND is atomic.

        Raises:
            OSError: if the record cannot be written.
        """
        self._append(f"{index} {digest}\n")

    def append_pieces(self, pieces: Iterable[tuple[int, Piece]]) -> None:
        """Record pieces of chunks, given with the index of their chunk. Thread-safe.

        Raises:
            OSError: if the records cannot be written.
        """
        self._append(
            "".join(
                f"{index} {piece.start} {piece.size} {piece.digest}\n" for index, piece in pieces
            )
        )

    def _append(self, lines: str) -> None:
        data = lines.encode()
        if os.write(self._fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.is_empty = False

    def close(self) -> None:
        """Close the file and keep it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def _open(path: Path) -> int:
    """Open or create the file; what else is at `path`, such as a planted link, is removed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    try:
        return open_regular(path, flags)
    except UnsafeFileError:
        # The name is this process's: it has locked the data file. Removing a link does not
        # change what the link points to.
        path.unlink()
        return open_regular(path, flags | os.O_EXCL)


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, _READ_SIZE):
        parts.append(part)
    return b"".join(parts)
