"""The journal: which chunks of a partial file are there, kept beside it.

A text file of lines. The first is a JSON header that names the exact content and its
layout; every further one is ``<chunk index> <XXH3-128>``, appended after the chunk was
written. Nothing is flushed to the disk for it: whoever resumes reads every journalled
chunk back and checks it, so a record that outlived its data (power failure) costs one
chunk and no correctness. A torn last line is ignored; of two lines for one chunk the
later one counts.
"""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

__all__ = ("Journal", "format_header", "parse_journal")

_RECORD = re.compile(r"(\d{1,9}) ([0-9a-f]{32})")


def format_header(identity: str, size: int, chunk_size: int) -> str:
    """Return the header line, without its newline, for one content and layout."""
    fields = {"hftransfer": 1, "identity": identity, "size": size, "chunk_size": chunk_size}
    return json.dumps(fields, sort_keys=True)


def parse_journal(text: str, header: str) -> dict[int, str]:
    """Return chunk index to digest of a journal's `text`; empty if it is about other content."""
    first, newline, rest = text.partition("\n")
    if not newline or first != header:
        return {}
    held = {}
    # What follows the last newline is torn, or empty.
    for line in rest.split("\n")[:-1]:
        if record := _RECORD.fullmatch(line):
            held[int(record[1])] = record[2]
    return held


class Journal:
    """An open journal. Methods block; call them in worker threads."""

    def __init__(self, path: Path, header: str) -> None:
        self.path = path
        try:
            text = path.read_text("ascii", errors="replace")
        except FileNotFoundError:
            text = ""
        self.resumable_chunks = parse_journal(text, header)
        self.is_empty = not self.resumable_chunks
        """True as long as no chunk is recorded."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if not self.resumable_chunks:
            flags |= os.O_TRUNC
        self._fd = os.open(path, flags, 0o666)
        if not self.resumable_chunks:
            os.write(self._fd, header.encode() + b"\n")
        elif not text.endswith("\n"):
            os.write(self._fd, b"\n")

    def append(self, index: int, digest: str) -> None:
        """Record one chunk. A single short write to an O_APPEND file is atomic between threads.

        Raises:
            OSError: if there is no room for the record.
        """
        line = b"%d %s\n" % (index, digest.encode())
        if os.write(self._fd, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.is_empty = False

    def close(self) -> None:
        """Close the file, which stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)
