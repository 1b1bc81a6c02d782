"""Whether a file on the disk is what the Hub has, and copies of files that are.

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

_PIECE = 4 << 20  # bytes between two looks for the cancellation of the task that waits


def has_content(file: Path, entry: Entry) -> bool:
    """Return True if `file` has the size and digest of `entry`.

    Raises:
        OSError: if it cannot be read.
    """
    if entry.digest is None or file.stat().st_size != entry.size:
        return False
    hasher = new_hasher(entry.digest.algorithm, entry.size)
    buffer = memoryview(bytearray(_PIECE))
    with open(file, "rb", buffering=0) as source:
        while count := source.readinto(buffer):
            from_thread.check_cancelled()
            hasher.update(buffer[:count])
    return hasher.hexdigest() == entry.digest.value


def copy_verified(source: Path, target: Path, temporary: Path, entry: Entry) -> bool:
    """Copy `source` to `target` if it has the digest of `entry`: a cache can be damaged."""
    if not has_content(source, entry):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        buffer = memoryview(bytearray(_PIECE))
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
