"""The journal: a file beside a partial file that records which chunks have been written.

A journal is a text file. Its first line is a JSON header that identifies the content and the chunk
size; every other line is ``<chunk index> <XXH3-128 in hex>``, appended after the chunk was written.
The journal is not flushed to the disk, because a resumed transfer reads every recorded chunk back
and verifies it: a record without its data (after a power failure) costs one request. An incomplete
last line is ignored, and of two lines for one chunk the later one counts.

Everything here but `format_header` and `parse_journal` blocks and belongs in worker threads.
"""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

from hftransfer._io.regular_file import UnsafeFileError, open_regular

__all__ = ("Journal", "format_header", "parse_journal")

_READ_SIZE = 1 << 20  # bytes
_RECORD = re.compile(r"(\d{1,9}) ([0-9a-f]{32})")


def format_header(identity: str, size: int, chunk_size: int) -> str:
    """Return the first line of a journal, without its newline.

    Args:
        identity: of the content, such as its digest or ETag.
        size: of the file, bytes.
        chunk_size: bytes.
    """
    fields = {"hftransfer": 1, "identity": identity, "size": size, "chunk_size": chunk_size}
    return json.dumps(fields, sort_keys=True)


def parse_journal(text: str, header: str) -> dict[int, str]:
    """Return the recorded chunks: index to XXH3-128 in hex.

    Args:
        text: of the journal.
        header: as of `format_header`. If the first line differs, no chunk is returned.
    """
    first, newline, rest = text.partition("\n")
    if not newline or first != header:
        return {}
    chunks = {}
    # The text after the last newline is an incomplete record, or empty.
    for line in rest.split("\n")[:-1]:
        if record := _RECORD.fullmatch(line):
            chunks[int(record[1])] = record[2]
    return chunks


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
            self.resumable_chunks = parse_journal(text, header)
            self.is_empty = not self.resumable_chunks
            """True until a chunk is recorded."""
            if not self.resumable_chunks:
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
        line = b"%d %s\n" % (index, digest.encode())
        if os.write(self._fd, line) < len(line):
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
