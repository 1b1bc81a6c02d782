"""Compares a file on the disk with its digest on the Hub, and copies files that match.

Everything here blocks and belongs into worker threads.
"""

from __future__ import annotations

from pathlib import Path

from anyio import from_thread

from hftransfer._core.digests import new_hasher
from hftransfer._io.atomic_write import open_atomically, write_fully
from hftransfer.stores.base import Entry

__all__ = ("copy_verified", "has_content")


def has_content(file: Path, entry: Entry, window: memoryview) -> bool:
    """Return True if `file` has the size and digest of `entry`. Reads the whole file.

    Args:
        file: to read.
        entry: has size and digest.
        window: memory to read into; `HASH_WINDOW_SIZE` bytes are enough. Between two reads a
            cancellation of the waiting task takes effect.

    Raises:
        OSError: if it cannot be read.
    """
    if entry.digest is None or file.stat().st_size != entry.size:
        return False
    hasher = new_hasher(entry.digest.algorithm, entry.size)
    with open(file, "rb", buffering=0) as source:
        while count := source.readinto(window):
            from_thread.check_cancelled()
            hasher.update(window[:count])
    return hasher.hexdigest() == entry.digest.value


def copy_verified(
    source: Path, target: Path, entry: Entry, window: memoryview, *, folder: Path, prefix: str
) -> bool:
    """Copy `source` to `target` if it has the digest of `entry`; a cached file may be damaged.

    Args:
        source: file in the cache.
        target: final path; it is replaced by a rename.
        entry: has size and digest.
        window: as of `has_content`.
        folder, prefix: of the temporary file, as in `write_atomically`.

    Returns:
        False, without writing anything, if the digest differs.
    """
    if not has_content(source, entry, window):
        return False
    with (
        open(source, "rb", buffering=0) as reader,
        open_atomically(target, folder=folder, prefix=prefix) as fd,
    ):
        while count := reader.readinto(window):
            from_thread.check_cancelled()
            write_fully(fd, window[:count])
    return True
