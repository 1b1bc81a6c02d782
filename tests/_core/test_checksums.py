"""`hftransfer._core.checksums`: the CRCs, their combination, and their text in headers."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core import checksums
from hftransfer._core.checksums import (
    Crc,
    checksum,
    combine_crcs,
    decode_checksum,
    encode_checksum,
    supported_checksums,
    upload_checksums,
)
from hftransfer._core.digests import chunk_digest, new_hasher

# The check values of the CRC catalogue (https://reveng.sourceforge.io/crc-catalogue/all.htm).
NINE = memoryview(b"123456789")
CHECKS = {"CRC32": "cbf43926", "CRC32C": "e3069283", "CRC64NVME": "ae8b14860a799888"}


def bitwise(name: str, data: bytes, start: int = 0) -> int:
    """The definition of a reflected CRC, one bit at a time."""
    width, polynomial = checksums._CRCS[name]
    value = start ^ ((1 << width) - 1)
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
    return value ^ ((1 << width) - 1)


@pytest.mark.parametrize("name", CHECKS)
def test_polynomials_are_those_of_the_catalogue(name: str) -> None:
    """Width and polynomial of each CRC give its published check value."""
    digits = len(CHECKS[name])

    assert f"{bitwise(name, bytes(NINE)):0{digits}x}" == CHECKS[name]


@pytest.mark.parametrize("name", CHECKS)
@given(parts=st.lists(st.binary(max_size=40), max_size=6))
def test_the_crcs_of_parts_combine_to_the_crc_of_the_whole(name: str, parts: list[bytes]) -> None:
    """For any sequence of parts, empty ones included."""
    size = checksums._CRCS[name][0] // 8
    sums = [(bitwise(name, part).to_bytes(size, "big"), len(part)) for part in parts]

    assert combine_crcs(name, sums) == bitwise(name, b"".join(parts)).to_bytes(size, "big")


@given(parts=st.lists(st.binary(max_size=40), max_size=6))
def test_a_crc_can_be_updated_in_pieces(parts: list[bytes]) -> None:
    """The result is that of zlib's function for all bytes at once."""
    hasher = Crc("CRC32")
    for part in parts:
        hasher.update(memoryview(part))

    assert hasher.hexdigest() == f"{zlib.crc32(b''.join(parts)):08x}"


@pytest.mark.parametrize("name", supported_checksums())
def test_an_encoded_checksum_is_decoded(name: str) -> None:
    """Text that is not base64, or of another length, is decoded as None."""
    value = checksum(name, NINE, chunk_digest(NINE))

    assert decode_checksum(name, encode_checksum(value)) == value
    assert decode_checksum(name, encode_checksum(value[:-1])) is None
    assert decode_checksum(name, "not base64!") is None
    assert new_hasher(name.lower(), 0) is not None
    if name in CHECKS:
        assert value.hex() == CHECKS[name]


def test_an_unsupported_crc_is_rejected() -> None:
    """It raises an error rather than compute a wrong checksum."""
    with pytest.raises(ValueError, match="unsupported"):
        Crc("CRC16")


def test_a_crc32_is_zlibs_with_and_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    """ISA-L and zlib give the same CRC for any buffer and any start value."""
    data = memoryview(bytes(range(256)) * 99)[7:]
    expected = zlib.crc32(data, 5)

    assert checksums._crcs()["CRC32"](data, 5) == expected
    with without(monkeypatch, "isal"):
        assert checksums._crcs()["CRC32"] is zlib.crc32


def test_without_awscrt_two_checksums_are_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """CRC32 and XXH3-128 need no optional package."""
    with without(monkeypatch, "awscrt"):
        assert upload_checksums() == ("XXHASH128", "CRC32")
        assert supported_checksums() == ("XXHASH128", "CRC32")


@contextmanager
def without(monkeypatch: pytest.MonkeyPatch, package: str) -> Iterator[None]:
    """Run the block as if `package` were not installed."""
    monkeypatch.setitem(sys.modules, package, None)
    checksums._crcs.cache_clear()
    yield
    checksums._crcs.cache_clear()
