"""`hftransfer._core.digests`: digests agree with hashlib, git and xxhash."""

from __future__ import annotations

import hashlib

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.digests import (
    Digest,
    chunk_digest,
    is_supported,
    new_hasher,
    part_size_of,
    parts_digest,
    root_digest,
)

_hex = st.text("0123456789abcdef", min_size=1, max_size=64)


@given(algorithm=st.sampled_from(["sha256", "git-sha1", "xxh3-128"]), value=_hex)
def test_digest_round_trip(algorithm: str, value: str) -> None:
    """``algorithm:hex`` is read back as it was written; upper-case hex means the same."""
    digest = Digest(algorithm, value)

    assert Digest.parse(str(digest)) == digest
    assert Digest.parse(f"{algorithm}:{value.upper()}") == digest


@pytest.mark.parametrize("text", ["", "abc", ":", "sha256:", ":abc"])
def test_a_digest_of_another_form_is_rejected(text: str) -> None:
    """The message repeats the text."""
    with pytest.raises(ValueError, match="is not algorithm:hex"):
        Digest.parse(text)


@given(pieces=st.lists(st.binary(max_size=50), max_size=5))
@pytest.mark.parametrize("algorithm", ["sha256", "md5", "git-sha1"])
def test_a_hasher_can_be_updated_in_pieces(algorithm: str, pieces: list[bytes]) -> None:
    """The result is the digest of the whole file."""
    whole = b"".join(pieces)
    if algorithm == "git-sha1":
        expected = hashlib.sha1(b"blob " + str(len(whole)).encode() + b"\0" + whole).hexdigest()
    else:
        expected = hashlib.new(algorithm, whole).hexdigest()

    hasher = new_hasher(algorithm, len(whole))
    for piece in pieces:
        hasher.update(memoryview(piece))

    assert hasher.hexdigest() == expected


def test_git_blob_ids_are_those_of_git() -> None:
    """The id that ``git hash-object`` prints for an empty file and for ``hello``."""
    empty, hello = new_hasher("git-sha1", 0), new_hasher("git-sha1", 6)
    hello.update(memoryview(b"hello\n"))

    assert empty.hexdigest() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert hello.hexdigest() == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_an_unsupported_algorithm_is_rejected() -> None:
    """A digest that cannot be verified is an error."""
    with pytest.raises(ValueError, match="crc7"):
        new_hasher("crc7", 1)


@given(data=st.binary(max_size=100), start=st.integers(0, 100))
def test_chunk_digest_reads_any_part_of_a_buffer(data: bytes, start: int) -> None:
    """A view into a larger buffer is hashed like a copy of its bytes."""
    view = memoryview(bytearray(data))[start:]

    assert chunk_digest(view) == xxhash.xxh3_128(data[start:]).hexdigest()
    assert len(chunk_digest(view)) == 32


@given(parts=st.lists(st.binary(max_size=8), max_size=6))
def test_the_root_digest_covers_the_chunk_digests_in_order(parts: list[bytes]) -> None:
    """It is the XXH3-128 of the concatenated 16-byte chunk digests."""
    digests = [xxhash.xxh3_128(part).digest() for part in parts]

    root = root_digest(digest.hex() for digest in digests)

    assert root == xxhash.xxh3_128(b"".join(digests)).hexdigest()


@given(
    pieces=st.lists(st.binary(max_size=50), min_size=1, max_size=5), part_size=st.integers(1, 40)
)
def test_the_digest_of_parts_is_that_of_a_multipart_object(
    pieces: list[bytes], part_size: int
) -> None:
    """It is the MD5 of the parts' MD5s and their number, whatever pieces the bytes come in."""
    whole = b"".join(pieces)
    hasher = new_hasher(f"md5-parts-{part_size}", len(whole))
    for piece in pieces:
        hasher.update(memoryview(piece))
    parts = [whole[start : start + part_size] for start in range(0, len(whole), part_size)]
    joined = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()

    assert hasher.hexdigest() == f"{joined}-{len(parts)}"


def test_the_algorithm_of_parts_names_their_size() -> None:
    """It is read back from the text of a manifest; a size of 0 or of other characters is none."""
    digest = parts_digest("ab-2", 8)

    assert Digest.parse(str(digest)) == digest
    assert part_size_of(digest.algorithm) == 8
    assert is_supported(digest.algorithm)
    for algorithm in ("md5", "md5-parts-", "md5-parts-0", "md5-parts-x", "md5-parts-²"):
        assert part_size_of(algorithm) is None
    assert not is_supported("md5-parts-0")
