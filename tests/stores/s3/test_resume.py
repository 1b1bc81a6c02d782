"""`hftransfer.stores.s3.resume`: which orphaned uploads fit a file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hftransfer._io.file_lock import open_locked
from hftransfer.stores.s3.resume import OrphanedUpload, Part, fits
from hftransfer.stores.s3.upload_lock import UploadLock

MD5_ETAG = f'"{"0" * 32}"'


def orphan(*parts: tuple[int, int], etag: str = MD5_ETAG) -> OrphanedUpload:
    """Return an upload with `parts`, given as number and size in bytes."""
    return OrphanedUpload("id", None, {number: Part(etag, size) for number, size in parts})


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        pytest.param(orphan((1, 8)), True, id="first part"),
        pytest.param(orphan((2, 8), (3, 3)), True, id="last parts"),
        pytest.param(orphan(), False, id="no part: may have been created a moment ago"),
        pytest.param(orphan((1, 7)), False, id="other chunk size"),
        pytest.param(orphan((3, 8)), False, id="longer than the file"),
        pytest.param(orphan((4, 3)), False, id="part beyond the end"),
        pytest.param(orphan((1, 8), etag='"of-kms"'), False, id="ETag is not an MD5"),
    ],
)
def test_uploads_whose_parts_are_chunks_of_the_file_fit(
    candidate: OrphanedUpload, expected: bool
) -> None:
    """Every part has the size of its chunk, and an MD5 that the chunk can be compared with."""
    assert fits(candidate, [8, 8, 3]) is expected


def test_an_upload_without_parts_fits_once_it_is_known_to_be_own(tmp_path: Path) -> None:
    """A dead process of this machine has left its lock file: nobody else works on it."""
    lock = UploadLock(open_locked(tmp_path / "lock", os.O_RDWR | os.O_CREAT))

    assert fits(replace(orphan(), lock=lock), [8, 8, 3])
    assert not fits(replace(orphan(), lock=lock, is_usable=False), [8, 8, 3])
