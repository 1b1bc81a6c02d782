"""The CRC of a whole file, joined from those of its chunks.

Other digests of a whole file need its bytes in order (see `OrderedHasher`). CRCs do not: each is
made together with the chunk's own digest, while the chunk is in a core's cache, and no
chunk waits for the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hftransfer._core.checksums import checksum, combine_crcs
from hftransfer._core.digests import Digest
from hftransfer._engine.file_digest import wrong_digest

__all__ = ("JoinedCrc",)


class JoinedCrc:
    """What the CRC of a file should be, and those of its chunks as they come in.

    Args:
        wanted: what it should be; see `is_for`.
        sizes: bytes of each chunk.
    """

    def __init__(self, wanted: Digest, sizes: Sequence[int]) -> None:
        self._wanted = wanted
        self._name = wanted.algorithm.upper()
        self._sizes = sizes
        self._values: dict[int, bytes] = {}

    @staticmethod
    def is_for(wanted: Digest) -> bool:
        """Return True if `wanted` is a CRC."""
        return not wanted.is_strong

    def of(self, data: memoryview) -> bytes:
        """Return the CRC of a chunk. Safe in any thread."""
        return checksum(self._name, data, "")

    def add(self, index: int, value: bytes) -> None:
        """Take the CRC of chunk `index`; the last one counts."""
        self._values[index] = value

    def check(self, path: str) -> None:
        """Compare the CRC of all chunks with the wanted one.

        Raises:
            IntegrityError: if they differ, or a chunk is missing.
        """
        parts = [(self._values.get(index, b""), size) for index, size in enumerate(self._sizes)]
        found = combine_crcs(self._name, parts).hex()
        if found != self._wanted.value:
            raise wrong_digest(path, self._wanted, found)
