"""Files to chunks: pure arithmetic and the two HTTP headers that carry it."""

from __future__ import annotations

import re
from dataclasses import dataclass

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

_MIB = 1 << 20
_ETAG_OF_PARTS = re.compile(r'"?[0-9a-f]{32}-(?P<count>\d{1,5})"?')
# Part sizes in MiB that uploaders use when nobody tells them another one, the usual ones first.
_USUAL_PARTS = (8, 5, 16, 64, 10, 15, 50, 32, 100, 25, 20, 128, 256, 512, 1024)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.IGNORECASE)


@dataclass(frozen=True)
class Chunk:
    """The half-open byte range ``[start, stop)`` of one file; `index` counts from 0."""

    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class PartLimits:
    """What a destination accepts as one piece. The last piece may be smaller than `minimum`."""

    minimum: int = 1
    maximum: int = 1 << 62
    count: int = 1 << 62


def fit_chunk_size(size: int, wanted: int, limits: list[PartLimits]) -> int:
    """Return the chunk size nearest to `wanted` that every one of `limits` accepts.

    It depends on nothing else than the arguments, so that an interrupted transfer is
    planned in the same way by the next process. A file that fits one maximum piece is
    never too large; grown sizes are rounded up to whole MiB.

    Raises:
        OptionsError: if no chunk size fits all limits for a file of `size` bytes.
    """
    largest = min((limit.maximum for limit in limits), default=max(wanted, size))
    needed = max((-(-size // limit.count) for limit in limits), default=0)
    chunk_size = max([min(wanted, largest), *(limit.minimum for limit in limits)])
    if needed > chunk_size:
        chunk_size = min(-(-needed // (1 << 20)) << 20, max(needed, largest))
    if min(chunk_size, size) > largest:
        raise OptionsError(f"a file of {size} bytes is too large for its destination")
    return chunk_size


def stored_part_size(size: int, etag: str) -> int | None:
    """Return the bytes per part in which S3 keeps an object, or None where they are unsure.

    The ETag of a multipart object tells the number of its parts, which leaves a range of
    part sizes; nearly all uploaders use whole MiB, and mostly the same few.
    """
    matched = _ETAG_OF_PARTS.fullmatch(etag)
    count = int(matched["count"]) if matched else 0
    if count < 2 or size < count:
        return None
    smallest = -(-size // count)
    largest = -(-size // (count - 1)) - 1
    low, high = -(-smallest // _MIB), largest // _MIB
    usual = [mib for mib in _USUAL_PARTS if low <= mib <= high]
    if usual:
        return usual[0] * _MIB
    return low * _MIB if low == high else None


def align_chunk_size(wanted: int, part_size: int | None) -> int:
    """Return a chunk size near `wanted` whose chunks cross no border between stored parts.

    Several whole parts, or an equal share of one; `wanted` itself where neither is near.
    """
    if part_size is None:
        return wanted
    if part_size <= wanted:
        return wanted // part_size * part_size
    shares = -(-part_size // wanted)
    # Whole pages, and not less than half of what was wanted.
    while shares * wanted <= 2 * part_size:
        if part_size % (shares * 4096) == 0:
            return part_size // shares
        shares += 1
    return wanted


def plan_chunks(size: int, chunk_size: int) -> list[Chunk]:
    """Cut ``[0, size)`` into chunks of `chunk_size` bytes, the last one what remains."""
    starts = range(0, size, chunk_size)
    return [
        Chunk(index, start, min(start + chunk_size, size)) for index, start in enumerate(starts)
    ]


def range_header(start: int, stop: int) -> str:
    """Return the Range header value for ``[start, stop)`` (RFC 9110, 14.1.2)."""
    return f"bytes={start}-{stop - 1}"


def parse_content_range(value: str) -> tuple[int, int, int | None] | None:
    """Return (start, stop, total or None) of a Content-Range value, or None if malformed."""
    matched = _CONTENT_RANGE.fullmatch(value.strip())
    if matched is None:
        return None
    first, last, total = matched.groups()
    return int(first), int(last) + 1, None if total == "*" else int(total)
