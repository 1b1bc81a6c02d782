"""`hftransfer.stores.s3.etags`: ETags that are MD5s."""

from __future__ import annotations

import pytest

from hftransfer.stores.s3.etags import etag_md5, multipart_etag

MD5 = "9e107d9d372bb6826bd81d3542a419d6"


@pytest.mark.parametrize(
    ("etag", "expected"),
    [(f'"{MD5}"', MD5), (MD5, MD5), (f'"{MD5}-2"', None), ('"not-an-md5"', None), ("", None)],
)
def test_the_md5_of_an_etag(etag: str, expected: str | None) -> None:
    """With or without quotes; an ETag of another form is no MD5."""
    assert etag_md5(etag) == expected


def test_the_etag_of_parts() -> None:
    """It is computed from the MD5s of the parts, and only if all parts have one."""
    md5 = f'"{MD5}"'

    assert multipart_etag([md5, md5]) == "e5f9e806d1cb7907955dc91054bb5527-2"
    assert multipart_etag([md5, '"not-an-md5"']) is None
    assert multipart_etag([md5, '"abcd"']) is None
