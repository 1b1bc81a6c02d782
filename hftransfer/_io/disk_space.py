"""Whether the files of a transfer fit on the disk, before their bytes are moved.

What an interrupted transfer left is on the disk already: its partial files are allocated in full
length, and its finished files are there. Only what is missing is compared with the free space.

The files are known page by page, and those of earlier pages are being moved when a page arrives.
So what is missing of a page is looked up before its files are begun, and compared with the space
that was free at the start. Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hftransfer._io.atomic_write import temporary_name
from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.regular_file import create_exclusive
from hftransfer._io.stale_partials import StalePartials
from hftransfer.errors import DestinationError, DiskFullError

__all__ = ("FreeSpace", "PlannedFile", "SpaceNeeded", "free_space")

# Pages are not looked up as long as all files so far have less than one in this many of the free
# bytes: two system calls per file would be 2 % of the time of a small file. Those pages are left
# out of what is needed, so that no transfer that fits is refused.
_NEGLIGIBLE_SHARE = 64
_BLOCK = 512  # bytes of the unit of `st_blocks`, whatever the file system's block size is


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


@dataclass
class SpaceNeeded:
    """How many bytes must be free for files that replace others.

    A file that is replaced gives its space back, but not before the new one is complete: at least
    the largest one must fit beside the old one.
    """

    total: int = 0
    """What the disk has less afterwards, in bytes."""
    largest: int = 0
    """Most bytes that one file lacks."""

    def add(self, size: int, partial: int, replaced: int) -> None:
        """Add a file.

        Args:
            size: bytes.
            partial: bytes that its partial file occupies.
            replaced: bytes that the file of the same name occupies.
        """
        missing = max(0, size - partial)
        self.total += missing - min(replaced, size)
        self.largest = max(self.largest, missing)

    @property
    def bytes(self) -> int:
        """Bytes that must be free before the first of the files is written."""
        return max(self.total, self.largest)


class FreeSpace:
    """The free space of a destination before a transfer, compared with what it needs so far.

    Args:
        folder: an existing one, for messages.
        free: bytes; None if the file system does not tell.
        partials: the partial files that were there before the transfer.
    """

    def __init__(self, folder: Path, free: int | None, partials: StalePartials) -> None:
        self._folder = folder
        self._free = free
        self._partials = partials
        self._size = 0
        self._needed = SpaceNeeded()

    @classmethod
    def of(cls, folder: Path, partials: StalePartials) -> FreeSpace:
        """Return the free space of the file system of `folder`, or of its nearest existing parent.

        Raises:
            DestinationError: if a file is in the way or the folder is not writable.
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
        return cls(existing, free, partials)

    def require(self, size: int, files: Callable[[], Iterable[PlannedFile]]) -> None:
        """Add files to what the transfer needs: called for each page, before its files are begun.

        Args:
            size: of all these files, bytes.
            files: returns them; called unless all files so far are small beside the free space.

        Raises:
            DiskFullError: if the transfer needs more than there was before it.
        """
        self._size += size
        if self._free is None or self._size < self._free // _NEGLIGIBLE_SHARE:
            return
        for file in files():
            if _has_size(file):
                continue  # it is there already, as far as can be told without reading it
            partial = self._partials.allocated(file.folder, file.prefix)
            self._needed.add(file.size, partial, _allocated(file.target))
        if self._free < self._needed.bytes:
            raise DiskFullError(
                f"no space in {self._folder}: {self._needed.bytes} bytes are needed, "
                f"{self._free} are free"
            )


def free_space(folder: Path) -> int | None:
    """Return the free bytes of the file system of an existing folder, or None if it reports none.

    Pseudo file systems and some network file systems report no size at all.

    Raises:
        OSError: if it cannot be asked.
    """
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize if status.f_blocks else None


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


def _has_size(file: PlannedFile) -> bool:
    try:
        return file.target.lstat().st_size == file.size
    except OSError:
        return False


def _allocated(path: Path) -> int:
    try:
        return path.lstat().st_blocks * _BLOCK
    except OSError:
        return 0
