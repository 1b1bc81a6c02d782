"""`hftransfer._core.plan`: chunks, chunk sizes under limits, and range headers."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hftransfer._core.plan import (
    Chunk,
    PartLimits,
    align_chunk_size,
    fit_chunk_size,
    parse_content_range,
    plan_chunks,
    range_header,
    stored_part_size,
)
from hftransfer.errors import OptionsError

MIB = 1 << 20
S3 = PartLimits(minimum=5 * MIB, maximum=5 << 30, count=10_000)


@given(size=st.integers(0, 10_000), chunk_size=st.integers(1, 3_000))
def test_chunks_cover_the_file_exactly(size: int, chunk_size: int) -> None:
    """Without gap or overlap from 0 to the size, with indexes from 0."""
    chunks = plan_chunks(size, chunk_size)

    edges = [0, *(chunk.stop for chunk in chunks)]
    assert [chunk.start for chunk in chunks] == edges[:-1]
    assert edges[-1] == size
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk.size == chunk_size for chunk in chunks[:-1])
    assert all(0 < chunk.size <= chunk_size for chunk in chunks)


def test_an_empty_file_has_no_chunks() -> None:
    """It needs no request."""
    assert plan_chunks(0, 8 * MIB) == []


_limits = st.lists(
    st.builds(
        PartLimits,
        minimum=st.integers(1, 12),
        maximum=st.integers(1, 40),
        count=st.integers(1, 8),
    ),
    max_size=3,
)


def _accepted(size: int, chunk_size: int, limits: list[PartLimits]) -> bool:
    chunks = plan_chunks(size, chunk_size)
    return all(
        len(chunks) <= limit.count
        and all(chunk.size <= limit.maximum for chunk in chunks)
        and all(chunk.size >= limit.minimum for chunk in chunks[:-1])
        for limit in limits
    )


@given(size=st.integers(0, 100), preferred=st.integers(1, 60), limits=_limits)
@example(size=30, preferred=20, limits=[PartLimits(maximum=10)])
@example(size=16, preferred=1, limits=[PartLimits(maximum=10, count=2)])
def test_the_chunk_size_satisfies_all_limits_if_one_can(
    size: int, preferred: int, limits: list[PartLimits]
) -> None:
    """A chunk size is found exactly if an exhaustive search finds one."""
    possible = [n for n in range(1, 101) if _accepted(size, n, limits)]

    if not possible:
        with pytest.raises(OptionsError, match="too large"):
            fit_chunk_size(size, preferred, limits)
        return
    chunk_size = fit_chunk_size(size, preferred, limits)
    assert _accepted(size, chunk_size, limits)
    assert chunk_size == fit_chunk_size(size, preferred, list(reversed(limits)))


@given(size=st.integers(0, 5 * 10**13), preferred=st.integers(64 * 1024, 5 << 30))
def test_s3_limits_hold_for_every_object_size(size: int, preferred: int) -> None:
    """Up to 48.8 TiB (10,000 parts of 5 GiB). A size raised for the part count is whole MiB."""
    chunk_size = fit_chunk_size(size, preferred, [S3])

    assert S3.minimum <= chunk_size <= S3.maximum
    assert -(-size // chunk_size) <= S3.count
    raised_for_count = chunk_size > max(preferred, S3.minimum)
    assert not raised_for_count or chunk_size % MIB == 0


@given(preferred=st.integers(1, 1 << 33), size=st.integers(0, 1 << 50))
def test_without_limits_the_preferred_size_is_used(preferred: int, size: int) -> None:
    """Only a limit changes the chunk size."""
    assert fit_chunk_size(size, preferred, []) == preferred
    assert fit_chunk_size(size, preferred, [PartLimits()]) == preferred


def test_a_file_that_is_too_large_is_rejected() -> None:
    """The message contains its size."""
    size = 10_000 * (5 << 30) + 1

    with pytest.raises(OptionsError, match=str(size)):
        fit_chunk_size(size, 8 * MIB, [S3])


_sizes = st.integers(1, 1 << 50)


@given(start=st.integers(0, 1 << 50), size=_sizes, after=st.one_of(st.none(), st.integers(0, 99)))
def test_content_range_round_trip(start: int, size: int, after: int | None) -> None:
    """The response to a range header is parsed as the same range."""
    chunk = Chunk(0, start, start + size)
    total = None if after is None else chunk.stop + after
    header = range_header(chunk.start, chunk.stop)
    unit, _, positions = header.partition("=")

    parsed = parse_content_range(f"{unit} {positions}/{'*' if total is None else total}")

    assert header == f"bytes={start}-{start + size - 1}"
    assert parsed == (chunk.start, chunk.stop, total)


@pytest.mark.parametrize(
    "value",
    ["", "bytes", "bytes */10", "bytes 0-9", "bytes=0-9/10", "items 0-9/10", "bytes 0-9/10x"],
)
def test_malformed_content_range_is_none(value: str) -> None:
    """Only a satisfied byte range is parsed."""
    assert parse_content_range(value) is None


# --- parts of stored objects


@given(
    mib=st.sampled_from([5, 8, 16, 64]),
    count=st.integers(9, 10_000),
    missing=st.integers(0, 5 * MIB - 1),
)
def test_common_part_sizes_are_recognised(mib: int, count: int, missing: int) -> None:
    """With enough parts only one common size is possible, whatever the size of the last part."""
    size = mib * MIB * count - missing
    found = stored_part_size(size, f'"{"0" * 32}-{count}"')

    assert found is not None
    assert len(plan_chunks(size, found)) == count
    if size / (count - 1) - size / count < MIB:
        assert found == mib * MIB


@pytest.mark.parametrize("etag", ["", '"abc"', f'"{"0" * 32}"', f'"{"0" * 32}-1"', f"{'g' * 32}-3"])
def test_the_part_size_is_unknown_without_a_multipart_etag(etag: str) -> None:
    """The ETag has another form, or the object has fewer than two parts."""
    assert stored_part_size(100 * MIB, etag) is None


def test_an_uncommon_part_size_is_not_guessed() -> None:
    """If no whole number of MiB fits the number of parts, the part size is unknown."""
    assert stored_part_size(9_000_000, f"{'0' * 32}-10") is None


@given(
    wanted=st.integers(64 * 1024, 64 * MIB),
    part=st.none() | st.integers(1, 512).map(lambda mib: mib * MIB),
)
def test_aligned_chunks_do_not_cross_part_borders(wanted: int, part: int | None) -> None:
    """A chunk is several parts or a fraction of one, or the size is unchanged."""
    size = align_chunk_size(wanted, part)

    assert wanted / 2 <= size <= wanted
    if part is not None and size != wanted:
        assert part % size == 0 or size % part == 0
