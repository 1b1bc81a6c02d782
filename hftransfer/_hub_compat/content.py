"""Compares a file on the disk with its digest on the Hub, and copies files that match.

Everything here blocks and belongs into worker threads.
"""

from __future__ import annotations

import os
from pathlib import Path

from anyio import from_thread

from hftransfer._core.digests import new_hasher
from hftransfer._io.partial_file import mark_in_use
from hftransfer.stores.base import Entry

__all__ = ("copy_verified", "has_content")

_BLOCK_SIZE = 4 << 20  # bytes between two checks whether the waiting task was cancelled


def has_content(file: Path, entry: Entry) -> bool:
    """Return True if `file` has the size and digest of `entry`. Reads the whole file.

    Raises:
        OSError: if it cannot be read.
    """
    if entry.digest is None or file.stat().st_size != entry.size:
        return False
    hasher = new_hasher(entry.digest.algorithm, entry.size)
    buffer = memoryview(bytearray(_BLOCK_SIZE))
    with open(file, "rb", buffering=0) as source:
        while count := source.readinto(buffer):
            from_thread.check_cancelled()
            hasher.update(buffer[:count])
    return hasher.hexdigest() == entry.digest.value


def copy_verified(source: Path, target: Path, temporary: Path, entry: Entry) -> bool:
    """Copy `source` to `target` if it has the digest of `entry`; a cached file may be damaged.

    Args:
        source: file in the cache.
        target: final path; it is replaced by a rename.
        temporary: path on the file system of `target`.
        entry: has size and digest.

    Returns:
        False, without writing anything, if the digest differs.
    """
    if not has_content(source, entry):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        buffer = memoryview(bytearray(_BLOCK_SIZE))
        with open(source, "rb", buffering=0) as reader, open(temporary, "xb") as writer:
            mark_in_use(writer.fileno())
            while count := reader.readinto(buffer):
                from_thread.check_cancelled()
                writer.write(buffer[:count])
            writer.flush()
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True
