"""Partial files: preallocated, written by position, resumable, renamed into place.

Everything here blocks and belongs into worker threads.

A partial file is named ``<prefix>.<n>.incomplete`` beside its journal
``<prefix>.<n>.journal.incomplete``; the prefix says which content it holds. Whoever works on
it holds an exclusive ``flock``, so that the next process finds and resumes what a killed
one left (its lock died with it), while two living processes use different numbers. On
file systems without working locks every process takes a name of its own.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from pathlib import Path

from hftransfer._io.atomic_write import (
    SUFFIX,
    create_exclusive,
    sync_folder,
    temporary_name,
)
from hftransfer._io.direct_io import DirectWriter, SharedExclusiveLock, WritePolicy
from hftransfer._io.file_lock import LockHeldError, LocksUnsupportedError, open_locked
from hftransfer._io.file_range import read_fully
from hftransfer._io.journal import Journal, format_header
from hftransfer._io.os_errors import DISK_FULL_ERRNOS, map_write_errors
from hftransfer.errors import DestinationError

__all__ = (
    "PartialFile",
    "is_partial_file_name",
    "remove_stale_partials",
)

_JOURNAL = ".journal"
_PARTIAL = re.compile(
    r"(?P<prefix>.+\.[0-9a-f]{16})\.(?:\d+|[0-9a-f]{32})(?:\.journal)?\.incomplete", re.DOTALL
)


def is_partial_file_name(name: str) -> bool:
    """Return True if `name` is that of one of our partial files or journals."""
    return _PARTIAL.fullmatch(name) is not None


class PartialFile:
    """One open partial file and its journal.

    Args:
        folder: where it lies; on the file system of its target.
        prefix: from which its name is made; must name the content (see `is_partial_file_name`).
        identity: of the content, recorded in the journal; empty means never resume.
        size: bytes.
        chunk_size: bytes.
        write_policy: decides which writes go past the page cache, where that is possible.
            Default: none.

    Raises:
        DestinationError: if it cannot be made.
        DiskFullError: if there is no room for it.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        *,
        identity: str,
        size: int,
        chunk_size: int,
        write_policy: WritePolicy | None = None,
    ) -> None:
        self.size = size
        if write_policy is not None and not write_policy.is_possible:
            write_policy = None
        self._write_policy = write_policy
        self._direct: DirectWriter | None = None
        self._turns = SharedExclusiveLock()
        with map_write_errors(folder):
            self.path, self._fd = _claim(folder, prefix)
        try:
            with map_write_errors(self.path):
                journal_path = self.path.with_name(
                    self.path.name.removesuffix(SUFFIX) + _JOURNAL + SUFFIX
                )
                if not identity:
                    journal_path.unlink(missing_ok=True)
                self.journal = Journal(journal_path, format_header(identity, size, chunk_size))
                _preallocate(self._fd, size)
                if self._write_policy is not None:
                    self._direct = DirectWriter(self.path)
        except DestinationError:
            self.close()
            raise

    @property
    def resumable_chunks(self) -> dict[int, str]:
        """Chunks that were there when it was opened: index to XXH3-128, unverified."""
        return self.journal.resumable_chunks

    def write(self, index: int, start: int, data: memoryview, digest: str) -> None:
        """Write `data` at `start` and record it as chunk `index`.

        Raises:
            DiskFullError, DestinationError: if it cannot be written.
        """
        with map_write_errors(self.path):
            self._write(start, data)
            self.journal.append(index, digest)

    def _write(self, start: int, data: memoryview) -> None:
        written = 0
        if (
            self._write_policy is not None
            and self._direct is not None
            and self._write_policy.choose()
        ):
            with self._turns.beside_others():
                began = _now()
                try:
                    written = self._direct.write(data, start)
                finally:
                    self._write_policy.note(True, written, *_since(began))
        if written < len(data):
            with self._turns.alone():
                began = _now()
                rest = data[written:]
                while written < len(data):
                    written += os.pwrite(self._fd, data[written:], start + written)
                if self._write_policy is not None:
                    self._write_policy.note(False, len(rest), *_since(began))

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fill `buffer` from `start` on; return the bytes read, fewer only at the end."""
        return read_fully(self._fd, buffer, start)

    def publish(self, target: Path, *, fsync: bool) -> None:
        """Give the file its final name, atomically, replacing what was there.

        Raises:
            DestinationError: if it cannot be renamed.
        """
        with map_write_errors(target):
            os.ftruncate(self._fd, self.size)
            if fsync:
                os.fsync(self._fd)
            os.replace(self.path, target)
            if fsync:
                sync_folder(target.parent)
        self.journal.remove()
        self.close()

    def close(self) -> None:
        """Close both files, which stay to be resumed."""
        if journal := getattr(self, "journal", None):
            journal.close()
        if self._direct is not None:
            self._direct.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and delete both files."""
        # While the lock is still held: nobody can have claimed the names meanwhile.
        self.path.unlink(missing_ok=True)
        self.journal.remove()
        self.close()


def _claim(folder: Path, prefix: str) -> tuple[Path, int]:
    """Open and lock the first partial file of `prefix` that no living process works on."""
    for number in itertools.count():
        path = folder / f"{prefix}.{number}{SUFFIX}"
        try:
            return path, open_locked(path, os.O_RDWR | os.O_CREAT)
        except LockHeldError:
            continue
        except LocksUnsupportedError:
            unique = folder / temporary_name(prefix)
            return unique, create_exclusive(unique)
    raise AssertionError("unreachable")


def _now() -> tuple[float, float]:
    """Return the time, and the time for which this thread has had a core: seconds."""
    return time.perf_counter(), time.thread_time()


def _since(began: tuple[float, float]) -> tuple[float, float]:
    now, had = _now()
    return now - began[0], had - began[1]


def _preallocate(fd: int, size: int) -> None:
    """Reserve `size` bytes, so that a full disk is known now and extents are few.

    fallocate(2) itself is called because posix_fallocate falls back to writing a byte
    into every block on file systems that cannot preallocate.
    """
    if os.fstat(fd).st_size > size:
        os.ftruncate(fd, size)
    if size == 0:
        return
    import ctypes  # not needed, and slow to load, where there are only small files

    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if fallocate is not None:
        wide = ctypes.c_int64
        if fallocate(ctypes.c_int(fd), ctypes.c_int(0), wide(0), wide(size)) == 0:
            return
        if (number := ctypes.get_errno()) in DISK_FULL_ERRNOS:
            raise OSError(number, os.strerror(number))
    os.ftruncate(fd, size)


def remove_stale_partials(folder: Path, prefixes: set[str]) -> None:
    """Delete partial files in `folder` of files named in `prefixes` that nobody works on.

    Args:
        folder: one folder, not searched deeper.
        prefixes: prefixes without their content part, that is up to the last dot.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return  # the folder is gone, and its partial files with it
    for name in names:
        matched = _PARTIAL.fullmatch(name)
        if matched is None or matched["prefix"].rpartition(".")[0] not in prefixes:
            continue
        path = folder / name
        data = path.with_name(name.removesuffix(_JOURNAL + SUFFIX) + SUFFIX)
        if name.endswith(_JOURNAL + SUFFIX) and data.exists():
            continue  # goes with its data file
        try:
            fd = open_locked(path, os.O_RDWR)
        except OSError:
            continue  # in use, removed, not ours to delete, or no locks here to tell
        try:
            path.unlink(missing_ok=True)
            journal = path.with_name(name.removesuffix(SUFFIX) + _JOURNAL + SUFFIX)
            journal.unlink(missing_ok=True)
        except OSError:
            continue
        finally:
            os.close(fd)
