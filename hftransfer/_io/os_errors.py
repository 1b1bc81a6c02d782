"""The exception of this package for an ``OSError`` while a file is read or written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hftransfer.errors import (
    AccessError,
    DestinationError,
    DiskFullError,
    SourceChangedError,
    TransferError,
)

__all__ = ("DISK_FULL_ERRNOS", "map_read_errors", "map_write_errors", "source_changed")

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def map_read_errors(path: str) -> Iterator[None]:
    """Replace an ``OSError`` of the block, which reads the source `path`.

    Raises:
        SourceChangedError: if the file does not exist any more.
        AccessError: if its permissions do not allow it to be read.
        TransferError: if it cannot be read for another reason.
    """
    try:
        yield
    except TransferError:
        raise  # already mapped: some subclasses are OSErrors
    except FileNotFoundError as error:
        raise SourceChangedError(f"{path} was removed while it was being read") from error
    except PermissionError as error:
        raise AccessError(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise TransferError(f"cannot read {path}: {error.strerror}") from error


def source_changed(path: str) -> SourceChangedError:
    """Return the error for a source file that differs from what was listed or read before."""
    return SourceChangedError(f"{path} was changed while it was being read")


@contextmanager
def map_write_errors(path: Path) -> Iterator[None]:
    """Replace an ``OSError`` of the block, which writes the destination `path`.

    Raises:
        DiskFullError: if the disk or the quota is full, or the file system's largest file size is
            exceeded.
        DestinationError: if `path` cannot be written for another reason.
    """
    try:
        yield
    except TransferError:
        raise  # already mapped: some subclasses are OSErrors
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in DISK_FULL_ERRNOS:
            raise DiskFullError(f"no space left to write {path}: {reason}") from error
        raise DestinationError(f"cannot write {path}: {reason}") from error
