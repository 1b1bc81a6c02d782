"""Partial files: preallocated, written by position, resumable, renamed into place.

A partial file is named ``<prefix>.<n>.incomplete``, and its journal beside it
``<prefix>.<n>.journal.incomplete``. The prefix identifies the content. The process that writes
the file holds its exclusive lock (`file_lock`), which the kernel releases when the process dies:
the next process finds the file unlocked and resumes it, while two running processes use
different numbers. On a file system without locks every process uses a random name.

Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hftransfer._core.pieces import Piece
from hftransfer._io.atomic_write import SUFFIX, create_exclusive, sync_folder, temporary_name
from hftransfer._io.direct_io import DirectWriter, SharedExclusiveLock
from hftransfer._io.file_lock import LockHeldError, LocksUnsupportedError, open_locked
from hftransfer._io.file_range import read_fully
from hftransfer._io.journal import Journal, JournalRecords, format_header
from hftransfer._io.os_errors import DISK_FULL_ERRNOS, map_write_errors
from hftransfer._io.write_policy import WritePolicy
from hftransfer.errors import DestinationError

__all__ = (
    "PartialFile",
    "allocated_size",
    "is_partial_file_name",
    "partial_file_names",
    "remove_stale_partials",
)

_JOURNAL = ".journal"
_BLOCK = 512  # bytes of the unit of `st_blocks`, whatever the file system's block size is
_PARTIAL = re.compile(
    r"(?P<prefix>.+\.[0-9a-f]{16})\.(?:\d+|[0-9a-f]{32})(?:\.journal)?\.incomplete", re.DOTALL
)


def is_partial_file_name(name: str) -> bool:
    """Return True if `name` is the name of a partial file or of a journal."""
    return _PARTIAL.fullmatch(name) is not None


class PartialFile:
    """One open partial file and its journal.

    `write` may be called from several threads in parallel, all other methods from one at a time.

    Args:
        folder: of the partial file; on the file system of its target.
        prefix: of its name; identifies the content and ends in a dot and 16 hex digits.
        identity: of the content, recorded in the journal; empty means never resume.
        size: of the complete file, bytes.
        chunk_size: bytes.
        write_policy: decides which writes go past the page cache. Default: no write does.

    Raises:
        DestinationError: if the file cannot be created.
        DiskFullError: if the disk has not enough space for it.
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
        if write_policy is not None and not write_policy.may_write_direct:
            write_policy = None
        self._write_policy = write_policy
        self._direct: DirectWriter | None = None
        self._write_lock = SharedExclusiveLock()
        with map_write_errors(folder):
            self.path, self._fd = _open_unused(folder, prefix)
        try:
            with map_write_errors(self.path):
                journal_path = _journal_of(self.path)
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
    def resumable(self) -> JournalRecords:
        """What an earlier process wrote. Not verified."""
        return self.journal.records

    def write(self, index: int, start: int, data: memoryview, digest: str) -> None:
        """Write `data` at offset `start` and record it as chunk `index`.

        Args:
            index: of the chunk.
            start: offset in the file.
            data: the chunk.
            digest: its XXH3-128 in hex.

        Raises:
            DiskFullError: if the disk is full.
            DestinationError: if the file cannot be written for another reason.
        """
        self.write_ranges(index, [(start, data)], digest)

    def write_ranges(
        self, index: int, ranges: Sequence[tuple[int, memoryview]], digest: str
    ) -> None:
        """Write what is missing of a chunk, and record the chunk.

        Args:
            index: of the chunk.
            ranges: offsets in the file, and the bytes there. `write_pieces` wrote the others.
            digest: XXH3-128 of the whole chunk, in hex.

        Raises:
            DiskFullError: if the disk is full.
            DestinationError: if the file cannot be written for another reason.
        """
        with map_write_errors(self.path):
            for start, data in ranges:
                self._write(start, data)
            self.journal.append(index, digest)

    def write_pieces(self, pieces: Sequence[tuple[int, Piece, int, memoryview]]) -> None:
        """Write pieces of chunks whose rest is missing, and record them.

        Args:
            pieces: for each the index of the chunk, the piece, and offset and bytes of that part
                of the piece that is not written yet.

        Raises:
            DiskFullError: if the disk is full.
            DestinationError: if the file cannot be written for another reason.
        """
        with map_write_errors(self.path):
            for _, _, start, data in pieces:
                self._write(start, data)
            self.journal.append_pieces([(index, piece) for index, piece, _, _ in pieces])

    def _write(self, start: int, data: memoryview) -> None:
        policy, direct = self._write_policy, self._direct
        written = 0
        if policy is not None and direct is not None and policy.choose_direct():
            with self._write_lock.shared():
                timer = _Timer()
                try:
                    written = direct.write(data, start)
                finally:
                    timer.report(policy, direct=True, size=written)
        if written < len(data):
            with self._write_lock.exclusive():
                timer = _Timer()
                rest = len(data) - written
                while written < len(data):
                    written += os.pwrite(self._fd, data[written:], start + written)
                if policy is not None:
                    timer.report(policy, direct=False, size=rest)

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fill `buffer` from offset `start`; return the bytes read, fewer only at the end."""
        return read_fully(self._fd, buffer, start)

    def publish(self, target: Path, *, fsync: bool) -> None:
        """Rename the file to `target`, replacing a file of that name; delete the journal.

        Args:
            target: the final path.
            fsync: flush the file to the disk before the rename, and the folder after it.

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
        """Close both files and keep them, to be resumed."""
        if journal := getattr(self, "journal", None):
            journal.close()
        if self._direct is not None:
            self._direct.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Delete both files and close them."""
        # Delete before close: the lock keeps other processes from opening the same names.
        self.path.unlink(missing_ok=True)
        self.journal.remove()
        self.close()


class _Timer:
    """Measures the wall time and the CPU time of one write, for a `WritePolicy`."""

    __slots__ = ("_cpu", "_wall")

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.thread_time()

    def report(self, policy: WritePolicy, *, direct: bool, size: int) -> None:
        seconds = time.perf_counter() - self._wall
        cpu_seconds = time.thread_time() - self._cpu
        policy.record(direct=direct, size=size, seconds=seconds, cpu_seconds=cpu_seconds)


def _open_unused(folder: Path, prefix: str) -> tuple[Path, int]:
    """Open and lock the first partial file of `prefix` that no running process has locked."""
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


def _journal_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + _JOURNAL + SUFFIX)


def _preallocate(fd: int, size: int) -> None:
    """Reserve `size` bytes, so that a full disk is detected now and the file has few extents.

    This calls fallocate(2) because posix_fallocate(3) falls back to writing a byte into every
    block on file systems that cannot preallocate.
    """
    if os.fstat(fd).st_size > size:
        os.ftruncate(fd, size)
    if size == 0:
        return
    import ctypes  # slow to load, and not needed for transfers of small files only

    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if fallocate is not None:
        int64 = ctypes.c_int64
        if fallocate(ctypes.c_int(fd), ctypes.c_int(0), int64(0), int64(size)) == 0:
            return
        if (code := ctypes.get_errno()) in DISK_FULL_ERRNOS:
            raise OSError(code, os.strerror(code))
    os.ftruncate(fd, size)


def partial_file_names(folder: Path) -> dict[str, list[str]]:
    """Return the names of the partial files and journals in `folder`.

    Its subfolders are not searched. A folder that cannot be read has none.

    Returns:
        Names by their prefix without the last dot and the 16 hex digits: by file, whatever its
        content.
    """
    names: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as items:
            found = [item.name for item in items if item.name.endswith(SUFFIX)]
    except OSError:
        return names
    for name in found:
        if (matched := _PARTIAL.fullmatch(name)) is not None:
            names.setdefault(matched["prefix"].rpartition(".")[0], []).append(name)
    return names


def allocated_size(folder: Path, prefix: str, names: Iterable[str]) -> int:
    """Return the disk space that a partial file of a dead process occupies already, in bytes.

    A file system that does not report the blocks of a file counts as if it had none.

    Args:
        folder: of the partial files.
        prefix: of the file that is looked for, as `PartialFile` takes it.
        names: in `folder`. Of several files with the prefix the largest one counts.
    """
    largest = 0
    for name in names:
        matched = _PARTIAL.fullmatch(name)
        if matched is None or matched["prefix"] != prefix or name.endswith(_JOURNAL + SUFFIX):
            continue
        try:
            fd = open_locked(folder / name, os.O_RDWR)
        except OSError:
            continue  # in use: this process needs space for another one
        try:
            largest = max(largest, os.fstat(fd).st_blocks * _BLOCK)
        finally:
            os.close(fd)
    return largest


def remove_stale_partials(folder: Path, prefixes: set[str]) -> None:
    """Delete the partial files and journals in `folder` that no running process has locked.

    Args:
        folder: one folder; its subfolders are not searched.
        prefixes: the files to delete: their prefixes without the last dot and the 16 hex digits.
    """
    try:
        names = os.listdir(folder)
    except OSError:
        return  # the folder was deleted, and its partial files with it
    for name in names:
        matched = _PARTIAL.fullmatch(name)
        if matched is None or matched["prefix"].rpartition(".")[0] not in prefixes:
            continue
        path = folder / name
        data = path.with_name(name.removesuffix(_JOURNAL + SUFFIX) + SUFFIX)
        if name.endswith(_JOURNAL + SUFFIX) and data.exists():
            continue  # deleted with its data file
        try:
            fd = open_locked(path, os.O_RDWR)
        except OSError:
            continue  # locked, deleted, without permission, or on a file system without locks
        try:
            path.unlink(missing_ok=True)
            _journal_of(path).unlink(missing_ok=True)
        except OSError:
            continue
        finally:
            os.close(fd)
