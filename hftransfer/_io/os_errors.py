"""What an ``OSError`` means for a transfer: the error of this package that a user gets for it."""

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
    """Tell a person what an ``OSError`` in the block means for the source `path`.

    Raises:
        SourceChangedError: if it is no more.
        AccessError: if it may not be read.
        TransferError: if it cannot be read for another reason.
    """
    try:
        yield
    except TransferError:
        raise  # it says so already: some of ours are OSErrors, too
    except FileNotFoundError as error:
        raise SourceChangedError(f"{path} was removed while it was being read") from error
    except PermissionError as error:
        raise AccessError(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise TransferError(f"cannot read {path}: {error.strerror}") from error


def source_changed(path: str) -> SourceChangedError:
    """Return what to raise when a source turns out not to be what was listed."""
    return SourceChangedError(f"{path} was changed while it was being read")


@contextmanager
def map_write_errors(path: Path) -> Iterator[None]:
    """Tell a person what an ``OSError`` in the block means for `path`.

    Raises:
        DiskFullError: if there is no room left.
        DestinationError: if it cannot be written for another reason.
    """
    try:
        yield
    except TransferError:
        raise  # it says so already: some of ours are OSErrors, too
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in DISK_FULL_ERRNOS:
            raise DiskFullError(f"no room left to write {path}: {reason}") from error
        raise DestinationError(f"cannot write {path}: {reason}") from error
