"""What a store knows of the content of an object, so that a local file can be compared with it.

Stores keep digests of parts: the ETag of an S3 object of several parts is the MD5 of the MD5s of
its parts. A `ContentDigest` says which parts to hash and how their digests make up one value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from hftransfer._core.plan import Chunk, plan_chunks

__all__ = ("ContentDigest",)


@dataclass(frozen=True)
class ContentDigest:
    """A digest of a whole content, or one made of digests of its parts."""

    algorithm: str
    """As of `hftransfer._core.digests.new_hasher`."""
    value: str
    """In hex. With `part_size` the MD5 of the parts' MD5s, of 16 bytes each, in order:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html"""
    part_size: int | None = None
    """Bytes of every part but the last; None if the content is hashed as a whole."""

    def parts(self, size: int) -> Sequence[Chunk]:
        """Return the ranges of a content of `size` bytes that are hashed, in order."""
        if not size:
            return [Chunk(0, 0, 0)]
        return plan_chunks(size, self.part_size or size)

    def matches(self, digests: Sequence[str]) -> bool:
        """Return True if `digests`, in hex, of the `parts` are those of this content."""
        if self.part_size is None:
            return list(digests) == [self.value]
        joined = b"".join(bytes.fromhex(digest) for digest in digests)
        return hashlib.md5(joined, usedforsecurity=False).hexdigest() == self.value
