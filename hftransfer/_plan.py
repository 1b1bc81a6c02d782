"""Files to chunks: pure arithmetic and the two HTTP headers that carry it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hftransfer.errors import OptionsError

__all__ = (
    "Chunk",
    "PartLimits",
    "fit_chunk_size",
    "parse_content_range",
    "plan_chunks",
    "range_header",
)

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
