"""Records by which a later run knows, without a request or a read, what a destination holds.

A record says: this object, in the version that the store lists, has the bytes of this version of
this local file. It is a hash of all of these, so a set of records is all that is needed, and any
change on either side makes it miss; the contents are then compared. Losing records costs such
comparisons and nothing else. So there is one file per destination without a lock: it is read
once, and replaced by the old and the new records when a transfer has succeeded.

The file has a line that names the format, followed by the records of 16 bytes each, sorted.
`load` and `save` block and belong in worker threads.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from hftransfer._io.atomic_write import write_atomically
from hftransfer._io.state_folder import state_folder

__all__ = ("RECORD_SIZE", "VersionRecords", "record_of")

RECORD_SIZE = 16
"""Bytes."""

_HEADER = b"hftransfer-records 1\n"
_SUFFIX = ".records"
# Records per file: 4 MiB. Files beyond are compared at every run.
_MAX_RECORDS = 1 << 18
# Seconds after which a file that no transfer has replaced is deleted.
_MAX_AGE = 90 * 24 * 3600.0


def record_of(*parts: str) -> bytes:
    """Return the record of an object: its name, its version, and that of the local file."""
    hasher = hashlib.blake2b(digest_size=RECORD_SIZE)
    for part in parts:
        encoded = part.encode("utf-8", errors="surrogateescape")
        hasher.update(b"%d:" % len(encoded))
        hasher.update(encoded)
    return hasher.digest()


class VersionRecords:
    """The records of one destination. Used by one task at a time; no record is there before `load`.

    Args:
        name: of the destination.
        folder: of the files. Default: ``$XDG_STATE_HOME/hftransfer/records``.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.path = (folder or state_folder("records")) / f"{record_of(name).hex()}{_SUFFIX}"
        self._stored = b""
        """Sorted records, without the header."""
        self._added: set[bytes] = set()
        self._used: set[bytes] = set()
        """Records that this run has asked for and found."""

    def load(self) -> None:
        """Read the file. A file that is missing, unreadable or of another format has no records."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return
        records = content[len(_HEADER) :]
        if content.startswith(_HEADER) and len(records) % RECORD_SIZE == 0:
            self._stored = records

    def __contains__(self, record: bytes) -> bool:
        found = record in self._added or self._find(record)
        if found:
            self._used.add(record)
        return found

    def _find(self, record: bytes) -> bool:
        low, high = 0, len(self._stored) // RECORD_SIZE
        while low < high:
            middle = (low + high) // 2
            if self._at(middle) < record:
                low = middle + 1
            else:
                high = middle
        return self._at(low) == record

    def _at(self, index: int) -> bytes:
        return self._stored[index * RECORD_SIZE : (index + 1) * RECORD_SIZE]

    def add(self, record: bytes) -> None:
        """Add a record, which `save` writes."""
        if len(self._added) < _MAX_RECORDS:
            self._added.add(record)

    def save(self) -> None:
        """Write the file if there are new records. A file that cannot be written is left out."""
        if not self._added:
            return
        self.load()  # another process may have replaced it
        content = bytearray(_HEADER)
        count = len(self._stored) // RECORD_SIZE + len(self._added)
        if count > _MAX_RECORDS:  # records of objects that are gone by now make up most of them
            kept: Iterator[bytes] = iter(self._surviving())
        else:
            kept = (self._at(index) for index in range(len(self._stored) // RECORD_SIZE))
        last = b""
        for record in heapq.merge(kept, sorted(self._added)):
            if record != last:
                content += record
            last = record
        with suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.path, bytes(content))
            self._delete_old_files()

    def _surviving(self) -> Sequence[bytes]:
        """Return the stored records that this run has used, as many as there is room for."""
        return sorted(self._used - self._added)[: _MAX_RECORDS - len(self._added)]

    def _delete_old_files(self) -> None:
        oldest = time.time() - _MAX_AGE
        for path in self.path.parent.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()
