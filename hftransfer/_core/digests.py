"""Digests: XXH3 of chunks, and the Hub's own digests of whole files.

A `Digest` is written ``algorithm:hex``. ``xxh3-128`` guards chunks from their arrival
on; ``sha256`` (LFS and Xet files) and ``git-sha1`` (all other files of a repository,
the id of the git blob) are what the Hub vouches for, CRCs and ``xxhash128`` what object
stores do. All of them release the GIL on large buffers.
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
    "root_digest",
)

# Up to so many bytes a digest is made sooner than a thread would have been woken.
INLINE_HASH_LIMIT = 64 * 1024
# What different contents can share by accident.
_WEAK = ("crc32", "crc32c", "crc64nvme")


class Digest(NamedTuple):
    """A digest and the algorithm that made it."""

    algorithm: str
    value: str

    @property
    def is_strong(self) -> bool:
        """True if equal digests mean equal bytes; a CRC only guards against damage."""
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


class Hasher(Protocol):
    """The part of hashlib's interface that is used here."""

    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def chunk_digest(data: memoryview) -> str:
    """Return the XXH3-128 of `data`, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def root_digest(chunks: Iterable[str]) -> str:
    """Return the XXH3-128 over the chunk digests in order, as 16 bytes each.

    It identifies a whole file for one chunk size, and can be made from chunks that
    arrived in any order.
    """
    hasher = xxhash.xxh3_128()
    for chunk in chunks:
        hasher.update(bytes.fromhex(chunk))
    return hasher.hexdigest()


def is_supported(algorithm: str) -> bool:
    """Return True if `new_hasher` knows `algorithm`."""
    return algorithm in ("sha256", "git-sha1", "md5") or algorithm.upper() in supported_checksums()


def new_hasher(algorithm: str, size: int) -> Hasher:
    """Return a hasher to be fed with a whole file of `size` bytes, in order.

    Raises:
        ValueError: if `algorithm` is none of ``sha256``, ``git-sha1``, ``md5``,
            ``xxhash128``, nor a CRC that can be made here.
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
    if algorithm == "xxhash128":
        return xxhash.xxh3_128()
    if algorithm in _WEAK:
        return Crc(algorithm.upper())
    raise ValueError(f"unknown digest algorithm {algorithm!r}")
