"""`hftransfer._io.os_errors`: each ``OSError`` becomes the exception that a user can act on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hftransfer._io.os_errors import map_read_errors, map_write_errors
from hftransfer.errors import (
    AccessError,
    DestinationError,
    DiskFullError,
    SourceChangedError,
    TransferError,
)


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOENT, SourceChangedError),
        (errno.EACCES, AccessError),
        (errno.EIO, TransferError),
    ],
)
def test_read_errors(code: int, expected: type[TransferError]) -> None:
    """The message contains the path; the original error is the cause."""
    error = _os_error(code)

    with pytest.raises(expected, match="/data/file") as caught, map_read_errors("/data/file"):
        raise error

    assert type(caught.value) is expected
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EFBIG, DiskFullError),
        (errno.EACCES, DestinationError),
        (errno.EIO, DestinationError),
    ],
)
def test_write_errors(code: int, expected: type[DestinationError]) -> None:
    """The message contains the path and the reason; the original error is the cause."""
    error = _os_error(code)

    with (
        pytest.raises(expected, match="/data/file") as caught,
        map_write_errors(Path("/data/file")),
    ):
        raise error

    assert type(caught.value) is expected
    assert os.strerror(code) in str(caught.value)
    assert caught.value.__cause__ is error


def test_errors_of_this_package_are_not_mapped_again() -> None:
    """Some of them are OSErrors themselves."""
    error = DiskFullError("no space left")

    with pytest.raises(DiskFullError) as caught, map_write_errors(Path("/data/file")):
        raise error
    assert caught.value is error

    with pytest.raises(DiskFullError) as caught, map_read_errors("/data/file"):
        raise error
    assert caught.value is error
