"""Partial files: preallocated, written by position, resumable, renamed into place.

A partial file is named ``<prefix>.<n>.incomplete``, and its journal beside it
``<prefix>.<n>.journal.incomplete``. The prefix identifies the content. The process that writes
the file holds its exclusive lock (`file_lock`), which ends with the process: the next process
finds the file unlocked and resumes it, while two running processes use different numbers. On a
file system without flock the lock is ``<prefix>.<n>.owner.incomplete``. A name at which there is
something else, such as a symbolic link, is passed over and left as it is.

Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hftransfer._core.pieces import Piece
from hftransfer._io.atomic_write import SUFFIX, sync_folder
from hftransfer._io.direct_io import DirectWriter, SharedExclusiveLock
from hftransfer._io.file_lock import LockedFile, LockHeldError, open_locked
from hftransfer._io.file_range import read_fully
from hftransfer._io.journal import Journal, JournalRecords, format_header
from hftransfer._io.os_errors import DISK_FULL_ERRNOS, map_write_errors
from hftransfer._io.owner_lock import OwnerLock
from hftransfer._io.process_identity import is_token_of_dead_process
from hftransfer._io.regular_file import UnsafeFileError
from hftransfer._io.write_policy import WritePolicy
from hftransfer.errors import DestinationError

__all__ = (
    "PartialFile",
    "allocated_size",
    "is_partial_file_name",
    "partial_file_names",
    "remove_stale_partials",
)

_logger = logging.getLogger(__name__)

_JOURNAL = ".journal"
_BLOCK = 512  # bytes of the unit of `st_blocks`, whatever the file system's block size is
# The name of a data file, a temporary file of `atomic_write` or a claim of `owner_lock`, which
# may have `_JOURNAL` or the suffix of `owner_path`.
_PARTIAL = re.compile(
    r"(?P<data>(?P<prefix>.+\.[0-9a-f]{16})\.(?:\d{1,9}|(?P<token>[0-9a-f]{32})))"
    r"(?P<kind>|\.journal|\.owner(?:\.[0-9a-f]{8})*)\.incomplete",
    re.DOTALL,
)
# Seconds after which a temporary file of another machine, which shows no lock, was left by a
# dead process. Small files are temporary for milliseconds, and a copy of a large one is touched
# by each write.
_TEMPORARY_MAX_AGE = 3600.0


def is_partial_file_name(name: str) -> bool:
    """Return True if `name` is that of a partial file, its journal or its lock."""
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
            self._file = _open_unused(folder, prefix)
        self.path = self._file.path
        try:
            with map_write_errors(self.path):
                journal_path = _journal_of(self.path)
                if not identity:
                    journal_path.unlink(missing_ok=True)
                self.journal = Journal(journal_path, format_header(identity, size, chunk_size))
                _preallocate(self._file.fd, size)
                if self._write_policy is not None:
                    self._direct = DirectWriter(self.path, self._file.fd)
        except DestinationError:
            if getattr(self, "journal", None) is None or self.journal.is_empty:
                self.remove()
            else:
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
                    written += os.pwrite(self._file.fd, data[written:], start + written)
                if policy is not None:
                    timer.report(policy, direct=False, size=rest)

    def read_into(self, start: int, buffer: memoryview) -> int:
        """Fill `buffer` from offset `start`; return the bytes read, fewer only at the end."""
        return read_fully(self._file.fd, buffer, start)

    def publish(self, target: Path, *, fsync: bool) -> None:
        """Rename the file to `target`, replacing a file of that name; delete the journal.

        Args:
            target: the final path.
            fsync: flush the file to the disk before the rename, and the folder after it.

        Raises:
            DestinationError: if it cannot be renamed.
        """
        with map_write_errors(target):
            os.ftruncate(self._file.fd, self.size)
            if fsync:
                os.fsync(self._file.fd)
            if self._file.is_lost:
                raise OSError(errno.ESTALE, f"another process has replaced {self.path}")
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
        self._file.close()

    def remove(self) -> None:
        """Delete both files and close them."""
        # Delete before close: the lock keeps other processes from opening the same names.
        self.path.unlink(missing_ok=True)
        if journal := getattr(self, "journal", None):
            journal.remove()
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


def _open_unused(folder: Path, prefix: str) -> LockedFile:
    """Open and lock the first partial file of `prefix` that no running process has locked."""
    for number in itertools.count():
        path = folder / f"{prefix}.{number}{SUFFIX}"
        try:
            return open_locked(path, os.O_RDWR | os.O_CREAT)
        except LockHeldError:
            continue
        except UnsafeFileError as error:
            _logger.warning("%s: %s; using another name", path, error.strerror)
        except PermissionError:
            if not os.path.lexists(path):
                raise  # not a file of another user: the folder allows no new one
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
        if matched is None or matched["prefix"] != prefix or matched["kind"]:
            continue
        try:
            file = open_locked(folder / name, os.O_RDWR)
        except OSError:
            continue  # in use: this process needs space for another one
        try:
            largest = max(largest, os.fstat(file.fd).st_blocks * _BLOCK)
        finally:
            file.close()
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
        path, data = folder / name, folder / f"{matched['data']}{SUFFIX}"
        try:
            if matched["kind"] and data.exists():
                continue  # deleted with its data file
            if matched["token"] is not None:
                _remove_temporary(path, matched["token"])
            elif matched["kind"].startswith(".owner"):
                if (lock := OwnerLock.try_acquire(path)) is not None:
                    lock.release()
            else:
                _remove_unlocked(data)
        except OSError:
            continue  # locked, deleted at this moment, not a regular file, or without permission


def _remove_temporary(path: Path, token: str) -> None:
    is_old = time.time() - path.lstat().st_mtime > _TEMPORARY_MAX_AGE
    if is_old or is_token_of_dead_process(token):
        path.unlink(missing_ok=True)


def _remove_unlocked(data: Path) -> None:
    """Delete a data file, which may be gone, and its journal, if no process has locked it."""
    file = open_locked(data, os.O_RDWR | os.O_CREAT)
    try:
        data.unlink(missing_ok=True)
        _journal_of(data).unlink(missing_ok=True)
    finally:
        file.close()
