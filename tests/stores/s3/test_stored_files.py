"""`hftransfer.stores.s3.stored_files`: which digest of an object a local file is compared with."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from hftransfer._core.content_digest import ContentDigest
from hftransfer._core.digests import is_supported
from hftransfer.stores.s3.stored_files import content_digest

MIB = 1 << 20
MD5 = "0123456789abcdef" * 2
CRC64 = base64.b64encode(bytes(range(8))).decode()
XXH3 = base64.b64encode(bytes(range(16))).decode()
FULL = {"x-amz-checksum-type": "FULL_OBJECT"}


def found(headers: Mapping[str, str], chunk_size: int = 8 * MIB) -> ContentDigest | None:
    return content_digest(headers, 20 * MIB, chunk_size)


def test_an_object_of_one_put_has_the_md5_of_its_etag() -> None:
    assert found({"ETag": f'"{MD5}"'}) == ContentDigest("md5", MD5)


@pytest.mark.parametrize(
    ("count", "chunk_size", "part_size"),
    [
        (3, 8 * MIB, 8 * MIB),  # ours
        (3, 7_000_001, 7_000_001),  # ours, of no whole MiB
        (4, 8 * MIB, 5 * MIB),  # another uploader's default
        (2, 8 * MIB, 16 * MIB),
    ],
)
def test_parts_are_those_of_the_number_in_the_etag(
    count: int, chunk_size: int, part_size: int
) -> None:
    """Our own part size if it makes that number of parts, else the usual one that does."""
    digest = found({"ETag": f'"{MD5}-{count}"'}, chunk_size)
    assert digest == ContentDigest("md5", MD5, part_size)


@pytest.mark.parametrize(
    "encryption",
    [
        {"x-amz-server-side-encryption": "aws:kms"},
        {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
    ],
)
def test_the_etag_of_an_encrypted_object_is_not_an_md5(encryption: dict[str, str]) -> None:
    """It has the form of one, so that the file would always differ."""
    assert found({"ETag": f'"{MD5}"', **encryption}) is None
    assert found({"ETag": f'"{MD5}-3"', **encryption}) is None


@pytest.mark.skipif(not is_supported("crc64nvme"), reason="needs awscrt")
def test_an_encrypted_object_has_its_crc64() -> None:
    digest = content_digest(
        {
            "ETag": f'"{MD5}-3"',
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-checksum-crc64nvme": CRC64,
            **FULL,
        },
        20 * MIB,
        8 * MIB,
    )
    assert digest == ContentDigest("crc64nvme", bytes(range(8)).hex())


def test_xxh3_precedes_the_etag() -> None:
    """It is computed ten times as fast."""
    headers = {"ETag": f'"{MD5}"', "x-amz-checksum-xxhash128": XXH3, **FULL}
    assert content_digest(headers, 10, 8 * MIB) == ContentDigest(
        "xxhash128", bytes(range(16)).hex()
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": '"67-5f0c"'},  # made of size and time
        {"ETag": '"other"', "x-amz-checksum-crc32": base64.b64encode(b"1234").decode(), **FULL},
        {"ETag": f'"{MD5}-3"', "x-amz-server-side-encryption": "aws:kms"}
        | {"x-amz-checksum-crc64nvme": CRC64, "x-amz-checksum-type": "COMPOSITE"},
        {"ETag": f'"{MD5}-3"', "x-amz-server-side-encryption": "aws:kms"}
        | {"x-amz-checksum-crc64nvme": CRC64},  # perhaps of the parts' checksums
        {"ETag": f'"{MD5}-7000"'},  # parts of no usual size
    ],
)
def test_what_does_not_name_the_content_is_not_used(headers: dict[str, str]) -> None:
    """32 bits are too few, and a checksum of checksums depends on the parts."""
    assert content_digest(headers, 20 * MIB, 8 * MIB) is None
