"""Listings of local files, and what is refused as one: devices, FIFOs, sockets, broken links.

Also refused are files that have other bytes than their size says. Files of ``/proc`` have the size
0 and some content; they are told from empty files by a read of one byte. Files of ``/sys``
have a size of one page and less content, which `LocalSource` notices when it reads them.

Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from hftransfer._io.file_version import FileVersion, settle_delay
from hftransfer._io.partial_file import is_partial_file_name
from hftransfer.errors import AccessError, NotFoundError, TransferError, UnsupportedError
from hftransfer.stores.base import Entry
from hftransfer.stores.local.walk import walk_files

__all__ = ("FileListing", "open_for_reading", "special_kind")

# Where huggingface_hub keeps the metadata of a `local_dir` download, below that folder.
_LOCAL_DIR_METADATA = ".cache/huggingface"
# Times that files are looked at again because they were changed a moment ago. A file that is
# changed each time is being written, and its transfer fails for that reason.
_SETTLE_ROUNDS = 3
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
_BROKEN_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_BROKEN_LINK = "a link that leads nowhere"
_WITHOUT_SIZE = "a file of the system that has the size 0 and some content"


def special_kind(mode: int) -> str:
    """Return what a ``st_mode`` stands for, with its article; empty for a file or folder."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return _KINDS.get(stat.S_IFMT(mode), "neither a file nor a folder")


def open_for_reading(path: str) -> int:
    """Open a file; never wait for a writer, should it have become a FIFO.

    Raises:
        OSError: if it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


class FileListing:
    """The file that a path names, or all files below that folder, page by page. Blocks.

    Sorted by the UTF-8 bytes of their paths. In a folder, what cannot be copied is listed with
    `Entry.unreadable` set.

    Args:
        path: of a file or folder.

    Raises:
        NotFoundError: if there is nothing.
        UnsupportedError: if `path` itself cannot be copied.
        AccessError: if it may not be read.
        TransferError: if it cannot be read for another reason.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _mapped_errors(path):
            self.single = not stat.S_ISDIR(_mode_of(path))
            """True if the path names a file."""
        self._files: Iterator[tuple[str, str]] = iter([(str(path), path.name)])
        if not self.single:
            root = str(path)
            names = walk_files(root, is_hidden=_is_hidden)
            self._files = ((f"{root}/{name}", name) for name in names)

    def next_page(self, count: int) -> Sequence[Entry]:
        """Return the next `count` files; fewer of them if no other follows.

        Raises:
            TransferError: as the constructor.
        """
        with _mapped_errors(self._path):
            entries = _settled(list(islice(self._files, count)))
        if self.single and entries and (unreadable := entries[0].unreadable):
            raise UnsupportedError(
                f"{self._path} is {unreadable}; only regular files can be copied"
            )
        return entries


@contextmanager
def _mapped_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except TransferError:
        raise  # some are OSErrors
    except PermissionError as error:
        raise AccessError(f"cannot read {error.filename}: {error.strerror}") from error
    except OSError as error:
        raise TransferError(f"cannot read {error.filename or path}: {error.strerror}") from error


def _mode_of(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    except OSError as error:
        if error.errno in _BROKEN_ERRNOS and path.is_symlink():
            raise UnsupportedError(f"{path} is {_BROKEN_LINK}") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFoundError(f"{path}: no such file or folder") from error
        raise


def _is_hidden(path: str, *, is_folder: bool) -> bool:
    """Return True for partial files and for huggingface_hub's metadata of a ``local_dir``."""
    if is_folder:
        return path == _LOCAL_DIR_METADATA
    return is_partial_file_name(path.rpartition("/")[2])


def _settled(files: Sequence[tuple[str, str]]) -> Sequence[Entry]:
    """Return the entries of `files`, in versions that any further write changes.

    Args:
        files: of each its path, and its path in the listing.
    """
    entries = [_entry(path, name) for path, name in files]
    for _ in range(_SETTLE_ROUNDS):
        now = time.time_ns()
        versions = [entry.file_version for entry in entries if entry.file_version is not None]
        delay = settle_delay(versions, now)
        if not delay:
            break
        time.sleep(delay)
        for index, (path, name) in enumerate(files):
            version = entries[index].file_version
            if version is not None and settle_delay([version], now):
                entries[index] = _entry(path, name)
    return entries


def _entry(path: str, name: str) -> Entry:
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno not in _BROKEN_ERRNOS:
            raise
        return Entry(path=name, size=0, unreadable=_BROKEN_LINK)
    unreadable = special_kind(status.st_mode)
    if not unreadable and not status.st_size:
        status, unreadable = _examine_empty(path, status)
    if unreadable:
        return Entry(path=name, size=0, unreadable=unreadable)
    version = FileVersion.of(status)
    return Entry(path=name, size=status.st_size, etag=version.etag, file_version=version)


def _examine_empty(path: str, status: os.stat_result) -> tuple[os.stat_result, str]:
    """Return the status of a file of size 0, read again, and what it is if it is not empty.

    A file that cannot be opened is taken to be empty: it has no byte that a transfer would read.
    """
    with suppress(OSError):
        fd = open_for_reading(path)
        try:
            try:
                has_content = bool(os.read(fd, 1))
            except BlockingIOError:  # such as /proc/kmsg, which waits for messages
                has_content = True
            status = os.fstat(fd)
        finally:
            os.close(fd)
        if has_content and not status.st_size:
            return status, _WITHOUT_SIZE
    return status, ""
