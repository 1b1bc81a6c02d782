"""Digests of chunks and of whole files.

A chunk's digest is its XXH3-128; it protects the chunk from its arrival to the destination. Whole
files have the digest that their source states: ``sha256`` (LFS and Xet files of the Hub),
``git-sha1`` (all other files of a repository: the id of the git blob), or a CRC, ``md5``,
``md5-parts-SIZE`` or ``xxhash128`` (S3). A `Digest` is written ``algorithm:hex``. All hashers
release the GIL for large buffers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import xxhash

from hftransfer._core.checksums import Crc, supported_checksums

__all__ = (
    "INLINE_HASH_LIMIT",
    "Digest",
    "Hasher",
    "chunk_digest",
    "is_supported",
    "new_hasher",
    "part_size_of",
    "parts_digest",
    "root_digest",
)

# Up to this size (bytes), hashing takes less time than handing the data to a thread.
INLINE_HASH_LIMIT = 64 * 1024
# Algorithms for which different contents can have the same digest by accident.
_WEAK = ("crc32", "crc32c", "crc64nvme")
_PARTS = "md5-parts-"


class Digest(NamedTuple):
    """A digest in hex and its algorithm."""

    algorithm: str
    value: str

    @property
    def is_strong(self) -> bool:
        """True if equal digests mean equal bytes; a CRC only detects damage."""
        return self.algorithm not in _WEAK

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest written as ``algorithm:hex``.

        Raises:
            ValueError: if `text` has another form.
        """
        algorithm, colon, value = text.partition(":")
        if not colon or not algorithm or not value:
            raise ValueError(f"{text!r} is not algorithm:hex")
        return cls(algorithm, value.lower())


def parts_digest(etag: str, part_size: int) -> Digest:
    """Return the digest that the ETag of a multipart object of S3 is.

    It is the MD5 of the MD5s of the parts, followed by a hyphen and their number.
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html

    Args:
        etag: without quotes.
        part_size: bytes of every part but the last, which may be shorter.
    """
    return Digest(f"{_PARTS}{part_size}", etag)


def part_size_of(algorithm: str) -> int | None:
    """Return the bytes per part of a digest of `parts_digest`, or None for another algorithm."""
    size = algorithm.removeprefix(_PARTS)
    is_parts = algorithm.startswith(_PARTS) and size.isascii() and size.isdigit()
    return (int(size) or None) if is_parts else None


class Hasher(Protocol):
    """The part of hashlib's interface that is used for whole files."""

    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def chunk_digest(data: memoryview) -> str:
    """Return the XXH3-128 of `data` as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def root_digest(chunks: Iterable[str]) -> str:
    """Return the XXH3-128 over the chunk digests in order (16 bytes each) as 32 hex digits.

    It identifies a whole file for one chunk size and needs only the digests of its chunks, which
    may be computed in any order.
    """
    hasher = xxhash.xxh3_128()
    for chunk in chunks:
        hasher.update(bytes.fromhex(chunk))
    return hasher.hexdigest()


def is_supported(algorithm: str) -> bool:
    """Return True if `new_hasher` supports `algorithm`."""
    if algorithm in ("sha256", "git-sha1", "md5") or part_size_of(algorithm) is not None:
        return True
    return algorithm.upper() in supported_checksums()


def new_hasher(algorithm: str, size: int) -> Hasher:
    """Return a hasher for a whole file of `size` bytes, which is given to it in order.

    Args:
        algorithm: ``sha256``, ``git-sha1``, ``md5``, ``md5-parts-SIZE``, ``xxhash128``, ``crc32``,
            ``crc32c`` or ``crc64nvme``.
        size: of the file; part of the hashed content for ``git-sha1``.

    Raises:
        ValueError: if `algorithm` is another one, or a CRC that is not supported here.
    """
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "git-sha1":
        # A git object is its header and its content: https://git-scm.com/book, "Git Objects".
        hasher = hashlib.sha1(usedforsecurity=False)
        hasher.update(b"blob %d\0" % size)
        return hasher
    if algorithm == "md5":
        return hashlib.md5(usedforsecurity=False)
    if (part_size := part_size_of(algorithm)) is not None:
        return _PartsHasher(part_size)
    if algorithm == "xxhash128":
        return xxhash.xxh3_128()
    if algorithm in _WEAK:
        return Crc(algorithm.upper())
    raise ValueError(f"unsupported digest algorithm {algorithm!r}")


class _PartsHasher:
    """The MD5 of the MD5s of parts, see `parts_digest`.

    Args:
        part_size: bytes of every part but the last.
    """

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._part = hashlib.md5(usedforsecurity=False)
        self._missing = part_size
        self._finished: list[bytes] = []

    def update(self, data: memoryview, /) -> None:
        while len(data):
            piece = data[: self._missing]
            self._part.update(piece)
            self._missing -= len(piece)
            data = data[len(piece) :]
            if not self._missing:
                self._finished.append(self._part.digest())
                self._part = hashlib.md5(usedforsecurity=False)
                self._missing = self._part_size

    def hexdigest(self) -> str:
        parts = [*self._finished, *self._rest()]
        joined = hashlib.md5(b"".join(parts), usedforsecurity=False)
        return f"{joined.hexdigest()}-{len(parts)}"

    def _rest(self) -> list[bytes]:
        """Return the MD5 of the part that has begun, if one has."""
        return [] if self._missing == self._part_size else [self._part.digest()]
