"""Whether the files of a transfer fit on the disk, before any byte is moved.

What an interrupted transfer left is on the disk already: its partial files are allocated in full
length, and its finished files are there. Only what is missing is compared with the free space.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hftransfer._io.atomic_write import create_exclusive, temporary_name
from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.partial_file import allocated_sizes
from hftransfer.errors import DestinationError, DiskFullError

__all__ = ("PlannedFile", "check_destination", "free_space", "missing_space", "space_needed")


class PlannedFile(NamedTuple):
    """A file that is to be written."""

    target: Path
    """Its final name."""
    size: int
    """Bytes."""
    folder: Path
    """Folder of its partial file."""
    prefix: str
    """Of the name of its partial file."""


def space_needed(files: Iterable[tuple[int, int, int]]) -> int:
    """Return how many bytes must be free for files that replace others.

    A file that is replaced gives its space back, but not before the new one is complete: at least
    the largest one must fit beside the old one.

    Args:
        files: for each the size in bytes, what its partial file occupies, and what the file of
            the same name occupies.
    """
    total, largest = 0, 0
    for size, partial, replaced in files:
        missing = max(0, size - partial)
        total += missing - min(replaced, size)
        largest = max(largest, missing)
    return max(total, largest)


def missing_space(files: Sequence[PlannedFile]) -> int:
    """Return how many bytes must be free to write `files`. Blocks."""
    partial = {folder: allocated_sizes(folder) for folder in {file.folder for file in files}}
    return space_needed(
        (file.size, partial[file.folder].get(file.prefix, 0), _allocated(file.target))
        for file in files
    )


def free_space(folder: Path) -> int | None:
    """Return the free bytes of the file system of an existing folder, or None if it reports none.

    Pseudo file systems and some network file systems report no size at all.

    Raises:
        OSError: if it cannot be asked.
    """
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def check_destination(folder: Path, size: int, missing: Callable[[], int]) -> None:
    """Check that `folder`, or its nearest existing parent, can take the files of a transfer.

    Blocks.

    Args:
        folder: the destination.
        size: of all files, bytes.
        missing: returns the bytes that must be free; called if fewer than `size` are.

    Raises:
        DestinationError: if a file is in the way or the folder is not writable.
        DiskFullError: if the file system has not enough free space.
    """
    existing = folder
    with map_write_errors(folder):
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise DestinationError(f"cannot write to {folder}: {existing} is a file")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DestinationError(f"cannot write to {folder}: {existing} is not writable")
        free = free_space(existing)
        if free is None:
            _try_to_write(existing)
            return
    if free < size and free < (needed := missing()):
        raise DiskFullError(f"no space in {existing}: {needed} bytes are needed, {free} are free")


def _try_to_write(folder: Path) -> None:
    """Create and remove a file: pseudo file systems are not as writable as they say."""
    path = folder / temporary_name()
    try:
        fd = create_exclusive(path)
    except OSError as error:
        raise DestinationError(
            f"cannot write to {folder}: its file system takes no files ({error.strerror})"
        ) from error
    os.close(fd)
    path.unlink()


def _allocated(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
