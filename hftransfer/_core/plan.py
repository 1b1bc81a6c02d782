"""How files are divided into chunks, and the HTTP headers for a chunk. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hftransfer._core.units import MIB
from hftransfer.errors import OptionsError

__all__ = (
    "Chunk",
    "PartLimits",
    "align_chunk_size",
    "fit_chunk_size",
    "parse_content_range",
    "plan_chunks",
    "range_header",
    "stored_part_size",
)

_ETAG_OF_PARTS = re.compile(r'"?[0-9a-f]{32}-(?P<count>\d{1,5})"?')
# Default part sizes of uploaders, in MiB, the most frequent first.
_USUAL_PARTS = (8, 5, 16, 64, 10, 15, 50, 32, 100, 25, 20, 128, 256, 512, 1024)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)


@dataclass(frozen=True)
class Chunk:
    """The half-open byte range ``[start, stop)`` of one file; `index` counts from 0."""

    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class PartLimits:
    """The parts that a destination accepts for one file."""

    minimum: int = 1
    """Smallest part, bytes; the last part may be smaller."""
    maximum: int = 1 << 62
    """Largest part, bytes."""
    count: int = 1 << 62
    """Largest number of parts."""


def fit_chunk_size(size: int, preferred: int, limits: list[PartLimits]) -> int:
    """Return the chunk size closest to `preferred` that satisfies all `limits`.

    The result depends only on the arguments, so that the next process plans the rest of an
    interrupted transfer in the same way. A size that is raised for a limit is rounded up to whole
    MiB. A file that fits into one part of the maximum size is never too large.

    Args:
        size: of the file, bytes.
        preferred: chunk size, bytes.
        limits: of all destinations.

    Raises:
        OptionsError: if no chunk size fits all limits for a file of `size` bytes.
    """
    largest = min((limit.maximum for limit in limits), default=max(preferred, size))
    needed = max((-(-size // limit.count) for limit in limits), default=0)
    chunk_size = max([min(preferred, largest), *(limit.minimum for limit in limits)])
    if needed > chunk_size:
        chunk_size = min(-(-needed // MIB) * MIB, max(needed, largest))
    if min(chunk_size, size) > largest:
        raise OptionsError(f"a file of {size} bytes is too large for its destination")
    return chunk_size


def stored_part_size(size: int, etag: str) -> int | None:
    """Return the part size of a multipart object in bytes, or None if it cannot be derived.

    The ETag of a multipart object ends in the number of its parts, which leaves a range of
    possible part sizes. Nearly all uploaders use whole MiB, and most of them a few default sizes.

    Args:
        size: of the object, bytes.
        etag: as S3 returns it.
    """
    matched = _ETAG_OF_PARTS.fullmatch(etag)
    count = int(matched["count"]) if matched else 0
    if count < 2 or size < count:
        return None
    smallest = -(-size // count)
    largest = -(-size // (count - 1)) - 1
    low, high = -(-smallest // MIB), largest // MIB
    usual = [mib for mib in _USUAL_PARTS if low <= mib <= high]
    if usual:
        return usual[0] * MIB
    return low * MIB if low == high else None


def align_chunk_size(preferred: int, part_size: int | None) -> int:
    """Return a chunk size near `preferred` for which no chunk crosses a boundary of stored parts.

    It is a multiple of the part size, or the part size divided by a whole number; `preferred`
    itself if no such size is near.

    Args:
        preferred: chunk size, bytes.
        part_size: of the stored object, bytes; None if it has no parts or is not known.
    """
    if part_size is None:
        return preferred
    if part_size <= preferred:
        return preferred // part_size * part_size
    divisor = -(-part_size // preferred)
    # A multiple of the page size, and at least half of `preferred`.
    while divisor * preferred <= 2 * part_size:
        if part_size % (divisor * 4096) == 0:
            return part_size // divisor
        divisor += 1
    return preferred


def plan_chunks(size: int, chunk_size: int) -> list[Chunk]:
    """Divide ``[0, size)`` into chunks of `chunk_size` bytes; the last one has the rest."""
    starts = range(0, size, chunk_size)
    return [
        Chunk(index, start, min(start + chunk_size, size)) for index, start in enumerate(starts)
    ]


def range_header(start: int, stop: int) -> str:
    """Return the value of the Range header for ``[start, stop)`` (RFC 9110, section 14.1.2)."""
    return f"bytes={start}-{stop - 1}"


def parse_content_range(value: str) -> tuple[int, int, int | None] | None:
    """Return (start, stop, total size or None if unknown) of a Content-Range header value.

    Returns None if `value` is malformed (RFC 9110, section 14.4).
    """
    matched = _CONTENT_RANGE.fullmatch(value.strip())
    if matched is None:
        return None
    first, last, total = matched.groups()
    return int(first), int(last) + 1, None if total == "*" else int(total)
